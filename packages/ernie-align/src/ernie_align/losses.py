r"""Preference losses on velocity errors: ``loss(policy, reference) -> loss_B``, one number per pair.

Everywhere the margin is M = (l_lose - l_lose_ref) - (l_win - l_win_ref): positive means that the policy improved more on the chosen picture.

What the report's loss does is decided by ``beta_eff``, the preference strength in units of the errors that the anchors see. With q = sigmoid(-beta_eff M),

    dloss/dl_win  = anchor_win  + beta_eff q        dloss/dl_lose = anchor_lose - beta_eff q        0 < q < 1,

so that with beta_eff <= anchor_lose the rejected picture is always trained towards (a weighted fine-tuning), with beta_eff > 2 anchor_lose it is repelled from the
first step, and repulsion ends by itself at M* = ln(beta_eff / anchor_lose - 1) / beta_eff. The report gives beta = 0.05 and anchor_lose = 0.15 but not the reductions;
its squared norm read as a sum gives beta_eff = 26,214 at 1024 x 1024 pixels, read as a mean 0.05.

Source: ERNIE-Image report (arXiv 2605.25347), stabilised DPO; Wallace et al. 2023 (arXiv 2311.12908) for the preference term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_align.loss_config import (
    AnchoredConfig,
    AnchoredDpoConfig,
    DiffusionDpoConfig,
    FlowDpoConfig,
    HingeAnchorsConfig,
    IpoConfig,
    LinearDpoConfig,
    Reduction,
)
from ernie_core.api import PureContext, recheck
from ernie_core.flow.losses import PairError

LINEAR_SLOPE = 0.2  # of Linear-DPO's weight in beta M; the sigmoid it replaces has 0.25 at its middle


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


# ---- the mathematics ----


def margin(policy: PairError, reference: PairError) -> Tensor:
    """``(l_lose - l_lose_ref) - (l_win - l_win_ref)`` [B]. Exactly 0 where the policy's errors are bitwise the reference's.

    Raises:
        ValueError: errors of different shapes or resolutions, in less than float32, or a reference that carries a gradient.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in _named(policy, reference)}
    if len(set(shapes.values())) > 1 or policy.win_B.ndim != 1:
        raise ValueError(f"a pair's errors must be four vectors [B] of one length, found {shapes}")
    if policy.elements != reference.elements:
        raise ValueError(
            f"the policy's errors are of {policy.elements} numbers, the reference's of {reference.elements}: same pictures expected"
        )
    for name, tensor in _named(policy, reference):
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} is {tensor.dtype}: the difference of nearly equal errors drowns in rounding; take errors in float32")
    for name, tensor in _named(reference=reference):
        if tensor.requires_grad:
            raise ValueError(f"{name} carries a gradient: compute the reference under torch.no_grad(), with adapters off")
    return (policy.lose_B - reference.lose_B) - (policy.win_B - reference.win_B)


def anchored_dpo(policy: PairError, reference: PairError, *, beta_eff: float, anchor_win: float, anchor_lose: float) -> Tensor:
    r"""``-log sigmoid(beta_eff M) + anchor_win l_win + anchor_lose l_lose``, per pair; for the coefficients see the top of this file.

    Args:
        policy, reference: errors in the reduction that the anchors use (``reduced``).
        beta_eff: preference strength in units of those errors.

    Source: ERNIE-Image report (arXiv 2605.25347), L_total.
    """
    return dpo(policy, reference, beta_eff=beta_eff) + anchor_win * policy.win_B + anchor_lose * policy.lose_B


def hinge_anchored_dpo(
    policy: PairError, reference: PairError, *, beta_eff: float, anchor_win: float, anchor_lose: float, slack: float
) -> Tensor:
    """The preference term with anchors ``max(0, l - l_ref - slack)``: nothing holds the policy until an error has risen above the reference's.

    At equality the hinge has no gradient, so that the first step is that of the preference alone.
    """
    win_B = F.relu(policy.win_B - reference.win_B - slack)
    lose_B = F.relu(policy.lose_B - reference.lose_B - slack)
    return dpo(policy, reference, beta_eff=beta_eff) + anchor_win * win_B + anchor_lose * lose_B


def dpo(policy: PairError, reference: PairError, *, beta_eff: float) -> Tensor:
    """``-log sigmoid(beta_eff M)``, per pair. Source: Wallace et al. 2023, eq. 14, with all constants in beta_eff."""
    return -F.logsigmoid(beta_eff * margin(policy, reference))


