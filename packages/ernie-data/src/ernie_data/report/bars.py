"""Tables of the report whose rows hold bars: plain elements with widths in per cent, so that they fit any screen. All text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from ernie_data.report.charts import number, short


def counted(title: str, counts: Sequence[tuple[str, int]], *, of: int) -> str:
    """Bars of counts, with their share of ``of``."""
    most = max((n for _, n in counts), default=1)
    rows = "".join(
        f'<tr><th scope="row" title="{escape(name, quote=True)}">{escape(short(name, 36))}</th><td class="bar"><i style="width:{100 * n / max(most, 1):.2f}%"></i></td>'
        f'<td class="n">{n:,}</td><td class="n dim">{n / max(of, 1):.1%}</td></tr>'
        for name, n in counts
    )
    head = f"<caption>{escape(title)}</caption>" if title else ""
    return f'<table class="rows">{head}<tbody>{rows}</tbody></table>'


@dataclass(frozen=True)
class Balance:
    """A category's share of the records and of the draws. ``summed``: it stands for many categories, and gets no bars."""

    name: str
    records: int
    found: float
    drawn: float
    summed: bool = False


def before_and_after(rows: Sequence[Balance]) -> str:
    """Both shares of each category side by side, and what sampling multiplies the one with."""
    most = max((max(row.found, row.drawn) for row in rows if not row.summed), default=1.0) or 1.0
    lines = "".join(
        f'<tr><th scope="row" title="{escape(row.name, quote=True)}">{escape(short(row.name, 40))}</th><td class="n">{row.records:,}</td>'
        f'<td class="bar two">{_pair(row, most)}</td><td class="n">{row.found:.2%}</td><td class="n">{row.drawn:.2%}</td>'
        f'<td class="n {"up" if row.drawn > row.found else "down"}">{_times(row.drawn, row.found)}</td></tr>'
        for row in rows
    )
    return (
        '<table class="rows"><thead><tr><th>category</th><th class="n">records</th><th><span class="key"></span>found '
        '<span class="key after"></span>drawn</th><th class="n">found</th><th class="n">drawn</th><th class="n">factor</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _pair(row: Balance, most: float) -> str:
    if row.summed:
        return ""
    return f'<i style="width:{100 * row.found / most:.2f}%"></i><i class="after" style="width:{100 * row.drawn / most:.2f}%"></i>'


def boxes(rows: Sequence[tuple[str, NDArray[np.float64]]], *, low: float, high: float) -> str:
    """For each name the 5th, 25th, 50th, 75th and 95th percentile of its values between ``low`` and ``high``."""
    lines = []
    for name, values_N in rows:
        points = np.quantile(values_N, [0.05, 0.25, 0.5, 0.75, 0.95])
        at = 100 * (points - low) / max(high - low, 1e-12)
        words = f"5 to 95 %: {number(points[0])} to {number(points[4])}, quartiles {number(points[1])} and {number(points[3])}"
        lines.append(
            f'<tr><th scope="row" title="{escape(name, quote=True)}">{escape(short(name, 40))}</th><td class="n">{len(values_N):,}</td>'
            f'<td class="bar" title="{words}"><div class="box">'
            f'<s style="left:{at[0]:.2f}%;width:{at[4] - at[0]:.2f}%"></s><i style="left:{at[1]:.2f}%;width:{max(at[3] - at[1], 0.4):.2f}%"></i>'
            f'<b style="left:{at[2]:.2f}%"></b></div></td><td class="n">{number(points[2])}</td></tr>'
        )
    return (
        f'<table class="rows"><thead><tr><th>category</th><th class="n">records</th><th>{number(low)} <span class="right">{number(high)}</span></th>'
        f'<th class="n">median</th></tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )


def _times(drawn: float, found: float) -> str:
    if found <= 0:
        return "-"
    factor = drawn / found
    return f"&#215;{factor:.3g}" if factor >= 0.01 else "&#215;&lt;.01"
