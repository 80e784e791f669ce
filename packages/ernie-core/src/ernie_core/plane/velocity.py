"""A multilayer perceptron as velocity in the plane, with or without labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot


class PlaneVelocity(nn.Module):
    """v(x_B2, sigma_B) -> [B, 2], or v(x_B2, sigma_B, label_B) with ``labels`` above 0; three hidden layers.

    Args:
        labels: how many a sample may have, its absence not counted: that is one more, ``no_label``, as the empty prompt is one more prompt.
    """

    def __init__(self, width: int = 128, labels: int = 0) -> None:
        super().__init__()
        self.labels = labels
        self.layers = nn.Sequential(
            nn.Linear(3 + (labels + 1 if labels else 0), width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )

    @property
    def no_label(self) -> int:
        return self.labels

    def forward(self, x_B2: Tensor, sigma_B: Tensor, label_B: Tensor | None = None) -> Tensor:
        parts = [x_B2, sigma_B[:, None]]
        if label_B is not None:
            parts.append(one_hot(label_B, self.labels + 1).to(x_B2))
        return self.layers(torch.cat(parts, 1))


def seeded_velocity(seed: int, *, width: int = 128, labels: int = 0) -> PlaneVelocity:
    """The network that a seed starts with; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PlaneVelocity(width, labels)
