"""Exponential moving average of weights, in float32 (a bfloat16 average would freeze once 1 - decay < 2**-9)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ernie_core.train.method import EmaConfig


class Ema:
    """The average of one network's masters. ``updates`` counts applied updates and is part of a checkpoint."""

    def __init__(self, config: EmaConfig, masters: Iterable[tuple[str, Tensor]]) -> None:
        self.config = config
        self.values = {name: master.detach().clone() for name, master in masters}
        self.updates = 0

    @torch.no_grad()
    def update(self, masters: Iterable[tuple[str, Tensor]]) -> None:
        """``average = d * average + (1 - d) * weight`` with ``d = min(decay, 1 - (1 + n) ** -(2 / 3))`` at update n = 1, 2, ..."""
        self.updates += 1
        current = [master for _, master in masters]
        torch._foreach_lerp_(list(self.values.values()), current, 1.0 - decay_at(self.config, self.updates))


def decay_at(config: EmaConfig, update: int) -> float:
    """The decay of the ``update``-th update, counted from 1."""
    return min(config.decay, 1.0 - (1.0 + update) ** (-2.0 / 3.0))
