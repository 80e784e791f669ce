r"""Sampling by re-noising: each step goes to its clean sample and back up to the next noise level with fresh noise.

    x0 = x - s v(x, s)          x' = (1 - s') x0 + s' noise

The multistep sampler of consistency models (Song et al. 2023, arXiv 2303.01469, algorithm 1), and of DMD2's students (Yin et al. 2024, arXiv 2405.14867).

For the exact velocity it is no integrator: x0 is then a mean, too narrow. For a student whose every step returns whole samples it is exact, and Euler's method
is not: a student trained by one and sampled by the other is over- or under-dispersed (Gaussian data, 8 steps at shift 3: 1.76 and 0.52 times the deviation).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ernie_core.api import PureContext
from ernie_core.sampling.samplers import NoiseFn, OnStep, Sampler, VelocityFn
from ernie_distill.sampler_config import RenoiseSamplerConfig


def renoise(
    velocity_fn: VelocityFn, x: Tensor, sigmas: Sequence[float], *, noise_fn: NoiseFn | None = None, on_step: OnStep | None = None
) -> Tensor:
    """A sampler as ``ernie_core.sampling.samplers`` describes them. Computes in float32 at least and keeps the state in the dtype of ``x``.

    ``noise_fn`` is asked once per interval that ends above 0.

    Raises:
        ValueError: no ``noise_fn``, and more than one interval.
    """
    if noise_fn is None and any(after > 0 for after in sigmas[1:]):
        raise ValueError(
            "sampler renoise draws fresh noise at every step and was given none: pass noise_fn (ernie_core.sampling.pictures.fresh_noise makes one)"
        )
    working = torch.promote_types(x.dtype, torch.float32)
    for index, (sigma, after) in enumerate(pairwise(sigmas)):
        x0 = x.to(working) - sigma * velocity_fn(x, sigma).to(working)
        if after > 0 and noise_fn is not None:
            x0 = (1 - after) * x0 + after * noise_fn(index).to(x0)
        x = x0.to(x.dtype)
        if on_step is not None:
            on_step(index, after, x)
    return x


def build_renoise(config: RenoiseSamplerConfig, context: PureContext) -> Sampler:
    return renoise
