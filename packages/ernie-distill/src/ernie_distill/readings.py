"""What distillation logs: how far samples are moved by which term, what the student's samples look like, and which teachers counted where. No syncs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ernie_core.api import Metrics
from ernie_core.flow.path import per_sample
from ernie_distill.api import Objective
from ernie_distill.losses import Direction
from ernie_distill.prompt_batch import PromptBatch
from ernie_distill.target import Renoised
from ernie_distill.telemetry import GATE, GUIDANCE_NORM, GUIDANCE_SCALE, MATCH_NORM, MATCH_SCALE, RATIO

DECILES = 10


def rms(x: Tensor) -> Tensor:
    """Root mean square of each sample [B]."""
    return x.flatten(1).square().mean(1).sqrt()


def add_direction(metrics: Metrics, found: Direction, *, guidance_weight: float) -> None:
    metrics.add_values(MATCH_NORM, rms(found.match))
    metrics.add_values(MATCH_SCALE, found.match_scale_B)
    if found.guidance is None or found.guidance_scale_B is None:
        return
    metrics.add_values(GUIDANCE_NORM, rms(found.guidance))
    metrics.add_values(GUIDANCE_SCALE, found.guidance_scale_B)
    moved = [
        rms(g / per_sample(scale_B, g)) for g, scale_B in ((found.guidance, found.guidance_scale_B), (found.match, found.match_scale_B))
    ]
    metrics.add_values(RATIO, guidance_weight * moved[0] / moved[1].clamp_min(1e-12))


def add_looks(metrics: Metrics, name: str, x0_BCHW: Tensor, other_BCHW: Tensor | None = None) -> None:
    """``name_std``: deviation over places, mean over channels, which rises with saturation and contrast. ``name_spread``: with pictures of the same prompts from
    other noise, deviation over noises, which falls when pictures become alike. Both are of each sample by itself, whatever its micro-batch."""
    metrics.add_values(f"{name}_std", x0_BCHW.flatten(2).std(2).mean(1))
    if other_BCHW is not None:
        metrics.add_values(f"{name}_spread", rms(x0_BCHW - other_BCHW) / 2**0.5)


def add_looks_beside(metrics: Metrics, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    """The looks of both, and the student's over the teacher's as ratios of their sums over all samples.

    Args:
        student, teacher: clean samples [B, C, h, w] from one noise and from another.
    """
    looks = {}
    for who, pictures in (("student", student), ("teacher", teacher)):
        add_looks(looks.setdefault(who, Metrics()), f"distill/{who}", *pictures)
        metrics.merge(looks[who])
    for ratio, look in (("saturation", "std"), ("diversity", "spread")):
        metrics.add(f"distill/{ratio}", *(looks[who].sums[f"distill/{who}_{look}"][0] for who in ("student", "teacher")))


def add_loads(metrics: Metrics, objective: Objective, teachers: Sequence[str], at: Renoised, batch: PromptBatch) -> None:
    """Mean weight of each teacher: over all samples, by domain, and by decile of the noise level."""
    weights_BK = (at.weights.flatten(2).mean(2) if at.weights.ndim > 2 else at.weights).float()
    deciles = [min(int(sigma * DECILES), DECILES - 1) for sigma in at.sigma_B.tolist()]
    groups: dict[str, list[int]] = {"": list(range(len(batch)))}
    for b, (domain, decile) in enumerate(zip(batch.domains, deciles, strict=True)):
        if domain:
            groups.setdefault(f"/{domain}", []).append(b)
        groups.setdefault(f"/sigma-{decile}", []).append(b)
    for suffix, rows in groups.items():
        for k, teacher in enumerate(teachers):
            metrics.add(GATE.format(objective, teacher) + suffix, weights_BK[rows, k].sum(), float(len(rows)))
