"""The preference losses as a config selects them: the mathematics of ``losses`` with its strengths, and what they tell a run about themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ernie_align.loss_config import (
    AnchoredConfig,
    AnchoredDpoConfig,
    DiffusionDpoConfig,
    FlowDpoConfig,
    HingeAnchorsConfig,
    IpoConfig,
    LinearDpoConfig,
)
from ernie_align.losses import (
    LINEAR_SLOPE,
    anchored_dpo,
    beta_eff,
    dpo,
    factor,
    hinge_anchored_dpo,
    ipo,
    linear_dpo,
    linear_weight,
    loser_coefficient,
    margin,
    reduced,
    stopping_margin,
    weighted_sft_warning,
)
from ernie_core.api import PureContext, recheck
from ernie_core.flow.losses import PairError


class Preference(Protocol):
    """What the training method and its telemetry need from a loss. ``elements`` as in ``PairError``."""

    anchor_lose: float

    def __call__(self, policy: PairError, reference: PairError) -> Tensor:
        """loss_B."""
        ...

    def beta_eff(self, elements: int) -> float | None:
        """Strength in units of the anchors' errors (mean errors without anchors); None where no sigmoid weighs the pair."""
        ...

    def terms(self, policy: PairError, reference: PairError) -> dict[str, Tensor]:
        """Per pair, without gradient: ``margin`` in mean errors; ``loser_coefficient`` = dloss/dl_lose in units of the anchors' errors, negative where the
        rejected picture is repelled; ``saturation``, the weight of the pair in (0, 1), where the loss has one."""
        ...

    def describe(self, elements: int) -> list[str]:
        """Lines for the start of a run, in which every strength has its units."""
        ...


@dataclass(frozen=True)
class AnchoredDpo:
    """The report's loss with its reductions made explicit."""

    config: AnchoredConfig
    name: str = "anchored-dpo"

    @property
    def anchor_lose(self) -> float:
        return self.config.anchor_lose

    def __call__(self, policy: PairError, reference: PairError) -> Tensor:
        scaled_policy, scaled_reference = self._in_anchor_units(policy), self._in_anchor_units(reference)
        strength = self.beta_eff(policy.elements)
        return anchored_dpo(
            scaled_policy, scaled_reference, beta_eff=strength, anchor_win=self.config.anchor_win, anchor_lose=self.config.anchor_lose
        )

    def beta_eff(self, elements: int) -> float:
        return beta_eff(self.config.beta, self.config.dpo_reduction, self.config.anchor_reduction, self._counted(elements))

    @torch.no_grad()
    def terms(self, policy: PairError, reference: PairError) -> dict[str, Tensor]:
        strength, margin_B = self.beta_eff(policy.elements), margin(policy, reference)
        anchor_margin_B = margin_B * factor(self.config.anchor_reduction, self._counted(policy.elements))
        return {
            "margin": margin_B,
            "saturation": torch.sigmoid(-strength * anchor_margin_B),
            "loser_coefficient": loser_coefficient(anchor_margin_B, beta_eff=strength, anchor_lose=self.config.anchor_lose),
        }

    def describe(self, elements: int) -> list[str]:
        strength = self.beta_eff(elements)
        warning = weighted_sft_warning(strength, self.config.anchor_lose, self.config.anchor_win)
        return [*self._headline(elements), f"warning: {warning}" if warning else self._stop(elements)]

    def _headline(self, elements: int) -> list[str]:
        c = self.config
        return [
            f"{self.name}: beta {c.beta:g} on {c.dpo_reduction} errors; anchors {c.anchor_win:g} (chosen) and {c.anchor_lose:g} (rejected) on {c.anchor_reduction} "
            f"errors; a sum is of {self._counted(elements):,} numbers",
            f"beta_eff {self.beta_eff(elements):g} in units of the anchors' errors",
        ]

    def _stop(self, elements: int) -> str:
        stop = stopping_margin(self.beta_eff(elements), self.config.anchor_lose)
        if stop is None or math.isinf(stop):
            return "M*: none, as nothing anchors the rejected picture: it is repelled without end"
        stop /= factor(self.config.anchor_reduction, self._counted(elements))
        if stop < 0:
            return f"M* {stop:.3g} in mean errors, below 0: the rejected picture is trained towards at first and repelled only where the policy falls behind"
        return f"M* {stop:.3g} in mean errors: beyond this margin the rejected picture is no longer repelled"

    def _counted(self, elements: int) -> int:
        return elements if self.config.reference_elements is None else self.config.reference_elements

    def _in_anchor_units(self, errors: PairError) -> PairError:
        return reduced(errors, self.config.anchor_reduction, self._counted(errors.elements))


