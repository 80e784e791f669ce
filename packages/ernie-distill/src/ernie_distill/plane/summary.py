"""The measures of several seeds as one row per arm, update and sampler, with 95 % intervals over seeds; paired comparisons of arms; both as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ernie_core.stats import Difference, Interval, mean_interval, paired_difference
from ernie_distill.plane.experiment import Measure

FIELDS = ("accuracy", "on_manifold", "to_data", "to_teacher", "spread", "reach")
SHARES = ("accuracy", "on_manifold")
HEADINGS = ("accuracy", "on-manifold", "to data", "to guided teacher", "spread", "reach")


@dataclass(frozen=True)
class Claim:
    """That one arm is better than another at the last mark, in its own sampler: ``accuracy`` higher, ``to_data`` lower."""

    better: str
    worse: str


CLAIMS = (
    *(Claim(f"DM + CA, {n} steps", f"DM, {n} steps") for n in (8, 4, 2)),
    *(Claim("DM + CA, 8 steps", other) for other in ("undistilled, 8 steps", "DM + CA coupled (DMD2)")),
    *(
        Claim("x and y, gates", other)
        for other in ("teacher of x", "teacher of y", "x and y, mean of predictions", "x and y, mean of weights")
    ),
)


def summarise(measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Rows in the order of first appearance. A field that is not finite in some seed has no interval there, but None."""
    rows = []
    for key in dict.fromkeys((m.arm, m.steps, m.update, m.sampler) for m in measures):
        group = [m for m in measures if (m.arm, m.steps, m.update, m.sampler) == key]
        row: dict[str, Any] = {**dict(zip(("arm", "steps", "update", "sampler"), key)), "seeds": len(group)}
        for field in FIELDS:
            values = [getattr(m, field) for m in group]
            bounds = (0.0, 1.0) if field in SHARES else None
            finite = all(map(math.isfinite, values))
            row[field] = mean_interval(values, [m.seed for m in group], bounds=bounds) if finite else None
        rows.append(row)
    return rows


def compare(measures: Sequence[Measure], claim: Claim, field: str, *, sampler: str = "euler") -> Difference | None:
    """Paired difference better - worse over seeds; None if an arm is missing."""
    better, worse = (_last(measures, arm, sampler) for arm in (claim.better, claim.worse))
    if not better or [m.seed for m in better] != [m.seed for m in worse]:
        return None
    return paired_difference([getattr(m, field) for m in better], [getattr(m, field) for m in worse], [m.seed for m in better])


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| arm | updates | sampled with | " + " | ".join(HEADINGS) + " |"
    yield "|---" * (3 + len(FIELDS)) + "|"
    for row in rows:
        cells = [row["arm"], str(row["update"] or "-"), f"{row['sampler']}, {row['steps']} steps", *(_cell(row[field]) for field in FIELDS)]
        yield "| " + " | ".join(cells) + " |"


def comparisons(measures: Sequence[Measure]) -> Iterator[str]:
    yield "| arm | against | accuracy | p | distance to data | p |"
    yield "|---|---|---|---|---|---|"
    for claim in CLAIMS:
        found = [compare(measures, claim, field) for field in ("accuracy", "to_data")]
        if all(found):
            cells = [part for one in found for part in (_cell(one.interval, sign=True), f"{one.p_value:.2g}")]
            yield f"| {claim.better} | {claim.worse} | " + " | ".join(cells) + " |"


def to_json(row: dict[str, Any]) -> dict[str, Any]:
    """A row as plain values."""
    return {name: value.to_json() if isinstance(value, Interval) else value for name, value in row.items()}


def _last(measures: Sequence[Measure], arm: str, sampler: str) -> list[Measure]:
    of = [m for m in measures if (m.arm, m.sampler) == (arm, sampler)]
    return sorted((m for m in of if m.update == max(m.update for m in of)), key=lambda m: m.seed)


def _cell(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return "-"
    plus = "+" if sign else ""
    value, low, high = (f"{x:{plus},.2f}" if abs(x) < 100 else f"{x:{plus},.0f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"
