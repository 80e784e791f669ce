"""Laws of a committee's weights, as pure functions on [B, K] or, where they differ by place, [B, K, 1, h, w].

Sums are taken in float64 and results are float32. All of it runs on the device of its input; on the CPU nothing synchronises.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ernie_core.api import ConfigError
from ernie_distill.api import Objective

SUM_TOLERANCE = 1e-5  # of float32 weights that somebody else normalised


def on_simplex(scores: Tensor) -> Tensor:
    """Scores divided by their sum over K, each sample and place by itself.

    Where all scores are 0, nobody claims the sample: it goes to the generalist, as a prompt of an unknown domain does.

    Args:
        scores: >= 0 and finite, of any size.

    Raises:
        ValueError: a score is negative or not finite.
    """
    wide = scores.double()
    if not bool((torch.isfinite(wide) & (wide >= 0)).all()):
        raise ValueError(f"scores from {float(wide.min()):g} to {float(wide.max()):g}: expected finite numbers >= 0")
    largest = wide.amax(1, keepdim=True)
    wide = wide / torch.where(largest > 0, largest, 1.0)  # first, so that no sum overflows or vanishes
    return (_generalist_where(largest == 0, wide) / _total_of(largest, wide)).float()


def from_logs(logs: Tensor) -> Tensor:
    """``on_simplex(exp(logs))`` that neither overflows nor vanishes; -inf is a score of 0.

    Raises:
        ValueError: a log is NaN or +inf.
    """
    wide = logs.double()
    if bool((torch.isnan(wide) | (wide == torch.inf)).any()):
        raise ValueError("logarithms of scores: found NaN or +inf")
    largest = wide.amax(1, keepdim=True)
    return on_simplex(torch.exp(wide - torch.where(largest > -torch.inf, largest, 0.0)))


def within_budget(weights: Tensor, budget: float | None) -> Tensor:
    """Weights scaled down where they sum to more than the budget; as they are where they do not, or if there is none."""
    if budget is None:
        return weights.float()
    wide = weights.double()
    total = wide.sum(1, keepdim=True)
    return torch.where(total > budget, wide * (budget / torch.where(total > budget, total, 1.0)), wide).float()


def check_weights(
    weights: Tensor, objective: Objective, teachers: int, budget: float | None, *, samples: int | None = None, gate: str = "the gate"
) -> Tensor:
    """What a gate gave, if it keeps the laws.

    Args:
        teachers: K.
        budget: largest sum of weights for objective ``ca``; None: any.
        samples: B, where it is known.
        gate: its name, for the message.

    Raises:
        ConfigError: type, shape, a weight outside of [0, 1], or a sum that the objective does not allow; says what was found.
    """
    told = f"{gate} gave weights for objective {objective}"
    shape = tuple(weights.shape)
    plain = weights.ndim == 2 or (weights.ndim == 5 and shape[2] == 1)
    if not plain or shape[1] != teachers or (samples is not None and shape[0] != samples):
        rows = "B" if samples is None else samples
        raise ConfigError(f"{told} of shape {list(shape)}; expected [{rows}, {teachers}] or [{rows}, {teachers}, 1, h, w]")
    if weights.dtype != torch.float32:
        raise ConfigError(f"{told} in {weights.dtype}; expected float32")
    if weights.requires_grad:
        raise ConfigError(f"{told} that carry gradient; a gate cannot learn from distillation: compute it under torch.no_grad()")
    wide = weights.double()
    if not bool(torch.isfinite(wide).all()):
        raise ConfigError(f"{told} that are not finite, for sample {_first(~torch.isfinite(wide))}")
    if bool(((wide < 0) | (wide > 1)).any()):
        row = _first((wide < 0) | (wide > 1))
        raise ConfigError(f"{told} from {float(wide[row].min()):g} to {float(wide[row].max()):g} for sample {row}; expected [0, 1]")
    total = wide.sum(1)
    if objective == "dm" and bool(((total - 1).abs() > SUM_TOLERANCE).any()):
        row = _first((total - 1).abs() > SUM_TOLERANCE)
        raise ConfigError(
            f"{told} that sum to {_furthest(total[row], 1.0):.6g} for sample {row}; they must sum to 1, or the student's mean is scaled with them"
        )
    if objective == "ca" and budget is not None and bool((total > budget + SUM_TOLERANCE).any()):
        row = _first(total > budget + SUM_TOLERANCE)
        raise ConfigError(
            f"{told} that sum to {_furthest(total[row], budget):.6g} for sample {row}, more than guidance_budget = {budget:g}: guidance would be that "
            "much stronger than asked. Lower the gate's weights, or raise method.guidance_budget"
        )
    return weights


def truncate(weights: Tensor, active: int, above: float) -> Tensor:
    """Each sample's heaviest teachers only; the others' weight goes to them in proportion, so that every sum stays what it was.

    The heaviest teacher always stays. Of equal ones the first does. Weights that differ by place are ranked by their largest, then by their mean: who leads in a
    small region is not to be lost. Where none of those that stay has weight, they share it as they do on average. A weight of objective ``ca`` may become larger
    than 1 if the sum is.

    Args:
        active: how many stay, >= 1.
        above: teachers of less weight than this go too.
    """
    wide = weights.double()
    mean_BK, peak_BK = (wide.flatten(2).mean(2), wide.flatten(2).amax(2)) if wide.ndim > 2 else (wide, wide)
    by_mean_BK = mean_BK.argsort(dim=1, descending=True, stable=True)
    order_BK = by_mean_BK.gather(1, peak_BK.gather(1, by_mean_BK).argsort(dim=1, descending=True, stable=True))
    rank_BK = torch.empty_like(order_BK).scatter_(1, order_BK, torch.arange(wide.shape[1], device=wide.device).expand_as(order_BK))
    stays_BK = (rank_BK < active) & ((peak_BK >= above) | (rank_BK == 0))
    places = (slice(None), slice(None), *[None] * (wide.ndim - 2))
    kept = wide * stays_BK[places]
    total, left = wide.sum(1, keepdim=True), kept.sum(1, keepdim=True)
    average = (mean_BK * stays_BK)[places].expand_as(wide)
    kept = torch.where((left == 0) & (total > 0), average, kept)
    left = kept.sum(1, keepdim=True)
    return (kept * (total / torch.where(left > 0, left, 1.0))).float()


def _generalist_where(nobody: Tensor, scores: Tensor) -> Tensor:
    alone = torch.zeros_like(scores)
    alone[:, 0] = 1.0
    return torch.where(nobody, alone, scores)


def _total_of(largest: Tensor, scores: Tensor) -> Tensor:
    return torch.where(largest > 0, scores.sum(1, keepdim=True), 1.0)


def _first(wrong: Tensor) -> int:
    """The first sample with anything wrong."""
    return int(wrong.flatten(1).any(1).nonzero()[0]) if wrong.ndim > 1 else int(wrong.nonzero()[0])


def _furthest(totals: Tensor, expected: float) -> float:
    flat = totals.flatten()
    return float(flat[(flat - expected).abs().argmax()])