@dataclass(frozen=True)
class HingeAnchors(AnchoredDpo):
    """Anchors that act only where an error has risen above the reference's by more than the slack."""

    slack: float = 0.0
    name: str = "hinge-anchors"

    def __call__(self, policy: PairError, reference: PairError) -> Tensor:
        return hinge_anchored_dpo(
            self._in_anchor_units(policy),
            self._in_anchor_units(reference),
            beta_eff=self.beta_eff(policy.elements),
            anchor_win=self.config.anchor_win,
            anchor_lose=self.config.anchor_lose,
            slack=self._slack(policy.elements),
        )

    @torch.no_grad()
    def terms(self, policy: PairError, reference: PairError) -> dict[str, Tensor]:
        found = super().terms(policy, reference)
        lose_B, lose_ref_B = self._in_anchor_units(policy).lose_B, self._in_anchor_units(reference).lose_B
        acts_B = lose_B - lose_ref_B - self._slack(policy.elements) > 0
        return found | {"loser_coefficient": self.config.anchor_lose * acts_B - self.beta_eff(policy.elements) * found["saturation"]}

    def describe(self, elements: int) -> list[str]:
        outweighs = self.beta_eff(elements) <= self.config.anchor_lose
        after = "there the anchor outweighs the repulsion" if outweighs else "from there on as in anchored-dpo: " + self._stop(elements)
        return [
            *self._headline(elements),
            f"anchors act only on errors more than {self.slack:g} (mean) above the reference's: until then the rejected picture is repelled; {after}",
        ]

    def _slack(self, elements: int) -> float:
        return self.slack * factor(self.config.anchor_reduction, self._counted(elements))


@dataclass(frozen=True)
class LogisticDpo:
    """Diffusion-DPO and Flow-DPO: ``-log sigmoid(beta / 2 M)`` on mean errors, without anchors."""

    name: str
    beta: float
    anchor_lose: float = 0.0

    def __call__(self, policy: PairError, reference: PairError) -> Tensor:
        return dpo(policy, reference, beta_eff=self.beta / 2)

    def beta_eff(self, elements: int) -> float:
        return self.beta / 2

    @torch.no_grad()
    def terms(self, policy: PairError, reference: PairError) -> dict[str, Tensor]:
        margin_B = margin(policy, reference)
        return {
            "margin": margin_B,
            "saturation": torch.sigmoid(-self.beta / 2 * margin_B),
            "loser_coefficient": loser_coefficient(margin_B, beta_eff=self.beta / 2, anchor_lose=0.0),
        }

    def describe(self, elements: int) -> list[str]:
        return [
            f"{self.name}: half of beta {self.beta:g} on mean errors, no anchors",
            f"beta_eff {self.beta / 2:g} in units of mean errors; M*: none, the rejected picture is repelled without end",
        ]


@dataclass(frozen=True)
class LinearDpo:
    beta: float
    floor: float
    anchor_lose: float = 0.0

    def __call__(self, policy: PairError, reference: PairError) -> Tensor:
        return linear_dpo(policy, reference, beta=self.beta, floor=self.floor)

    def beta_eff(self, elements: int) -> None:
        return None

    @torch.no_grad()
    def terms(self, policy: PairError, reference: PairError) -> dict[str, Tensor]:
        margin_B = margin(policy, reference)
        weight_B = linear_weight(margin_B, beta=self.beta, floor=self.floor)
        return {"margin": margin_B, "saturation": weight_B, "loser_coefficient": -weight_B}

    def describe(self, elements: int) -> list[str]:
        reach = (0.5 - self.floor) / (LINEAR_SLOPE * self.beta)
        line = f"linear-dpo: weight clip(0.5 - {LINEAR_SLOPE:g} x {self.beta:g} M, {self.floor:g}, {1 - self.floor:g}) on mean errors, no anchors"
        if self.floor:
            return [
                line,
                f"M*: none; beyond a margin of {reach:.3g} the weight stays at its floor, and the rejected picture is repelled without end",
            ]
        return [line, f"M* {reach:.3g} in mean errors: beyond this margin a pair has no weight"]


@dataclass(frozen=True)
class Ipo:
    beta: float
    anchor_lose: float = 0.0

    def __call__(self, policy: PairError, reference: PairError) -> Tensor:
        return ipo(policy, reference, beta=self.beta)

    def beta_eff(self, elements: int) -> None:
        return None

    @torch.no_grad()
    def terms(self, policy: PairError, reference: PairError) -> dict[str, Tensor]:
        margin_B = margin(policy, reference)
        return {"margin": margin_B, "loser_coefficient": 2 * (margin_B - 1 / (2 * self.beta))}

    def describe(self, elements: int) -> list[str]:
        target = 1 / (2 * self.beta)
        return [
            f"ipo: beta {self.beta:g} on mean errors, no anchors; M* {target:.3g} is the target margin, from beyond which pairs are pulled back"
        ]


def build_anchored(config: AnchoredDpoConfig, context: PureContext) -> Preference:
    return AnchoredDpo(recheck(config))


def build_hinge(config: HingeAnchorsConfig, context: PureContext) -> Preference:
    return HingeAnchors(recheck(config), slack=config.slack)


def build_diffusion(config: DiffusionDpoConfig, context: PureContext) -> Preference:
    return LogisticDpo("diffusion-dpo", recheck(config).beta)


def build_flow(config: FlowDpoConfig, context: PureContext) -> Preference:
    return LogisticDpo("flow-dpo", recheck(config).beta)


def build_linear(config: LinearDpoConfig, context: PureContext) -> Preference:
    return LinearDpo(recheck(config).beta, config.floor)


def build_ipo(config: IpoConfig, context: PureContext) -> Preference:
    return Ipo(recheck(config).beta)
