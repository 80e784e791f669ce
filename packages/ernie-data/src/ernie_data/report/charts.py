"""Charts of the report as inline SVG. Colours come from the page's style, so both themes work.

Every text that is put in is escaped here. A chart says its numbers in words as well (``title`` elements, labels), for readers who see no chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_WIDE, _LEAST_STEP, _MOST_STEP = 1112, 118, 190
_NODE = 14
_TOP = 52
_TALL = 150
_SINK = 262
_LINE = 16
_LISTED = 6

Stage = tuple[str, int, int, Mapping[str, int]]
"""Name, entered, accepted, rejected by reason."""


def flow(stages: Sequence[Stage], records: int) -> str:
    """The records' way through the stages: the band's height is their number; what leaves it is rejected, by reason."""
    most = max((len(rejected) for *_, rejected in stages), default=0)
    height = _SINK + 24 + _LINE * min(most, _LISTED + 1)
    step = min(max((_WIDE - 110) // max(len(stages), 1), _LEAST_STEP), _MOST_STEP)
    width = step * len(stages) + 110
    parts = [f'<svg class="flow" role="img" aria-label="records by stage" viewBox="0 0 {width} {height}" style="width:{width}px">']
    for number, (name, entered, accepted, rejected) in enumerate(stages):
        x = 12 + number * step
        inflow, outflow = _tall(entered, records), _tall(accepted, records)
        lost = sum(rejected.values())
        parts.append(f'<rect class="band" x="{x + _NODE}" y="{_TOP}" width="{step - _NODE}" height="{outflow:.1f}"/>')
        if lost:
            parts.append(_drop(x + _NODE, _TOP + outflow, max(inflow - outflow, 2.0)))
        parts.append(
            f'<rect class="node" x="{x}" y="{_TOP}" width="{_NODE}" height="{max(inflow, 2):.1f}" rx="2"><title>{escape(name)}: {entered:,} in</title></rect>'
        )
        parts.append(
            f'<text class="name" x="{x}" y="20">{escape(short(name, step // 8))}</text><text class="count" x="{x}" y="40">{entered:,}</text>'
        )
        if lost:
            parts.append(f'<text class="lost" x="{x + 2}" y="{_SINK + 10}">&#8722;{lost:,} ({lost / max(entered, 1):.1%})</text>')
            ranked = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
            lines = [f"{reason} {n:,}" for reason, n in ranked[:_LISTED]] + (
                [f"and {len(ranked) - _LISTED} more"] if len(ranked) > _LISTED else []
            )
            parts += [
                f'<text class="why" x="{x + 2}" y="{_SINK + 28 + _LINE * i}">{escape(short(line, step // 6))}</text>'
                for i, line in enumerate(lines)
            ]
    end = 12 + len(stages) * step
    accepted = stages[-1][2] if stages else records
    parts.append(f'<rect class="node good" x="{end}" y="{_TOP}" width="{_NODE}" height="{max(_tall(accepted, records), 2):.1f}" rx="2"/>')
    parts.append(f'<text class="name" x="{end}" y="20">accepted</text><text class="count" x="{end}" y="40">{accepted:,}</text></svg>')
    return f'<div class="scroll">{"".join(parts)}</div>'


def _tall(count: int, records: int) -> float:
    return _TALL * count / max(records, 1)


def _drop(x: float, y: float, thick: float) -> str:
    """From the band's lower edge at (x, y), ``thick`` high, round a corner and down."""
    inner, outer, sink = x + 20, x + 20 + thick, _SINK - 6
    return f'<path class="drop" d="M{x},{y:.1f} Q{outer:.1f},{y:.1f} {outer:.1f},{sink} L{inner},{sink} Q{inner},{y + thick:.1f} {x},{y + thick:.1f} Z"/>'


def histogram(title: str, values_N: NDArray[np.float64], *, bins: int = 32, log: bool = False, note: str = "") -> str:
    """Counts over equal intervals (``log``: equal ratios) from the least to the greatest value; NaN is left out and counted in the caption."""
    seen = values_N[np.isfinite(values_N)]
    if not len(seen):
        return ""
    log = log and bool(seen.min() > 0)
    scaled = np.log(seen) if log else seen
    low, high = float(scaled.min()), float(scaled.max())
    if high <= low:
        return f'<figure class="chart"><figcaption><b>{escape(title)}</b> {number(float(seen[0]))} for all {len(seen):,}. {escape(note)}</figcaption></figure>'
    if np.array_equal(seen, np.rint(seen)) and not log:
        bins = int(min(bins, high - low + 1))
    counts, edges = np.histogram(scaled, bins=bins, range=(low, high))
    limits = np.exp(edges) if log else edges
    wide, tall = 340.0, 110.0
    step, top = wide / len(counts), int(counts.max())
    bars = "".join(
        f'<rect x="{i * step + 0.5:.1f}" y="{tall - tall * n / top:.1f}" width="{max(step - 1, 0.8):.1f}" height="{tall * n / top:.1f}">'
        f"<title>{number(limits[i])} to {number(limits[i + 1])}: {n:,}</title></rect>"
        for i, n in enumerate(counts.tolist())
        if n
    )
    quartiles = np.quantile(seen, [0.05, 0.5, 0.95])
    at = (np.log(quartiles[1]) if log else quartiles[1]) - low
    median = f'<line class="median" x1="{wide * at / (high - low):.1f}" x2="{wide * at / (high - low):.1f}" y1="0" y2="{tall}"/>'
    ticks = (
        f'<text x="0" y="{tall + 14}">{number(limits[0])}</text><text class="end" x="{wide}" y="{tall + 14}">{number(limits[-1])}</text>'
    )
    absent = len(values_N) - len(seen)
    words = f"median {number(quartiles[1])}, 90&#8239;% between {number(quartiles[0])} and {number(quartiles[2])}"
    words += f"; {absent:,} without" if absent else ""
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b> {escape(note)}</figcaption><svg class="bars" role="img" '
        f'aria-label="{escape(title, quote=True)}" viewBox="0 0 {wide:.0f} {tall + 18:.0f}">{bars}{median}{ticks}</svg>'
        f'<p class="small">{words}</p></figure>'
    )


def number(value: float) -> str:
    """Three or four digits, as people write them."""
    value = float(value)
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
