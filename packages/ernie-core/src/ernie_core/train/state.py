"""What the trainer itself must remember between steps; all of it goes into a checkpoint's ``state.json``."""

from __future__ import annotations

from ernie_core.config.base import Config

NORM_MEMORY = 0.98  # of the running mean of gradient norms that defines a spike; about the last 50 applied steps


class TrainState(Config):
    """``step`` optimiser steps are done, applied or refused. Frozen: a step that is abandoned midway leaves no trace."""

    step: int = 0
    refused: int = 0
    refused_in_a_row: int = 0
    rollbacks: int = 0
    rollback_step: int = -1
    """The newest checkpoint that was due by ``checkpoint.every_steps``: what a rollback returns to. Those written for a signal or at an error do not
    count, so that a run that was stopped and resumed rolls back to where the one that was not does. -1: none yet."""
    mean_grad_norm: dict[str, float] = {}


def remember_norms(before: dict[str, float], norms: dict[str, float]) -> dict[str, float]:
    """Running means of gradient norms by network, updated by an applied step."""
    updated = {name: NORM_MEMORY * before[name] + (1 - NORM_MEMORY) * norm if name in before else norm for name, norm in norms.items()}
    return {**before, **updated}
