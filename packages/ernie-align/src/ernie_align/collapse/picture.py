"""Scatter plots of samples: a row per arm, a column per step, circles at the modes, A on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ernie_align.collapse.plane import MODE_A, MODE_B, RADIUS
from ernie_core.plane import picture

CIRCLES = (picture.Circle(MODE_A, RADIUS, "#008000"), picture.Circle(MODE_B, RADIUS, "#c00000"))


def scatter(points: Mapping[tuple[str, int], Tensor], arms: Sequence[str], steps: Sequence[int]) -> bytes:
    """The PNG's bytes.

    Args:
        points: samples [N, 2] by (arm, step); step 0 may be given for "reference" alone, which then stands for every arm.
    """
    panels = {(arm, f"step {step}"): points[arm if step else "reference", step] for arm in arms for step in steps}
    return picture.scatter(panels, rows=arms, columns=[f"step {step}" for step in steps], circles=CIRCLES)