def linear_dpo(policy: PairError, reference: PairError, *, beta: float, floor: float) -> Tensor:
    """``w (l_win - l_lose)`` with the weight of ``linear_weight``, which carries no gradient, per pair. Unbounded below.

    Source: Linear-DPO (arXiv 2605.21123); its reference follows the policy, which is the method's business.
    """
    return linear_weight(margin(policy, reference), beta=beta, floor=floor) * (policy.win_B - policy.lose_B)


def linear_weight(margin_B: Tensor, *, beta: float, floor: float) -> Tensor:
    """``clip(0.5 - 0.2 beta M, floor, 1 - floor)``, detached."""
    return (0.5 - LINEAR_SLOPE * beta * margin_B.detach()).clamp(floor, 1 - floor)


def ipo(policy: PairError, reference: PairError, *, beta: float) -> Tensor:
    """``(M - 1 / (2 beta))^2``, per pair. Source: Azar et al. 2023 (arXiv 2310.12036), eq. 17, with M in place of the log ratio."""
    return (margin(policy, reference) - 1 / (2 * beta)).square()


# ---- units ----


def reduced(errors: PairError, reduction: Reduction, elements: int) -> PairError:
    """Mean errors as they are, or as sums over ``elements`` numbers."""
    factor = _factor(reduction, elements)
    return errors if factor == 1 else PairError(errors.win_B * factor, errors.lose_B * factor, errors.elements)


def beta_eff(beta: float, dpo_reduction: Reduction, anchor_reduction: Reduction, elements: int) -> float:
    """``beta``, given per error in ``dpo_reduction``, in units of errors in ``anchor_reduction``.

    Raises:
        ValueError: a beta that is not positive and finite, no elements, or an unknown reduction.
    """
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta must be a positive finite number, found {beta}")
    return beta * _factor(dpo_reduction, elements) / _factor(anchor_reduction, elements)


def loser_coefficient(margin_B: Tensor, *, beta_eff: float, anchor_lose: float) -> Tensor:
    """``dloss/dl_lose = anchor_lose - beta_eff sigmoid(-beta_eff M)`` of ``anchored_dpo``: negative where the rejected picture is repelled."""
    return anchor_lose - beta_eff * torch.sigmoid(-beta_eff * margin_B)


def stopping_margin(beta_eff: float, anchor_lose: float) -> float | None:
    """``M* = ln(beta_eff / anchor_lose - 1) / beta_eff``: beyond this margin the rejected picture is trained towards, in units of the anchors' errors.

    Infinite without an anchor on the rejected side; None where beta_eff <= anchor_lose, as there the rejected picture is never repelled. Below 0 for
    beta_eff < 2 anchor_lose: only a policy that fell behind its reference repels.
    """
    if beta_eff <= anchor_lose:
        return None
    if anchor_lose == 0:
        return math.inf
    return math.log(beta_eff / anchor_lose - 1) / beta_eff


def weighted_sft_warning(beta_eff: float, anchor_lose: float, anchor_win: float) -> str | None:
    """What a run with beta_eff <= anchor_lose is, in words for its user; None where the rejected picture is repelled at some margin."""
    if beta_eff > anchor_lose:
        return None
    win, lose = anchor_win + beta_eff / 2, anchor_lose - beta_eff / 2
    return (
        f"beta_eff {beta_eff:g} is not above anchor_lose {anchor_lose:g}: the rejected picture is trained TOWARDS at every margin. This is fine-tuning on both "
        f"pictures, weighted about {win:g} : {lose:g} ({100 * win / (win + lose):.0f} % : {100 * lose / (win + lose):.0f} %). It cannot collapse, and it cannot push "
        f"away from what was rejected. To repel from the first step beta_eff must lie above 2 x anchor_lose = {2 * anchor_lose:g}: raise beta, or set "
        'dpo_reduction = "sum" with anchor_reduction = "mean".'
    )


def _factor(reduction: Reduction, elements: int) -> int:
    if elements < 1:
        raise ValueError(f"errors are of 1 or more numbers, found {elements}")
    if reduction not in ("sum", "mean"):
        raise ValueError(f'a reduction is "sum" or "mean", found {reduction!r}')
    return elements if reduction == "sum" else 1


def _named(policy: PairError | None = None, reference: PairError | None = None) -> list[tuple[str, Tensor]]:
    sides = (("policy", policy), ("reference", reference))
    return [(f"{side}.{name}", tensor) for side, e in sides if e is not None for name, tensor in (("win_B", e.win_B), ("lose_B", e.lose_B))]


# ---- what a config selects ----


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
        anchor_margin_B = margin_B * _factor(self.config.anchor_reduction, self._counted(policy.elements))
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
        stop /= _factor(self.config.anchor_reduction, self._counted(elements))
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
        return self.slack * _factor(self.config.anchor_reduction, self._counted(elements))


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
