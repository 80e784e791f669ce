"""Gate loads as tables: which teacher counted how much, by domain and by noise level."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from ernie_core.report.page import mean
from ernie_core.train.watch import Row

_LAST_ROWS = 100
_SIGMA = re.compile(r"sigma-\d")
_OBJECTIVES = {"dm": "Matching (DM)", "ca": "Guidance (CA)"}


def gates_section(rows: Sequence[Row]) -> str:
    """Of the newest rows that have loads; empty without any."""
    found = [row for row in rows if any(name.startswith("gate/") for name in row)][-_LAST_ROWS:]
    loads: dict[tuple[str, str, str], list[float]] = {}
    for row in found:
        for objective, teacher, part, value in read_gates(row):
            loads.setdefault((objective, teacher, part), []).append(value)
    if not loads:
        return ""
    means = {key: mean(values) for key, values in loads.items()}
    objectives = sorted({objective for objective, _, _ in means}, key=lambda name: (name != "dm", name))
    shown = "".join(_objective(name, {(t, p): v for (o, t, p), v in means.items() if o == name}) for name in objectives)
    last = len(found)
    return f'{shown}<p class="small">Mean weights over the last {last:,} rows that have them. Weights of matching sum to 1; those of guidance are strengths.</p>'


def read_gates(row: Row) -> Iterator[tuple[str, str, str, float]]:
    """Loads of a row: objective, teacher, what it is of ("", a domain, or "sigma-0" to "sigma-9"), and the mean weight."""
    for name, value in row.items():
        parts = name.split("/", 3)
        if parts[0] == "gate" and len(parts) > 2 and value is not None:
            yield parts[1], parts[2], parts[3] if len(parts) > 3 else "", value


def _objective(name: str, means: dict[tuple[str, str], float]) -> str:
    teachers = list(dict.fromkeys(teacher for teacher, _ in means))
    domains = sorted({part for _, part in means if part and not _SIGMA.fullmatch(part)})
    deciles = sorted({part for _, part in means if _SIGMA.fullmatch(part)})
    title = escape(_OBJECTIVES.get(name, name))
    parts = []
    if domains or any(not part for _, part in means):
        parts.append(_table(f"{title} by domain", ["all", *domains], ["", *domains], teachers, means))
    if deciles:
        parts.append(_table(f"{title} by noise level, sigma from", [f".{part[-1]}" for part in deciles], deciles, teachers, means))
    return "".join(parts)


def _table(title: str, heads: Sequence[str], keys: Sequence[str], teachers: Sequence[str], means: dict[tuple[str, str], float]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    rows = "".join(f'<tr><th scope="row">{escape(t)}</th>{"".join(_cell(means.get((t, key))) for key in keys)}</tr>' for t in teachers)
    return f'<div class="scroll"><table class="heat"><thead><tr><th scope="col">{title}</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(value: float | None) -> str:
    if value is None:
        return "<td></td>"
    share = round(100 * min(max(value, 0.0), 1.0))
    return f'<td class="n" style="background:color-mix(in srgb,var(--c0) {share // 2}%,transparent)">{value:.2f}</td>'
