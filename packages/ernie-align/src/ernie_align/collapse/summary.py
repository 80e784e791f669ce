"""The measures of several seeds as one row per arm and step, with 95 % intervals over seeds, and those rows as a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ernie_align.collapse.experiment import Arm, Measure
from ernie_core.stats import Interval, mean_interval, paired_difference

OFF_MANIFOLD = 0.9
"""A seed counts as collapsed when fewer of its samples lie near either mode."""
ALIKE = "SFT .375 : .125"
WINNER = "SFT winner only"

SHARES = ("a", "b", "on_manifold", "accuracy")
RATIOS = ("win_ratio", "lose_ratio")


def summarise(measures: Sequence[Measure], arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Rows in the order of the arms. Ratios are geometric means, with intervals of the logarithm.

    A row's ``a_minus`` holds, per control, the paired difference in the share of A over seeds at equal steps, its interval and p value.
    """
    by_name = {arm.name: arm for arm in arms}
    rows = []
    for name, step in dict.fromkeys((m.arm, m.step) for m in measures):
        group = _of(measures, name, step)
        seeds, arm = [m.seed for m in group], by_name.get(name)
        row: dict[str, Any] = {"arm": name, "kind": group[0].kind, "beta_eff": group[0].beta_eff, "step": step, "seeds": len(group)}
        row["stopping_margin"] = _margin_words(arm)
        row["collapsed_seeds"] = sum(m.on_manifold < OFF_MANIFOLD for m in group)
        for field in SHARES:
            row[field] = mean_interval([getattr(m, field) for m in group], seeds, bounds=(0.0, 1.0))
        for field in RATIOS:
            row[field] = _geometric([getattr(m, field) for m in group], seeds)
        for field in ("margin", "loser_coefficient"):
            row[field] = mean_interval([getattr(m, field) for m in group], seeds)
        row["a_minus"] = {c: _difference(group, control) for c in (ALIKE, WINNER) if c != name and (control := _of(measures, c, step))}
        rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| arm | beta_eff | M* | steps | l_w / ref | l_l / ref | A | B | on-manifold | collapsed | accuracy | loser coefficient | A minus SFT .375 : .125 |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        against = row["a_minus"].get(ALIKE)
        cells = [row["arm"], f"{row['beta_eff']:,g}", row["stopping_margin"], str(row["step"])]
        cells += [_cell(row[field], 2) for field in (*RATIOS, "a", "b", "on_manifold")]
        cells += [f"{row['collapsed_seeds']} of {row['seeds']}", _cell(row["accuracy"], 2), _cell(row["loser_coefficient"], 3)]
        cells.append(f"{_cell(against['interval'], 2)}, p {against['p_value']:.2g}" if against else "-")
        yield "| " + " | ".join(cells) + " |"


def to_json(row: dict[str, Any]) -> dict[str, Any]:
    """A row as plain values."""
    plain = {name: value.to_json() if isinstance(value, Interval) else value for name, value in row.items() if name != "a_minus"}
    return plain | {"a_minus": {c: {"interval": d["interval"].to_json(), "p_value": d["p_value"]} for c, d in row["a_minus"].items()}}


def _of(measures: Sequence[Measure], arm: str, step: int) -> list[Measure]:
    return sorted((m for m in measures if (m.arm, m.step) == (arm, step)), key=lambda m: m.seed)


def _difference(group: Sequence[Measure], control: Sequence[Measure]) -> dict[str, Any]:
    found = paired_difference([m.a for m in group], [m.a for m in control], [m.seed for m in group])
    return {"interval": found.interval, "p_value": found.p_value}


def _geometric(values: Sequence[float], seeds: Sequence[int]) -> Interval:
    logs = mean_interval([math.log(v) for v in values], seeds)
    return Interval(*(math.exp(limit) if limit < 700 else math.inf for limit in (logs.value, logs.low, logs.high)), logs.n, logs.clusters)


def _margin_words(arm: Arm | None) -> str:
    stop = arm.stopping_margin if arm else None
    if arm is None or not arm.beta_eff:
        return "-"
    if stop is None:
        return "never repels"
    return "never stops" if math.isinf(stop) else f"{stop:.2g}"


def _cell(interval: Interval, digits: int) -> str:
    value, low, high = (f"{x:,.{digits}f}" if abs(x) < 1000 else f"{x:,.0f}" for x in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]"
