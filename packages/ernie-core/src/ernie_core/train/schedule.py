"""The factor on all learning rates as a pure function of the step."""

from __future__ import annotations

import math

from ernie_core.config.run import ScheduleTable


def learning_rate_factor(schedule: ScheduleTable, step: int, *, decay_steps: int) -> float:
    """Linear warm-up over ``warmup_steps``, then constant, linear or half-cosine decay to ``final_factor`` at ``decay_steps``.

    ``step`` counts optimiser steps from 0: the first warm-up step already learns, at 1 / warmup_steps.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.kind == "constant":
        return 1.0
    progress = min(1.0, (step - schedule.warmup_steps) / max(1, decay_steps - schedule.warmup_steps))
    remaining = 1.0 - progress if schedule.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return schedule.final_factor + (1.0 - schedule.final_factor) * remaining
