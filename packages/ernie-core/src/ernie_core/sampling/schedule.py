"""The noise levels a sampler visits: one list, made in one place, for inference, grids and distillation alike.

The released pipeline hands its scheduler ``linspace(1, 0, n + 1)`` without the last value; the scheduler shifts each level and appends 0.
(The scheduler's own linspace would end at another level: .0089 instead of .3 for 8 steps at shift 3.)
"""

from __future__ import annotations

import torch

from ernie_core.errors import ConfigError
from ernie_core.flow.times import shift_sigma


def inference_sigmas(steps: int, shift: float) -> tuple[float, ...]:
    """``steps + 1`` falling noise levels from 1 to 0.

    Values are float32 numbers: computed in float32 as diffusers does, so that both use the very same step sizes.

    Args:
        steps: number of intervals, >= 1.
        shift: k of ``shift_sigma``, > 0; read it from the checkpoint's scheduler, never assume it.
    """
    if steps < 1:
        raise ConfigError(f"steps = {steps}: expected at least 1")
    if not shift > 0:
        raise ConfigError(f"shift = {shift}: expected more than 0")
    levels = shift_sigma(torch.linspace(1.0, 0.0, steps + 1)[:-1], shift)
    return (*levels.tolist(), 0.0)
