"""The records' way through the stages, as inline SVG. Every text that is put in is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ernie_data.report.charts import short

Stage = tuple[str, int, int, Mapping[str, int]]
"""Name, entered, accepted, rejected by reason."""

_WIDE = 1096
_END = 92
_ROOMY, _REFUSING, _NARROW = 118, 128, 60
_NODE, _TOP, _TALL, _SINK, _LINE = 14, 66, 150, 276, 16
_LISTED = 6
_THICKEST_SINK = 36.0


def flow(stages: Sequence[Stage], records: int) -> str:
    """The band's height is the number of records; what leaves it is rejected, by reason. With many stages those that refuse nothing take less room."""
    most = max((len(rejected) for *_, rejected in stages), default=0)
    height = _SINK + 24 + _LINE * min(most, _LISTED + 1)
    steps = _steps(stages)
    width = sum(steps) + _END
    tight = bool(steps) and min(steps) < _ROOMY
    parts = [f'<svg class="flow" role="img" aria-label="records by stage" viewBox="0 0 {width} {height}" style="width:{width}px">']
    labels: list[tuple[str, int, int, bool]] = []
    x = 8
    for number, (stage, step) in enumerate(zip(stages, steps)):
        parts.append(_node(stage, x, step, records))
        labels.append((stage[0], stage[1], x, not tight or number % 2 == 1))
        if stage[3]:
            parts.append(_rejected(stage, x, records))
        x += step
    accepted = stages[-1][2] if stages else records
    parts.append(f'<rect class="node good" x="{x}" y="{_TOP}" width="{_NODE}" height="{max(_tall(accepted, records), 2):.1f}" rx="2"/>')
    labels.append(("accepted", accepted, x, not tight or len(stages) % 2 == 1))
    parts += [f'<path class="lead" d="M{at + 1},18 V58"/>' for *_, at, low in labels if not low]
    parts += [_label(*label) for label in labels]
    return f'<div class="scroll">{"".join(parts)}</svg></div>'


def _steps(stages: Sequence[Stage]) -> list[int]:
    """Widths of the stages."""
    if len(stages) * _ROOMY <= _WIDE - _END:
        return [min((_WIDE - _END) // max(len(stages), 1), 190)] * len(stages)
    least = [_REFUSING if rejected else _NARROW for *_, rejected in stages]
    spare = max(_WIDE - _END - sum(least), 0) // len(stages)
    return [step + spare for step in least]


def _node(stage: Stage, x: int, step: int, records: int) -> str:
    name, entered, accepted, _ = stage
    inflow, outflow = max(_tall(entered, records), 2.0), _tall(accepted, records)
    return (
        f'<rect class="band" x="{x + _NODE}" y="{_TOP}" width="{step - _NODE}" height="{outflow:.1f}"/>'
        f'<rect class="node" x="{x}" y="{_TOP}" width="{_NODE}" height="{inflow:.1f}" rx="2"><title>{escape(name)}: {entered:,} in</title></rect>'
    )


def _label(name: str, count: int, x: int, low: bool) -> str:
    """Neighbours that stand close have their names at two heights."""
    words = f'<text class="name" x="{x}" y="{38 if low else 14}">{escape(short(name, 15))}</text>'
    return f'{words}<text class="count" x="{x if low else x + 5}" y="58">{count:,}</text>'


def _rejected(stage: Stage, x: int, records: int) -> str:
    """From the band's lower edge round a corner and down, and the reasons below."""
    _, entered, accepted, rejected = stage
    lost = sum(rejected.values())
    left, top = x + _NODE, _TOP + _tall(accepted, records)
    thick = max(_tall(lost, records), 2.0)
    inner, sink = left + 20, _SINK - 6
    outer = inner + min(thick, _THICKEST_SINK)
    path = (
        f"M{left},{top:.1f} Q{outer:.1f},{top:.1f} {outer:.1f},{sink} L{inner},{sink} Q{inner},{top + thick:.1f} {left},{top + thick:.1f} Z"
    )
    ranked = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{short(reason, 16)} {n:,}" for reason, n in ranked[:_LISTED]]
    if len(ranked) > _LISTED:
        lines.append(f"and {len(ranked) - _LISTED} more")
    texts = "".join(f'<text class="why" x="{x + 2}" y="{_SINK + 28 + _LINE * i}">{escape(line)}</text>' for i, line in enumerate(lines))
    share = f"&#8722;{lost:,} ({lost / max(entered, 1):.1%})"
    return f'<path class="drop" d="{path}"/><text class="lost" x="{x + 2}" y="{_SINK + 10}">{share}</text>{texts}'


def _tall(count: int, records: int) -> float:
    return _TALL * count / max(records, 1)
