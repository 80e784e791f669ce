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

import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_align.loss_config import Reduction
from ernie_core.flow.losses import PairError

LINEAR_SLOPE = 0.2  # of Linear-DPO's weight in beta M; the sigmoid it replaces has 0.25 at its middle


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
    times = factor(reduction, elements)
    return errors if times == 1 else PairError(errors.win_B * times, errors.lose_B * times, errors.elements)


def beta_eff(beta: float, dpo_reduction: Reduction, anchor_reduction: Reduction, elements: int) -> float:
    """``beta``, given per error in ``dpo_reduction``, in units of errors in ``anchor_reduction``.

    Raises:
        ValueError: a beta that is not positive and finite, no elements, or an unknown reduction.
    """
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta must be a positive finite number, found {beta}")
    return beta * factor(dpo_reduction, elements) / factor(anchor_reduction, elements)


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


def factor(reduction: Reduction, elements: int) -> int:
    """What a mean error is multiplied by."""
    if elements < 1:
        raise ValueError(f"errors are of 1 or more numbers, found {elements}")
    if reduction not in ("sum", "mean"):
        raise ValueError(f'a reduction is "sum" or "mean", found {reduction!r}')
    return elements if reduction == "sum" else 1


def _named(policy: PairError | None = None, reference: PairError | None = None) -> list[tuple[str, Tensor]]:
    sides = (("policy", policy), ("reference", reference))
    return [(f"{side}.{name}", tensor) for side, e in sides if e is not None for name, tensor in (("win_B", e.win_B), ("lose_B", e.lose_B))]
