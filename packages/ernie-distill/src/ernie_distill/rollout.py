"""How the student comes to the noise level that it is trained at: by the sampler that users will draw pictures with, over the very same noise levels.

A few-step student is no flow model: its clean samples have the data's whole variance at every step, so that what one sampler makes of it another does not. A
student trained on re-noised states and sampled by Euler ends over-dispersed (1.76 times the deviation for a Gaussian, 8 steps, shift 3), the other way round
under-dispersed (.52 times).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ernie_core.sampling.samplers import euler
from ernie_core.sampling.schedule import inference_sigmas
from ernie_distill.samplers import renoise

VelocityFn = Callable[[Tensor, float], Tensor]
NoiseFn = Callable[[int], Tensor]


@dataclass(frozen=True)
class Trajectory:
    """All steps of one rollout. ``states[i]`` is what the student meets at ``sigmas[i]``, ``samples[i]`` (float32) what it then takes for the clean latent;
    each [B, C, h, w]. The last of ``samples`` is what the sampler returns."""

    states: tuple[Tensor, ...]
    samples: tuple[Tensor, ...]


@dataclass(frozen=True)
class Rollout:
    """
    Args:
        steps: of the deployed sampler.
        shift: of its noise levels; ``MethodContext.shift``.
        kind: the deployed sampler.
    """

    steps: int
    shift: float
    kind: Literal["euler", "renoise"] = "euler"

    @property
    def sigmas(self) -> tuple[float, ...]:
        """``steps + 1`` falling noise levels: the list that the pipeline samples with."""
        return inference_sigmas(self.steps, self.shift)

    @torch.no_grad()
    def state(self, velocity_fn: VelocityFn, noise_BCHW: Tensor, step: int, *, noise_fn: NoiseFn | None = None) -> Tensor:
        """What the student meets at ``sigmas[step]``: the noise itself at step 0.

        Args:
            noise_BCHW: start noise in the type of the deployed sampler's state.
            noise_fn: ``noise_fn(i)``: fresh noise after interval i; only ``renoise`` asks for it.
        """
        if not step:
            return noise_BCHW
        return self._sampler(velocity_fn, noise_BCHW, self.sigmas[: step + 1], noise_fn=noise_fn)

    @torch.no_grad()
    def trajectory(self, velocity_fn: VelocityFn, noise_BCHW: Tensor, *, noise_fn: NoiseFn | None = None) -> Trajectory:
        """All of it, for one call of the student per step."""
        states, samples = [], []

        def seen(x_BCHW: Tensor, sigma: float) -> Tensor:
            velocity = velocity_fn(x_BCHW, sigma)
            states.append(x_BCHW)
            samples.append(clean(x_BCHW, velocity, sigma))
            return velocity

        self._sampler(seen, noise_BCHW, self.sigmas, noise_fn=noise_fn)
        return Trajectory(tuple(states), tuple(samples))

    @property
    def _sampler(self) -> Callable[..., Tensor]:
        return euler if self.kind == "euler" else renoise


def clean(x_BCHW: Tensor, velocity_BCHW: Tensor, sigma: float) -> Tensor:
    """``x0 = x - sigma v`` in float32. Gradients flow."""
    return x_BCHW.float() - sigma * velocity_BCHW.float()
