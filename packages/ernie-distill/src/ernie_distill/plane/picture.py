"""Scatter plots of samples: a row per arm; its guided teacher, the marks and the other sampler beside each other.

Only every other label is asked for, so that disobedience shows: their modes have green circles, and a sample in a red one has the mode of another label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ernie_core.plane.picture import Circle, scatter
from ernie_distill.plane.experiment import SAMPLERS, Arm
from ernie_distill.plane.mixture import NEAR, modes

LABEL_PX = 190
PANEL_PX = 140
SHOWN = 1200  # samples in a panel
TEACHER = "guided teacher"


def panels(points: Mapping[tuple[str, str], Tensor], arms: Sequence[Arm], marks: Sequence[int]) -> bytes:
    """The PNG's bytes. ``points``: samples by (arm, "sampler, update"), as ``run_seed`` gives them; what is not there stays empty."""
    present = {column for _, column in points}
    columns = [column for mark in marks for sampler in SAMPLERS if (column := f"{sampler}, {mark}") in present]
    shown = {(arm.name, column): points[arm.name, column] for arm in arms for column in columns if (arm.name, column) in points}
    for arm in arms:
        if (taught := points.get((f"{TEACHER}: {arm.teachers}", "euler, 0"))) is not None:
            shown[arm.name, TEACHER] = taught
    asked = {key: x_N2[::2][:SHOWN] for key, x_N2 in shown.items()}  # labels run 0, 1, ... 7, 0, ...
    circles = [Circle((float(x), float(y)), NEAR, "#c00000" if label % 2 else "#008000") for label, (x, y) in enumerate(modes())]
    rows = [arm.name for arm in arms]
    return scatter(asked, rows=rows, columns=[TEACHER, *columns], circles=circles, extent=4.0, label_px=LABEL_PX, panel_px=PANEL_PX)
