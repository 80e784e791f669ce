"""Eight normal blobs on a circle with a label each, teachers of them, and how good samples are.

Labels are wrong now and then, as captions are. A teacher learns that, so without guidance a sample has the mode of its label only as often as the data do, and
guidance is what makes it obey. A partial teacher learns from points of which one coordinate follows the label and the other belongs to any mode.

Every draw is a function of (seed, stream, step), so that all arms of a comparison see the same points, noise and noise levels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ernie_core.api import Config, Fraction, Positive, PositiveInt
from ernie_core.flow.losses import mse
from ernie_core.flow.path import interpolate, velocity_target
from ernie_core.plane.velocity import PlaneVelocity, seeded_velocity
from ernie_core.rng import Rng
from ernie_core.sampling.samplers import VelocityFn

MODES = 8
RING = 2.0  # the modes' distance from the origin; neighbours are 1.53 apart
STD = 0.2
NEAR = 3 * STD  # a point within this distance of a mode belongs to it; 98.9 % of the true blob does
DIRECTIONS = 32  # of the sliced distance

Right = Literal["both", "x", "y", "either"]


class TeacherConfig(Config):
    """How teachers are trained."""

    steps: PositiveInt = 4000
    expert_steps: PositiveInt = 1500
    """Further steps of a partial teacher on its own half, from a network that has learned both halves."""
    learning_rate: Positive = 2e-3
    batch: PositiveInt = 256
    width: PositiveInt = 64
    label_noise: Fraction = 0.3
    """Share of points that have any mode, whatever their label."""
    label_dropout: Fraction = 0.15
    """Share of labels that are left out in training."""


@dataclass(frozen=True)
class Points:
    x_B2: Tensor
    label_B: Tensor


def modes() -> Tensor:
    """Centres [8, 2], by label; none lies on an axis, and every coordinate belongs to two of them."""
    angle_M = (torch.arange(MODES) + 0.5) * (2 * math.pi / MODES)
    return RING * torch.stack([angle_M.cos(), angle_M.sin()], 1)


def draw_points(draw: np.random.Generator, count: int, *, label_noise: float = 0.0, right: Right = "both") -> Points:
    """Points with labels.

    Args:
        right: which coordinates follow the label; the other one, by itself, follows any mode. "either": x of every other point, y of the rest.
    """
    label_B, any_B, other_B = (torch.from_numpy(draw.integers(MODES, size=count)) for _ in range(3))
    wrong_B = torch.from_numpy(draw.random(count)) < label_noise
    mode_B = torch.where(wrong_B, any_B, label_B)
    chosen_B2 = torch.stack([mode_B, mode_B], 1)
    if right != "both":
        by_x_B = (torch.arange(count) % 2 == 0) if right == "either" else torch.full((count,), right == "x")
        chosen_B2 = torch.where(torch.stack([by_x_B, ~by_x_B], 1), chosen_B2, other_B[:, None])
    return Points(modes().gather(0, chosen_B2) + STD * normal(draw, count), label_B)


def normal(draw: np.random.Generator, count: int) -> Tensor:
    return torch.from_numpy(draw.standard_normal((count, 2), dtype="float32"))


def uniform(draw: np.random.Generator, count: int) -> Tensor:
    return torch.from_numpy(draw.random(count, dtype="float32"))


def train_teacher(seed: int, config: TeacherConfig, *, right: Right = "both", start: PlaneVelocity | None = None) -> PlaneVelocity:
    """A flow model by Adam, with a learning rate that falls to 0 along a cosine; from ``start`` if given, which stays as it is."""
    network = seeded_velocity(seed, width=config.width, labels=MODES)
    if start is not None:
        network.load_state_dict(start.state_dict())
    steps = config.steps if start is None else config.expert_steps
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        draw = Rng(seed).at(f"distill-plane/teacher-{right}", step).generator(0)
        points = draw_points(draw, config.batch, label_noise=config.label_noise, right=right)
        label_B = torch.where(uniform(draw, config.batch) < config.label_dropout, network.no_label, points.label_B)
        noise_B2, sigma_B = normal(draw, config.batch), uniform(draw, config.batch)
        velocity = network(interpolate(points.x_B2, noise_B2, sigma_B), sigma_B, label_B)
        optimizer.zero_grad()
        mse(velocity, velocity_target(points.x_B2, noise_B2), sigma_B).mean().backward()
        optimizer.step()
        schedule.step()
    return network.requires_grad_(False)


def mean_of_weights(networks: Sequence[PlaneVelocity]) -> PlaneVelocity:
    """One network with the mean of several networks' weights."""
    merged = copy.deepcopy(networks[0])
    states = [network.state_dict() for network in networks]
    merged.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    return merged.requires_grad_(False)


def labelled_velocity(network: PlaneVelocity, label_B: Tensor) -> VelocityFn:
    """What a sampler integrates: the network with these labels, without guidance."""
    return lambda x_B2, sigma: network(x_B2, torch.full((len(x_B2),), sigma), label_B)


def start_noise(seed: int, count: int) -> Tensor:
    """[count, 2]; the same for every network."""
    return normal(Rng(seed).at("distill-plane/sample", 0).generator(0), count)


@dataclass(frozen=True)
class Quality:
    """Of samples with labels, the true points being without wrong labels.

    Attributes:
        accuracy: share whose nearest mode is their label's.
        on_manifold: share within ``NEAR`` of a mode.
        to_data, to_teacher: sliced Wasserstein-1 distance, the mean over labels.
        spread: deviation of the samples that have their label's mode, over the true one; nan without such samples.
        reach: mean distance from the origin over the true one.
    """

    accuracy: float
    on_manifold: float
    to_data: float
    to_teacher: float
    spread: float
    reach: float


def judge(x_B2: Tensor, label_B: Tensor, *, data_B2: Tensor, teacher_B2: Tensor) -> Quality:
    """``data_B2`` and ``teacher_B2``: points of the same labels, in the same order."""
    distance_BM = torch.cdist(x_B2, modes())
    nearest_B = distance_BM.argmin(1)
    close_B = distance_BM.min(1).values <= NEAR
    deviations = []
    for label in range(MODES):
        if int((own_B := (nearest_B == label) & (label_B == label) & close_B).sum()) > 1:
            deviations.append(x_B2[own_B].var(0).mean())
    return Quality(
        accuracy=float((nearest_B == label_B).double().mean()),
        on_manifold=float(close_B.double().mean()),
        to_data=sliced_distance(x_B2, data_B2, label_B),
        to_teacher=sliced_distance(x_B2, teacher_B2, label_B),
        spread=float(torch.stack(deviations).mean().sqrt() / STD) if deviations else math.nan,
        reach=float(x_B2.norm(dim=1).mean() / data_B2.norm(dim=1).mean()),
    )


def sliced_distance(first_B2: Tensor, second_B2: Tensor, label_B: Tensor) -> float:
    """Mean over labels and 32 directions of the Wasserstein-1 distance along a direction (Rabin et al. 2012)."""
    angle_D = torch.arange(DIRECTIONS) * (math.pi / DIRECTIONS)
    along_2D = torch.stack([angle_D.cos(), angle_D.sin()])
    found = []
    for label in label_B.unique():
        of_B = label_B == label
        first, second = (points[of_B] @ along_2D for points in (first_B2, second_B2))
        found.append((first.sort(0).values - second.sort(0).values).abs().mean())
    return float(torch.stack(found).mean())
