"""The page from a run's story. It holds no time and loads nothing, so that the same folder gives the same bytes; everything from the folder is escaped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from ernie_align import telemetry as names
from ernie_align.report.charts import Chart, Line, Points, figure
from ernie_align.report.pictures import grids_section
from ernie_align.report.story import Story
from ernie_align.report.strengths import effective_strengths, mean_margin, strengths
from ernie_align.report.style import POLICY, STYLE
from ernie_align.telemetry import VALIDATION, AlarmConfig, ratios
from ernie_core.train.watch import Row

_LAST_ROWS = 5
_DRIFTS_SHOWN = 5
_EVENTS_SHOWN = 40


def report_html(story: Story) -> str:
    """The whole page."""
    title = escape(story.name)
    body = "".join(f"<section><h2>{heading}</h2>{text}</section>" for heading, text in _sections(story) if text)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY, quote=True)}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}: preference training</title><style>{STYLE}</style></head>\n'
        f'<body><header><h1>{title}</h1><p class="dim">Preference training, {len(story.training):,} logged rows to step {story.last_step:,}.</p>'
        f"{_tiles(story)}</header><main>{body}</main><footer><p>Written by <code>ernie align report</code> from the run's own logs. Errors are mean squared "
        "errors of the velocity; a margin is (l_lose - l_lose_ref) - (l_win - l_win_ref), positive where the policy improved more on the chosen picture. "
        "Curves with more than 300 points are means over neighbours.</p></footer></body></html>\n"
    )


def _sections(story: Story) -> Iterator[tuple[str, str]]:
    yield "Alarms", _alarms(story)
    yield "What was trained", _trained(story)
    yield "Preference", _charts(_preference(story)) if story.training else '<p class="dim">Nothing was logged yet.</p>'
    yield ("Held-out pairs" if story.is_held_out else "Validation, on pairs that are trained on"), _charts(_validation(story))
    yield "The same prompts and noise while training", grids_section(story.samples, story.config.get("samples", {}).get("prompts", []))
    yield "Events", _events(story)


# ---- the head ----


def _tiles(story: Story) -> str:
    if not story.training:
        return ""
    rows = story.training[-_LAST_ROWS:]
    win, lose = (_mean([pair[side] for row in rows if (pair := ratios(row))[side] is not None]) for side in (0, 1))
    margin, spread = _mean([row.get(names.MARGIN) for row in rows]), _mean([_spread(row) for row in rows])
    limits = story.alarms or AlarmConfig()
    tiles = [
        ("bad" if win > limits.win_ratio + limits.slack else "good", f"{win:.3g}", "chosen error / reference; good is below 1"),
        ("", f"{lose:.3g}", "rejected error / reference; rises in healthy runs too"),
        ("", f"{margin:.3g} &#177; {spread:.2g}", "margin, mean and spread over pairs"),
        ("", f"{_mean([row.get(names.IMPLICIT_ACCURACY) for row in rows]):.0%}", f"implicit accuracy, at ratios {win:.3g} and {lose:.3g}"),
        ("bad" if story.episodes else "good", str(len(story.episodes)), "alarms"),
    ]
    shown = "".join(f'<div class="tile {kind}"><b>{value}</b><span>{words}</span></div>' for kind, value, words in tiles)
    return f'<div class="tiles">{shown}</div><p class="small">Means over the last {len(rows)} logged rows.</p>'


def _alarms(story: Story) -> str:
    limits = story.alarms or AlarmConfig()
    rule = (
        f"Limits: chosen error over the reference's above {limits.win_ratio:g} for {limits.win_steps} steps; rejected above {limits.lose_ratio:g} together with "
        f"chosen above {limits.win_ratio:g} for {limits.lose_steps} steps; anything that is not finite."
    )
    off = "" if story.alarms else " Alarms were turned off in this run: it was not stopped by what follows."
    if not story.episodes:
        return f'<p class="calm">None.</p><p class="small">{escape(rule + off)}</p>'
    shown = "".join(
        f'<div class="alarm"><b class="bad">step {e.alarm.step:,}{f" to {e.until:,}" if e.until > e.alarm.step else ""}: {escape(e.alarm.rule)}</b><br>'
        f"{escape(e.alarm.found)}. That is, {escape(e.alarm.meaning)}.</div>"
        for e in story.episodes
    )
    before = [step for step in story.checkpoints if step <= story.episodes[0].alarm.since]
    good = (
        f"Checkpoints from before it began: {', '.join(f'step {step:,}' for step in before)}."
        if before
        else "No checkpoint is left from before it began."
    )
    return f'{shown}<p>{good}</p><p class="small">{escape(rule + off)}</p>'


def _trained(story: Story) -> str:
    stages = story.config.get("stages", [])
    words = "; ".join(
        f"{s.get('steps')} steps of {s.get('batch_size')} pairs at {s.get('size_px')} px" for s in stages if isinstance(s, dict)
    )
    optimizer, model = story.config.get("optimizer", {}), story.config.get("model", {})
    rows = [
        *strengths(story.method, story.training),
        ("stages", words),
        ("learning rate", f"{optimizer.get('learning_rate', '?')}, {story.config.get('schedule', {}).get('kind', '?')}"),
        ("started from", str(model.get("init", "a new model"))),
        ("checkpoints", ", ".join(str(step) for step in story.checkpoints) or "none"),
    ]
    shown = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<div class="scroll"><table><tbody>{shown}</tbody></table></div>'


# ---- charts ----


def _charts(figures: Iterator[str]) -> str:
    shown = "".join(figures)
    return f'<div class="charts">{shown}</div>' if shown else ""


def _preference(story: Story) -> Iterator[str]:
    rows, limits = story.training, story.alarms or AlarmConfig()
    spans = [(float(e.alarm.since), float(e.until)) for e in story.episodes]
    win = Line("chosen / reference", _points(rows, lambda row: ratios(row)[0]), 0)
    lose = Line("rejected / reference", _points(rows, lambda row: ratios(row)[1]), 1)
    marks = [(limits.win_ratio, "limit of chosen"), (limits.lose_ratio, "limit beside chosen")]
    accuracy = Line("implicit accuracy", _points(rows, _value(names.IMPLICIT_ACCURACY)), 2)
    yield figure(
        "Errors over the reference's, and implicit accuracy",
        "The chosen ones' ratio should fall below 1; the rejected ones' rises in healthy runs too. Accuracy says nothing without the ratios: training that has "
        "collapsed reaches 1 as well.",
        [Chart([win, lose], marks=marks, spans=spans, log=True), Chart([accuracy], limits=(0.0, 1.0), spans=spans)],
    )
    margin = _points(rows, _value(names.MARGIN))
    low = _points(rows, lambda row: _plus(row.get(names.MARGIN), -_spread(row)))
    high = _points(rows, lambda row: _plus(row.get(names.MARGIN), _spread(row)))
    stops = [mean_margin(story.method.get("loss", {}), strength) for strength in effective_strengths(rows) or (math.nan,)]
    levels = [(0.0, ""), *((stop, "M*") for stop in stops if stop is not None and math.isfinite(stop))]
    yield figure(
        "Margin",
        "Mean over pairs, and one standard deviation to each side.",
        [Chart([Line("margin", margin, 2)], band=(low, high), marks=levels)],
    )
    errors = (
        (names.POLICY_WIN, "chosen"),
        (names.REFERENCE_WIN, "chosen, reference"),
        (names.POLICY_LOSE, "rejected"),
        (names.REFERENCE_LOSE, "rejected, reference"),
    )
    lines = [Line(label, _points(rows, _value(name)), colour) for (name, label), colour in zip(errors, (0, 4, 1, 5), strict=True)]
    yield figure("Errors", "Of policy and reference on the same pictures, noise and noise levels.", [Chart(lines, log=True)])
    yield figure(
        "Saturation",
        "Mean weight of a pair in the gradient: 1/2 at the start, towards 0 as margins are reached.",
        [Chart([Line("mean q", _points(rows, _value(names.SATURATION)), 3)], marks=[(0.5, "")])],
    )
    yield figure(
        "Coefficient of the rejected error",
        "In the gradient. Below 0 the rejected picture is repelled, above 0 it is trained towards.",
        [Chart([Line("coefficient", _points(rows, _value(names.LOSER_COEFFICIENT)), 1)], marks=[(0.0, "0")])],
    )
    yield figure("Loss", "As it is trained on, with its anchors.", [Chart([Line("loss", _points(rows, _value(names.LOSS)), 4)])])


def _validation(story: Story) -> Iterator[str]:
    rows = story.validation
    if not rows:
        return
    of, seen = (
        ("held-out", "") if story.is_held_out else ("training", " The run has no [validation] data: these pairs are trained on as well.")
    )
    yield figure(
        f"Flow loss on {of} chosen pictures",
        f"Mean squared velocity error at fixed noise. It should not rise.{seen}",
        [Chart([Line("flow loss", _points(rows, _value("validation/loss")), 0)])],
    )
    margin = _points(rows, _value(VALIDATION + names.MARGIN))
    accuracy = _points(rows, _value(VALIDATION + names.IMPLICIT_ACCURACY))
    if margin:
        trained = [
            Line("chosen / reference, training", _points(story.training, lambda row: ratios(row)[0]), 0),
            Line("rejected / reference, training", _points(story.training, lambda row: ratios(row)[1]), 1),
        ]
        yield figure(
            f"Margin and implicit accuracy, {of} pairs",
            f"Accuracy beside the ratios of training, without which it says nothing.{seen}",
            [
                Chart([Line("margin", margin, 2)], marks=[(0.0, "")]),
                Chart([Line("implicit accuracy", accuracy, 3)], limits=(0.0, 1.0)),
                Chart(trained, marks=[(1.0, "")], log=True),
            ],
        )
    drifting = [(row, found) for row in rows if (found := _drift(row))]
    if drifting:
        last = len(drifting) - 1
        places = list(dict.fromkeys(round(k * last / max(_DRIFTS_SHOWN - 1, 1)) for k in range(_DRIFTS_SHOWN)))
        lines = [Line(f"step {drifting[i][0]['step']:,}", drifting[i][1], colour) for colour, i in enumerate(places)]
        yield figure(
            "Drift by noise level",
            f"Mean squared distance of the policy's velocity from the reference's, on {of} pictures, by decile of sigma.",
            [Chart(lines, x_label="sigma", log=True)],
        )
        means = [(float(row["step"] or 0), sum(y for _, y in found) / len(found)) for row, found in drifting]
        yield figure("Drift", "Mean over noise levels.", [Chart([Line("drift", means, 3)])])


def _events(story: Story) -> str:
    if not story.events:
        return ""
    first = "" if len(story.events) <= _EVENTS_SHOWN else f'<p class="small">The last {_EVENTS_SHOWN} of {len(story.events):,}.</p>'
    rows = "".join(
        f'<tr><td class="n">{event["step"]:,}</td><td>{escape(str(event.get("event", "")))}</td><td>'
        + escape(", ".join(f"{name}: {value}" for name, value in event.items() if name not in ("step", "event")))
        + "</td></tr>"
        for event in story.events[-_EVENTS_SHOWN:]
    )
    return f'{first}<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


# ---- values ----


def _points(rows: Sequence[Row], value: Callable[[Row], float | None]) -> Points:
    return [(float(row["step"] or 0), found) for row in rows if (found := value(row)) is not None]


def _value(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


def _spread(row: Row) -> float:
    """Standard deviation of the margin over the row's pairs; 0 where it is not known."""
    mean, square = row.get(names.MARGIN), row.get(names.MARGIN_SQUARED)
    return 0.0 if mean is None or square is None else math.sqrt(max(square - mean * mean, 0.0))


def _plus(value: float | None, more: float) -> float | None:
    return None if value is None else value + more


def _drift(row: Row) -> Points:
    found = [((d + 0.5) / 10, row.get(VALIDATION + names.DRIFT.format(d))) for d in range(10)]
    return [(sigma, value) for sigma, value in found if value is not None]


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
