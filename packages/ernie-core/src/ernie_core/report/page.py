"""The page's frame and its plain parts: tiles, tables, alarms, events. All text is escaped here; what is called html is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ernie_core.report.charts import Points
from ernie_core.report.run import Episode
from ernie_core.report.style import POLICY, STYLE
from ernie_core.train.watch import Row

_EVENTS_SHOWN = 40

Tile = tuple[str, str, str]
""""good", "bad" or ""; a value; what it is."""


def page(title: str, *, about: str, lead: str, head_html: str, sections: Iterable[tuple[str, str]], footer_html: str) -> str:
    """The whole page.

    Args:
        title: of the run.
        about: what the page is about, after the title in the browser's own.
        lead: one sentence below the title.
        head_html: after it, such as ``tiles``.
        sections: headings with their html; those without any are left out.
    """
    body = "".join(f"<section><h2>{escape(heading)}</h2>{html}</section>" for heading, html in sections if html)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY, quote=True)}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}: {escape(about)}</title><style>{STYLE}</style></head>\n'
        f'<body><header><h1>{escape(title)}</h1><p class="dim">{escape(lead)}</p>'
        f"{head_html}</header><main>{body}</main><footer><p>{footer_html}</p></footer></body></html>\n"
    )


def tiles(found: Sequence[Tile], note: str) -> str:
    shown = "".join(f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(words)}</span></div>' for kind, value, words in found)
    return f'<div class="tiles">{shown}</div><p class="small">{escape(note)}</p>'


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    shown = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<div class="scroll"><table><tbody>{shown}</tbody></table></div>'


def training_facts(config: Mapping[str, Any], checkpoints: Sequence[int], *, unit: str) -> list[tuple[str, str]]:
    """Rows on a run's stages, learning rate, start and checkpoints. ``unit``: what a batch consists of."""
    stages = "; ".join(
        f"{s.get('steps')} steps of {s.get('batch_size')} {unit} at {s.get('size_px')} px"
        for s in config.get("stages", [])
        if isinstance(s, dict)
    )
    optimizer, model = config.get("optimizer", {}), config.get("model", {})
    return [
        ("stages", stages),
        ("learning rate", f"{optimizer.get('learning_rate', '?')}, {config.get('schedule', {}).get('kind', '?')}"),
        ("started from", str(model.get("init", "a new model"))),
        ("checkpoints", ", ".join(str(step) for step in checkpoints) or "none"),
    ]


def alarms_section(found: Sequence[Episode], checkpoints: Sequence[int], *, limits: str, off: bool) -> str:
    """
    Args:
        limits: what an alarm would have been, in words.
        off: alarms were turned off, so that the run was not stopped by them.
    """
    rule = limits + (" Alarms were turned off in this run: it was not stopped by what follows." if off else "")
    if not found:
        return f'<p class="calm">None.</p><p class="small">{escape(rule)}</p>'
    shown = "".join(
        f'<div class="alarm"><b class="bad">step {e.alarm.step:,}{f" to {e.until:,}" if e.until > e.alarm.step else ""}: {escape(e.alarm.rule)}</b><br>'
        f"{escape(e.alarm.found)}. That is, {escape(e.alarm.meaning)}.</div>"
        for e in found
    )
    before = [step for step in checkpoints if step <= found[0].alarm.since]
    good = (
        f"Checkpoints from before it began: {', '.join(f'step {step:,}' for step in before)}."
        if before
        else "No checkpoint is left from before it began."
    )
    return f'{shown}<p>{good}</p><p class="small">{escape(rule)}</p>'


def charts_section(figures: Iterable[str]) -> str:
    """Empty without figures."""
    shown = "".join(figures)
    return f'<div class="charts">{shown}</div>' if shown else ""


def events_section(events: Sequence[Mapping[str, Any]]) -> str:
    """The newest events of a run's ledger; empty without any."""
    if not events:
        return ""
    first = "" if len(events) <= _EVENTS_SHOWN else f'<p class="small">The last {_EVENTS_SHOWN} of {len(events):,}.</p>'
    rows = "".join(
        f'<tr><td class="n">{event["step"]:,}</td><td>{escape(str(event.get("event", "")))}</td><td>'
        + escape(", ".join(f"{name}: {value}" for name, value in event.items() if name not in ("step", "event")))
        + "</td></tr>"
        for event in events[-_EVENTS_SHOWN:]
    )
    return f'{first}<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def spans_of(found: Sequence[Episode]) -> list[tuple[float, float]]:
    """The alarms' ranges of steps, for charts."""
    return [(float(e.alarm.since), float(e.until)) for e in found]


def points(rows: Sequence[Row], value: Callable[[Row], float | None] | str) -> Points:
    """Step and value of the rows that have it, of a metric by name or of a function of a row."""
    read = (lambda row: row.get(value)) if isinstance(value, str) else value
    return [(float(row["step"] or 0), found) for row in rows if (found := read(row)) is not None]


def mean(values: Iterable[float | None]) -> float:
    """Of those that are known; not a number without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
