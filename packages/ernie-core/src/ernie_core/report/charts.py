"""Line charts as inline SVG, coloured by the page's stylesheet, without a library and without anything to load."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 24, 10, 30
_TICKS = 5
_POINTS = 300

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    name: str
    points: Points
    colour: int = 0
    """Class c0 to c5 of the stylesheet."""


@dataclass(frozen=True)
class Chart:
    """``band``: lower and upper edge around the first line. ``marks``: horizontal lines, value and label. ``spans``: shaded ranges of x.
    ``log``: a logarithmic axis where all values are above 0 and reach over more than a decade and a half."""

    lines: Sequence[Line]
    x_label: str = "step"
    band: tuple[Points, Points] | None = None
    marks: Sequence[tuple[float, str]] = ()
    spans: Sequence[tuple[float, float]] = ()
    log: bool = False
    limits: tuple[float, float] | None = None


def figure(title: str, note: str, charts: Iterable[Chart]) -> str:
    """One figure of charts below each other, with a legend."""
    drawn = list(charts)
    keys = dict.fromkeys((line.name, line.colour) for chart in drawn for line in chart.lines)
    legend = "".join(f'<span><i class="key c{colour}"></i>{escape(name)}</span> ' for name, colour in keys)
    svgs = "".join(svg(chart, title) for chart in drawn)
    return f'<figure class="chart"><figcaption><b>{escape(title)}</b> <span class="legend">{legend}</span></figcaption>{svgs}<p class="small">{escape(note)}</p></figure>'


def svg(chart: Chart, title: str) -> str:
    """One element. Points that are not finite are left out; a chart without points says so."""
    lines = [Line(line.name, thinned(line.points), line.colour) for line in chart.lines]
    band = tuple(thinned(edge) for edge in chart.band) if chart.band else ()
    every = [point for points in (*(line.points for line in lines), *band) for point in points]
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
    if not every:
        return f'{head}<text x="{_LEFT}" y="{HEIGHT // 2}">no data</text></svg>'
    axes = _Axes.over(every, chart)
    parts = [head]
    for low, high in chart.spans:
        left, right = axes.x(low), axes.x(high)
        parts.append(
            f'<rect class="span" x="{left:.1f}" y="{_TOP}" width="{max(right - left, 2):.1f}" height="{HEIGHT - _TOP - _BOTTOM}"/>'
        )
    for value in axes.y_ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {axes.y(value):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{axes.y(value) + 4:.1f}">{_number(value)}</text>')
    for value in ticks(*axes.x_range):
        parts.append(f'<text class="x" x="{axes.x(value):.1f}" y="{HEIGHT - _BOTTOM + 15}">{_number(value)}</text>')
    parts.append(f'<text class="y" x="{WIDTH - _RIGHT}" y="{HEIGHT - 2}">{escape(chart.x_label)}</text>')
    if band:
        outline = [*band[1], *reversed(band[0])]
        parts.append(f'<path class="band c{lines[0].colour}" d="M{_path(axes, outline)}Z"/>')
    for i, (value, label) in enumerate(chart.marks):
        if axes.y_range[0] <= value <= axes.y_range[1]:
            parts.append(f'<path class="mark" d="M{_LEFT} {axes.y(value):.1f}H{WIDTH - _RIGHT}"/>')
            place = (
                f'class="y label" x="{WIDTH - _RIGHT - 2}"' if i % 2 == 0 else f'class="label" x="{_LEFT + 4}"'
            )  # so that two near ones can be read
            parts.append(f'<text {place} y="{axes.y(value) - 4:.1f}">{escape(label)}</text>')
    for line in lines:
        if len(line.points) == 1:
            parts.append(
                f'<circle class="dot c{line.colour}" cx="{axes.x(line.points[0][0]):.1f}" cy="{axes.y(line.points[0][1]):.1f}" r="3"/>'
            )
        elif line.points:
            parts.append(f'<path class="line c{line.colour}" d="M{_path(axes, line.points)}"/>')
    parts.append("</svg>")
    return "".join(parts)


@dataclass(frozen=True)
class _Axes:
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool
    y_ticks: list[float] = field(default_factory=list)

    @classmethod
    def over(cls, points: Points, chart: Chart) -> _Axes:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        near = max(ys) - min(ys) or abs(ys[0]) or 1.0
        ys += [value for value, _ in chart.marks if min(ys) - near <= value <= max(ys) + near]  # a far limit must not flatten the line
        x_range = _widened(min(xs), max(xs))
        if chart.log and min(ys) > 0 and max(ys) / min(ys) > 30:
            low, high = 10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys)))
            powers = round(math.log10(high / low))
            return cls(x_range, (low, high), True, [low * 10**k for k in range(0, powers + 1, max(1, powers // _TICKS))])
        low, high = chart.limits or _widened(min(ys), max(ys))
        spare = 0.0 if chart.limits else 0.06 * (high - low)
        return cls(x_range, (low - spare, high + spare), False, ticks(low - spare, high + spare))

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (min(max(value, low), high) - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        (low, high), at = self.y_range, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return HEIGHT - _BOTTOM - (at - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)


def thinned(points: Points, most: int = _POINTS) -> list[tuple[float, float]]:
    """Finite points; where there are more than ``most``, means over neighbours."""
    finite = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = math.ceil(len(finite) / most) or 1
    chunks = [finite[i : i + size] for i in range(0, len(finite), size)]
    return [(chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside the range."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _widened(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    half = abs(low) / 2 or 0.5
    return low - half, high + half


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and 1 <= abs(value) < 1e7 else f"{value:.4g}"


def _path(axes: _Axes, points: Points) -> str:
    return "L".join(f"{axes.x(x):.1f} {axes.y(y):.1f}" for x, y in points)
