r"""Samplers: from noise to a latent by integrating ``dx / d sigma = v(x, sigma)`` along falling noise levels.

All share one form, know no model, and keep the state in the dtype of ``x``:

    sampler(velocity_fn, x, sigmas, *, noise_fn=None, on_step=None) -> x

* ``velocity_fn(x, sigma) -> v``, guidance included.
* ``sigmas``: falling noise levels, the last usually 0 (``sampling.schedule.inference_sigmas``).
* ``noise_fn(index) -> standard normal like x``, at least float32: for stochastic samplers; those here are deterministic and ignore it.
* ``on_step(index, sigma, x)``: called after each interval with the level just reached; what it returns is ignored.

A bfloat16 ``x`` is rounded after each interval, as the released pipeline rounds it; a float32 ``x`` keeps the state exact even if the model runs in
bfloat16. The rounding costs an rms of 4.8e-3 (8 steps) to 1.45e-2 (50 steps) of the latent's scale.

``sigma = 0`` is never evaluated: training densities put no weight there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ernie_core.plugins.hookspecs import PureContext
from ernie_core.sampling.entries import Ab2Config, EulerConfig, HeunConfig

VelocityFn = Callable[[Tensor, float], Tensor]
NoiseFn = Callable[[int], Tensor]
OnStep = Callable[[int, float, Tensor], None]
Sampler = Callable[..., Tensor]


def euler(
    velocity_fn: VelocityFn, x: Tensor, sigmas: Sequence[float], *, noise_fn: NoiseFn | None = None, on_step: OnStep | None = None
) -> Tensor:
    """First order, one velocity per interval: ``x' = x + (s' - s) v``. Gives the numbers of diffusers' FlowMatchEulerDiscreteScheduler."""
    for index, (sigma, step) in enumerate(_intervals(sigmas, x)):
        x = _advance(x, step, velocity_fn(x, sigma))
        _report(on_step, index, sigmas, x)
    return x


def heun(
    velocity_fn: VelocityFn, x: Tensor, sigmas: Sequence[float], *, noise_fn: NoiseFn | None = None, on_step: OnStep | None = None
) -> Tensor:
    """Second order, two velocities per interval: the mean of the velocities at its ends (Karras et al. 2022, algorithm 1, without churn).

    An interval that ends at 0 uses the velocity at its middle instead (the midpoint rule, also second order).
    """
    for index, (sigma, step) in enumerate(_intervals(sigmas, x)):
        after = sigmas[index + 1]
        v = velocity_fn(x, sigma)
        if after > 0:
            v = (v + velocity_fn(_advance(x, step, v), after)) / 2
        else:
            v = velocity_fn(_advance(x, step / 2, v), (sigma + after) / 2)
        x = _advance(x, step, v)
        _report(on_step, index, sigmas, x)
    return x


def ab2(
    velocity_fn: VelocityFn, x: Tensor, sigmas: Sequence[float], *, noise_fn: NoiseFn | None = None, on_step: OnStep | None = None
) -> Tensor:
    r"""Second order, one velocity per interval: the two-step Adams-Bashforth method with unequal intervals, after one Euler interval.

        x' = x + h [ (1 + r / 2) v - (r / 2) v_before ],     r = h / h_before

    Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section III.5.
    """
    v_before, step_before = None, None
    for index, (sigma, step) in enumerate(_intervals(sigmas, x)):
        v = velocity_fn(x, sigma)
        if v_before is None:
            x = _advance(x, step, v)
        else:
            half_ratio = step / step_before / 2
            x = _advance(x, step, (1 + half_ratio) * v - half_ratio * v_before)
        v_before, step_before = v, step
        _report(on_step, index, sigmas, x)
    return x


def build_euler(config: EulerConfig, context: PureContext) -> Sampler:
    return euler


def build_heun(config: HeunConfig, context: PureContext) -> Sampler:
    return heun


def build_ab2(config: Ab2Config, context: PureContext) -> Sampler:
    return ab2


def _intervals(sigmas: Sequence[float], x: Tensor) -> list[tuple[float, Tensor]]:
    """Each interval's first level, and its signed width as a 0-dim float32 tensor, as diffusers has it: times a bfloat16 velocity it gives bfloat16."""
    levels = torch.tensor(sigmas, dtype=_working_dtype(x), device=x.device)
    return list(zip(sigmas[:-1], (levels[1:] - levels[:-1]).unbind()))


def _advance(x: Tensor, step: Tensor, v: Tensor) -> Tensor:
    """``x + step v``: added in float32 and rounded to the state's dtype. In compat mode (state and velocity alike) the product keeps their dtype."""
    working = _working_dtype(x)
    product = step * (v if v.dtype == x.dtype else v.to(working))
    return (x.to(working) + product).to(x.dtype)


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _report(on_step: OnStep | None, index: int, sigmas: Sequence[float], x: Tensor) -> None:
    if on_step is not None:
        on_step(index, sigmas[index + 1], x)
