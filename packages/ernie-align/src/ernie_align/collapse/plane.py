"""A flow model of two numbers: two normal blobs A (to be preferred) and B, a multilayer perceptron as velocity, Euler's method as sampler.

Every draw is a function of (seed, stream, step), so that all arms of a comparison see the same pairs, noise and times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ernie_core.flow.losses import PairError, mse
from ernie_core.flow.path import interpolate, velocity_target
from ernie_core.plane.velocity import PlaneVelocity, seeded_velocity
from ernie_core.rng import Rng

MODE_A = (2.0, 0.0)
MODE_B = (-2.0, 0.0)
STD = 0.3
RADIUS = 1.0  # a point within this distance of a mode belongs to it; 99.6 % of the true blob does
ELEMENTS = 2
EULER_STEPS = 50


Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PlanePairs:
    """Pairs that share noise and time. ``win_B2`` is drawn from mode A, ``lose_B2`` from B."""

    win_B2: Tensor
    lose_B2: Tensor
    noise_B2: Tensor
    sigma_B: Tensor

    def errors(self, velocity: Velocity) -> PairError:
        """Mean squared velocity errors of both sides, from one call."""
        sigma_P = torch.cat([self.sigma_B, self.sigma_B])
        noise_P2 = torch.cat([self.noise_B2, self.noise_B2])
        x0_P2 = torch.cat([self.win_B2, self.lose_B2])
        error_P = mse(velocity(interpolate(x0_P2, noise_P2, sigma_P), sigma_P), velocity_target(x0_P2, noise_P2), sigma_P)
        win_B, lose_B = error_P.chunk(2)
        return PairError(win_B, lose_B, ELEMENTS)


def draw_pairs(seed: int, stream: str, step: int, count: int) -> PlanePairs:
    draw = Rng(seed).at(f"collapse/{stream}", step).generator(0)

    def normal() -> Tensor:
        return torch.from_numpy(draw.standard_normal((count, 2), dtype="float32"))

    sigma_B = torch.from_numpy(draw.random(count, dtype="float32"))
    return PlanePairs(torch.tensor(MODE_A) + STD * normal(), torch.tensor(MODE_B) + STD * normal(), normal(), sigma_B)


def pretrain(seed: int, *, steps: int, batch: int, learning_rate: float, width: int = 128) -> PlaneVelocity:
    """A flow model of both modes in equal parts, by Adam with a learning rate that falls to 0 along a cosine."""
    network = seeded_velocity(seed, width=width)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        errors = draw_pairs(seed, "pretrain", step, batch // 2).errors(network)
        optimizer.zero_grad()
        torch.cat([errors.win_B, errors.lose_B]).mean().backward()
        optimizer.step()
        schedule.step()
    return network


@torch.no_grad()
def sample(network: PlaneVelocity, seed: int, count: int) -> Tensor:
    """[count, 2]; the same noise for every network."""
    draw = Rng(seed).at("collapse/sample", 0).generator(0)
    x_B2 = torch.from_numpy(draw.standard_normal((count, 2), dtype="float32"))
    for high, low in pairwise(torch.linspace(1, 0, EULER_STEPS + 1).tolist()):
        x_B2 = x_B2 + (low - high) * network(x_B2, torch.full((count,), high))
    return x_B2


def shares(points_B2: Tensor) -> tuple[float, float]:
    """Shares of the points that belong to A and to B; the rest lies off the manifold, points that are not finite included."""
    a, b = (float(((points_B2 - torch.tensor(mode)).norm(dim=1) <= RADIUS).double().mean()) for mode in (MODE_A, MODE_B))
    return a, b
