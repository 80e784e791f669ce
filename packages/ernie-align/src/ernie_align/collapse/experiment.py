"""Which preference losses collapse in the plane, at which strength, and what fine-tuning alone does at equal steps.

An arm is a loss; all arms of a seed start from one pre-trained network, see the same pairs, noise and times, and take the same number of optimiser steps.
Two controls isolate the preference: fine-tuning on the chosen points alone, and fine-tuning on both sides at .375 : .125, which are the coefficients of the
anchored loss with mean errors at its first step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ernie_align.collapse.plane import draw_pairs, pretrain, sample, shares
from ernie_align.loss_config import AnchoredDpoConfig
from ernie_align.losses import loser_coefficient, margin, stopping_margin
from ernie_align.preference import AnchoredDpo
from ernie_core.api import Config, PositiveInt
from ernie_core.flow.losses import PairError, PairLoss
from ernie_core.plane.velocity import PlaneVelocity

SUM_AT_1024 = 0.05 * 128 * 64 * 64
"""beta_eff of the report's beta on sums, 26,214.4 at 1024 x 1024 pixels."""


class CollapseConfig(Config):
    """Sizes of the experiment; the defaults are the published table's."""

    strengths: tuple[float, ...] = (0.05, 1.0, 20.0, SUM_AT_1024)
    """beta_eff of the preference arms."""
    marks: tuple[PositiveInt, ...] = (100, 300, 600)
    """Steps at which an arm is measured; the last ends it."""
    pretrain_steps: PositiveInt = 3000
    pretrain_learning_rate: float = 2e-3
    learning_rate: float = 3e-4
    batch: PositiveInt = 256
    held_out: PositiveInt = 4096
    samples: PositiveInt = 4000


@dataclass(frozen=True)
class Arm:
    """``beta_eff``: in units of mean errors; 0 for fine-tuning, which has no preference."""

    name: str
    kind: str  # "plain", "anchored" or "control"
    beta_eff: float
    loss: PairLoss
    anchor_lose: float = 0.0

    @property
    def stopping_margin(self) -> float | None:
        """M* in mean errors: infinite where the repulsion never ends, None where there is none."""
        return stopping_margin(self.beta_eff, self.anchor_lose) if self.beta_eff else None


@dataclass(frozen=True)
class Measure:
    """One arm of one seed after ``step`` steps. Errors are means over held-out pairs, ratios those to the reference's.

    Attributes:
        a, b, on_manifold: shares of samples near the preferred mode, near the other, and near either.
        accuracy: share of held-out pairs with a margin above 0.
        margin: its mean over held-out pairs, in mean errors.
        loser_coefficient: mean dloss/dl_lose; negative where the rejected side is repelled.
    """

    seed: int
    arm: str
    kind: str
    beta_eff: float
    step: int
    win_ratio: float
    lose_ratio: float
    a: float
    b: float
    on_manifold: float
    accuracy: float
    margin: float
    loser_coefficient: float


def arms(strengths: Sequence[float]) -> list[Arm]:
    """Plain and anchored preference at each strength, then the controls."""
    found = []
    for anchored in (False, True):
        for strength in strengths:
            win, lose = (0.35, 0.15) if anchored else (0.0, 0.0)
            loss = AnchoredDpo(
                AnchoredDpoConfig(beta=strength, dpo_reduction="mean", anchor_reduction="mean", anchor_win=win, anchor_lose=lose)
            )
            kind = "anchored" if anchored else "plain"
            found.append(Arm(f"{kind} {strength:g}", kind, strength, loss, lose))
    found.append(Arm("SFT winner only", "control", 0.0, _fine_tuning(1.0, 0.0)))
    found.append(Arm("SFT .375 : .125", "control", 0.0, _fine_tuning(0.375, 0.125), 0.125))
    return found


def run_seed(seed: int, config: CollapseConfig, chosen: Sequence[Arm] | None = None) -> tuple[list[Measure], dict[tuple[str, int], Tensor]]:
    """All arms of one seed.

    Returns:
        the measures, the reference's own first (arm "reference", step 0), and the samples by (arm, step).
    """
    reference = pretrain(seed, steps=config.pretrain_steps, batch=config.batch, learning_rate=config.pretrain_learning_rate)
    reference.requires_grad_(False)
    start = Arm("reference", "reference", 0.0, _fine_tuning(1.0, 0.0))
    measures, points = [], {}
    for arm in (start, *(arms(config.strengths) if chosen is None else chosen)):
        for step, policy in [(0, reference)] if arm is start else _train(reference, arm, seed, config):
            points[arm.name, step] = sample(policy, seed, config.samples)
            measures.append(_measure(policy, reference, arm, seed, step, points[arm.name, step], config))
    return measures, points


def _train(reference: PlaneVelocity, arm: Arm, seed: int, config: CollapseConfig) -> Iterator[tuple[int, PlaneVelocity]]:
    """The policy after each of the config's marks."""
    policy = copy.deepcopy(reference).requires_grad_(True)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    for step in range(max(config.marks)):
        pairs = draw_pairs(seed, "train", step, config.batch)
        with torch.no_grad():
            reference_errors = pairs.errors(reference)
        loss = arm.loss(pairs.errors(policy), reference_errors).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 in config.marks:
            yield step + 1, policy


@torch.no_grad()
def _measure(
    policy: PlaneVelocity, reference: PlaneVelocity, arm: Arm, seed: int, step: int, drawn_B2: Tensor, config: CollapseConfig
) -> Measure:
    pairs = draw_pairs(seed, "held-out", 0, config.held_out)
    policy_errors, reference_errors = pairs.errors(policy), pairs.errors(reference)
    margin_B = margin(policy_errors, reference_errors)
    a, b = shares(drawn_B2)
    return Measure(
        seed=seed,
        arm=arm.name,
        kind=arm.kind,
        beta_eff=arm.beta_eff,
        step=step,
        win_ratio=float(policy_errors.win_B.mean() / reference_errors.win_B.mean()),
        lose_ratio=float(policy_errors.lose_B.mean() / reference_errors.lose_B.mean()),
        a=a,
        b=b,
        on_manifold=a + b,
        accuracy=float((margin_B > 0).double().mean()),
        margin=float(margin_B.mean()),
        loser_coefficient=float(loser_coefficient(margin_B, beta_eff=arm.beta_eff, anchor_lose=arm.anchor_lose).mean()),
    )


def _fine_tuning(win: float, lose: float) -> PairLoss:
    """``win l_win + lose l_lose``, whatever the reference."""

    def loss(policy: PairError, reference: PairError) -> Tensor:
        return win * policy.win_B + lose * policy.lose_B

    return loss


def to_json(measure: Measure) -> dict[str, object]:
    """With null for what is not finite, which is not JSON."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(measure).items()}
