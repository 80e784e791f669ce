"""Line charts as inline SVG, without a library and without anything to load."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1f5fbf", "#c2410c", "#15803d", "#7e22ce", "#0e7490")
_WIDTH, _HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 28, 34
_TICKS = 5

Points = Sequence[tuple[float, float]]


def line_chart(title: str, lines: Mapping[str, Points], *, x_label: str = "step") -> str:
    """One SVG element. Points that are not finite are left out; a chart without points says so."""
    finite = {name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for name, points in lines.items()}
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
    ]
    parts.append(f'<text x="{_LEFT}" y="16" class="title">{escape(title)}</text>')
    every = [p for points in finite.values() for p in points]
    if not every:
        parts.append(f'<text x="{_LEFT}" y="{_HEIGHT // 2}">no data</text></svg>')
        return "".join(parts)
    x_low, x_high = _range([x for x, _ in every])
    y_low, y_high = _range([y for _, y in every])

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    for value in ticks(y_low, y_high):
        _, y = at(x_low, value)
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" class="grid"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" class="y">{value:g}</text>'
        )
    for value in ticks(x_low, x_high):
        x, _ = at(value, y_low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" class="x">{value:g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" class="y">{escape(x_label)}</text>')
    for i, (name, points) in enumerate(finite.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*p) for p in points))
        if path:
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{16 + 14 * i}" class="y" style="fill:{colour}">{escape(name)}</text>')
    parts.append("</svg>")
    return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside the range."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
