"""Exponential moving average of weights, in float32 (a bfloat16 average would freeze once 1 - decay < 2**-9)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ernie_core.train.method import EmaConfig, Network


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


class Follower(Ema):
    """The average that a following network consists of: at a constant decay, and computed with in the network's own type."""

    def __init__(self, network: Network, config: EmaConfig, masters: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__(config, masters)
        self.leader, self._module = network.follows, network.module

    @torch.no_grad()
    def update(self, masters: Iterable[tuple[str, Tensor]]) -> None:
        """``average = decay * average + (1 - decay) * weight``."""
        self.updates += 1
        torch._foreach_lerp_(list(self.values.values()), [master for _, master in masters], 1.0 - self.config.decay)
        self.take_effect()

    @torch.no_grad()
    def take_effect(self) -> None:
        """Give the network the average's values."""
        for name, value in self.values.items():
            self._module.get_parameter(name).copy_(value)


def decay_at(config: EmaConfig, update: int) -> float:
    """The decay of the ``update``-th update, counted from 1."""
    return min(config.decay, 1.0 - (1.0 + update) ** (-2.0 / 3.0))
