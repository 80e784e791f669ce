"""Scatter plots of samples: a row per arm, columns for the marks and the other sampler, a circle at each mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ernie_core.plane.picture import Circle, scatter
from ernie_distill.plane.mixture import NEAR, modes

LABEL_PX = 190
PANEL_PX = 150
SHOWN = 1500  # samples in a panel


def panels(points: Mapping[tuple[str, str], Tensor], rows: Sequence[str], columns: Sequence[str]) -> bytes:
    """The PNG's bytes. ``points``: samples by (arm, "sampler, update"), as ``run_seed`` gives them; what is not there stays empty."""
    circles = [Circle((float(x), float(y)), NEAR, "#008000") for x, y in modes()]
    few = {key: x_N2[:SHOWN] for key, x_N2 in points.items()}
    return scatter(few, rows=rows, columns=columns, circles=circles, extent=4.0, label_px=LABEL_PX, panel_px=PANEL_PX)
