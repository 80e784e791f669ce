"""Histograms of the report as inline SVG, and how numbers are written. Colours come from the page's style, so both themes work.

Every text that is put in is escaped here. A chart says its numbers in words as well.
"""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray


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
