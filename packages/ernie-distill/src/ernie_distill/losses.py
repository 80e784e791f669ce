r"""The mathematics of distilling by distribution matching: pure functions of clean-sample predictions. Signs stand here and nowhere else.

All predictions are of the clean sample, x0, in float32: predictions of teacher and fake score differ by little, and bfloat16 would lose the difference. Noise
levels are sigma in [0, 1], 1 is noise. (Decoupled DMD counts time from noise to data: its tau > t is sigma_r < sigma_t here.)

    x0      the student's sample, from its step at sigma_i
    x_r     (1 - r) x0 + r noise, renoised with fresh noise
    real    a teacher's prediction at (x_r, r): cond, uncond
    fake    the fake score's, which learns the student's distribution

    direction  g = g_DM / n_DM + w_CA g_CA / n_CA
    g_DM = real_cond - fake_cond                     distribution matching: the shield
    g_CA = (a - 1) (real_cond - real_uncond)         augmentation by guidance a: the spear, unbounded alone
    loss   L with dL / dx0 = -g / numel(x0)

A difference of scores is (1 - r) / r^2 times that of clean samples; all of this works with the latter at weight 1, as the published code does.

Source: DMD (Yin et al. 2023, arXiv 2311.18828), DMD2 (arXiv 2405.14867), Decoupled DMD (arXiv 2511.22677).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ernie_core.flow.path import per_sample

Normaliser = Literal["shared-cfg", "per-term", "none"]
TINY = 1e-6  # of a normaliser, in latent units


@dataclass(frozen=True)
class MatchTerm:
    """Predictions [B, ...] for distribution matching, all at one (x_r, r): of the committee, and of the fake score; with the prompt."""

    real_cond: Tensor
    fake_cond: Tensor


@dataclass(frozen=True)
class GuidanceTerm:
    """Predictions [B, ...] for the augmentation, all at one (x_r, r): of the committee with the prompt and with "". ``guidance_scale`` is a, so that the
    guided prediction is ``uncond + a (cond - uncond)``; other sources write w = a - 1.

    ``total``: the sum of the teachers' weights, [B, 1, 1, 1] or [B, 1, h, w], where it is not 1: predictions are then sums and no pictures, and distances are
    measured to the pictures."""

    real_cond: Tensor
    real_uncond: Tensor
    guidance_scale: float
    total: Tensor | None = None


@dataclass(frozen=True)
class Direction:
    """Where each sample should move. ``g`` [B, ...]; the parts before normalising, and the normalisers [B], are kept for metrics."""

    g: Tensor
    match: Tensor
    guidance: Tensor | None
    match_scale_B: Tensor
    guidance_scale_B: Tensor | None


def match_gradient(term: MatchTerm) -> Tensor:
    """``g_DM``: towards the teachers' distribution, away from the student's own."""
    return term.real_cond - term.fake_cond


def guidance_gradient(term: GuidanceTerm) -> Tensor:
    """``g_CA``: (a - 1) times what the prompt changes."""
    return (term.guidance_scale - 1.0) * (term.real_cond - term.real_uncond)


def mean_distance(x0: Tensor, prediction: Tensor, total: Tensor | None = None) -> Tensor:
    """Normaliser of each sample [B]: mean absolute distance of the student's sample from a prediction, and a little. Per sample, so that samples of a batch
    do not scale each other's gradients.

    Args:
        total: of the weights whose sum the prediction is, see ``GuidanceTerm``; places count by it.
    """
    if total is None:
        return (x0 - prediction).abs().flatten(1).mean(1) + TINY
    total = total.expand_as(x0)
    sum_B = total.flatten(1).sum(1)
    return (total * x0 - prediction).abs().flatten(1).sum(1) / torch.where(sum_B > 0, sum_B, 1.0) + TINY


def guided_prediction(term: GuidanceTerm, otherwise: Tensor) -> Tensor:
    """``cond + g_CA``, which is ``uncond + a (cond - uncond)`` for weights of sum 1; ``otherwise`` where nobody has weight."""
    if term.total is None:
        return term.real_uncond + term.guidance_scale * (term.real_cond - term.real_uncond)
    weighed = term.total > 0
    return torch.where(weighed, term.real_cond / torch.where(weighed, term.total, 1.0), otherwise) + guidance_gradient(term)


def direction(
    x0: Tensor, match: MatchTerm | None, guidance: GuidanceTerm | None, *, normaliser: Normaliser, guidance_weight: float = 1.0
) -> Direction:
    """``g`` for the student's samples; carries no gradient if its inputs do not.

    Args:
        x0: the student's samples [B, ...], float32, detached.
        match: None: augmentation alone, which diverges and is here for experiments.
        guidance: None: distribution matching alone, a student of the unguided teacher.
        normaliser: ``shared-cfg`` divides both parts by the distance to the guided prediction: with equal r and noise in both terms the sum is DMD2's
            gradient. ``per-term`` divides each by the distance to its own conditional prediction, since decoupled terms live at other noise levels.
            ``none``: by 1, under which fixed points have closed forms.
        guidance_weight: w_CA.

    Raises:
        ValueError: neither term, or a shared normaliser without guidance.
    """
    if match is None and guidance is None:
        raise ValueError("a direction of neither matching nor guidance")
    if normaliser == "shared-cfg":
        if guidance is None:
            raise ValueError("normaliser shared-cfg divides by the distance to the guided prediction: it needs the guidance term")
        shared_B = mean_distance(x0, guided_prediction(guidance, x0 if match is None else match.real_cond))
    ones_B = x0.new_ones(len(x0))
    g = x0.new_zeros(())
    match_g, match_B = x0.new_zeros(x0.shape), ones_B
    if match is not None:
        match_g = match_gradient(match)
        match_B = shared_B if normaliser == "shared-cfg" else mean_distance(x0, match.real_cond) if normaliser == "per-term" else ones_B
        g = g + match_g / per_sample(match_B, x0)
    guidance_g = guidance_B = None
    if guidance is not None:
        guidance_g = guidance_gradient(guidance)
        own_B = mean_distance(x0, guidance.real_cond, guidance.total) if normaliser == "per-term" else ones_B
        guidance_B = shared_B if normaliser == "shared-cfg" else own_B
        g = g + guidance_weight * guidance_g / per_sample(guidance_B, x0)
    return Direction(g, match_g, guidance_g, match_B, guidance_B)


def surrogate(x0: Tensor, g: Tensor) -> Tensor:
    """A loss per sample [B] whose gradient by ``x0`` is exactly ``-g / numel`` of a sample, and whose value is ``mean(g^2) / 2``.

    Equal to ``mean((x0 - stop(x0 + g))^2) / 2``, without the rounding of that sum.
    """
    g = g.detach()
    return (0.5 * g.square() - g * (x0 - x0.detach())).flatten(1).mean(1)


def fake_score_loss(velocity: Tensor, target: Tensor, sigma_B: Tensor, *, space: Literal["velocity", "x0"] = "velocity") -> Tensor:
    """Flow loss [B] of the fake score on the student's own samples, float32. In x0 space it is sigma^2 times that on velocities."""
    loss_B = (velocity.float() - target.float()).square().flatten(1).mean(1)
    return loss_B if space == "velocity" else loss_B * sigma_B.to(loss_B).square()
