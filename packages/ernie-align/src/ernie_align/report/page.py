"""The page from a run's story. It holds no time and loads nothing, so that the same folder gives the same bytes; everything from the folder is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ernie_align import telemetry as names
from ernie_align.report.story import Story
from ernie_align.report.strengths import effective_strengths, mean_margin, strengths
from ernie_align.telemetry import VALIDATION, AlarmConfig, ratios
from ernie_core.report.charts import Chart, Line, Points, figure
from ernie_core.report.page import (
    alarms_section,
    charts_section,
    events_section,
    facts_table,
    mean,
    page,
    points,
    spans_of,
    tiles,
    training_facts,
)
from ernie_core.report.pictures import grids_section
from ernie_core.train.watch import Row

_LAST_ROWS = 5
_DRIFTS_SHOWN = 5
_FOOTER = (
    "Written by <code>ernie align report</code> from the run's own logs. Errors are mean squared errors of the velocity; a margin is "
    "(l_lose - l_lose_ref) - (l_win - l_win_ref), positive where the policy improved more on the chosen picture. Curves with more than 300 points are means "
    "over neighbours."
)


def report_html(story: Story) -> str:
    """The whole page."""
    return page(
        story.name,
        about="preference training",
        lead=f"Preference training, {len(story.training):,} logged rows to step {story.last_step:,}.",
        head_html=_tiles(story),
        sections=_sections(story),
        footer_html=_FOOTER,
    )


def _sections(story: Story) -> Iterator[tuple[str, str]]:
    yield "Alarms", _alarms(story)
    yield (
        "What was trained",
        facts_table([*strengths(story.method, story.training), *training_facts(story.config, story.checkpoints, unit="pairs")]),
    )
    yield "Preference", charts_section(_preference(story)) if story.training else '<p class="dim">Nothing was logged yet.</p>'
    yield ("Held-out pairs" if story.is_held_out else "Validation, on pairs that are trained on"), charts_section(_validation(story))
    yield "The same prompts and noise while training", grids_section(story.samples, story.config.get("samples", {}).get("prompts", []))
    yield "Events", events_section(story.events)


def _tiles(story: Story) -> str:
    if not story.training:
        return ""
    rows = story.training[-_LAST_ROWS:]
    win, lose = (mean(ratios(row)[side] for row in rows) for side in (0, 1))
    margin, spread = mean(row.get(names.MARGIN) for row in rows), mean(_spread(row) for row in rows)
    limits = story.alarms or AlarmConfig()
    found = [
        ("bad" if win > limits.win_ratio + limits.slack else "good", f"{win:.3g}", "chosen error / reference; good is below 1"),
        ("", f"{lose:.3g}", "rejected error / reference; rises in healthy runs too"),
        ("", f"{margin:.3g} \u00b1 {spread:.2g}", "margin, mean and spread over pairs"),
        ("", f"{mean(row.get(names.IMPLICIT_ACCURACY) for row in rows):.0%}", f"implicit accuracy, at ratios {win:.3g} and {lose:.3g}"),
        ("bad" if story.episodes else "good", str(len(story.episodes)), "alarms"),
    ]
    return tiles(found, f"Means over the last {len(rows)} logged rows.")


def _alarms(story: Story) -> str:
    limits = story.alarms or AlarmConfig()
    rule = (
        f"Limits: chosen error over the reference's above {limits.win_ratio:g} for {limits.win_steps} steps; rejected above {limits.lose_ratio:g} together with "
        f"chosen above {limits.win_ratio:g} for {limits.lose_steps} steps; anything that is not finite."
    )
    return alarms_section(story.episodes, story.checkpoints, limits=rule, off=story.alarms is None)


def _preference(story: Story) -> Iterator[str]:
    rows, limits = story.training, story.alarms or AlarmConfig()
    spans = spans_of(story.episodes)
    win = Line("chosen / reference", points(rows, lambda row: ratios(row)[0]), 0)
    lose = Line("rejected / reference", points(rows, lambda row: ratios(row)[1]), 1)
    marks = [(limits.win_ratio, "limit of chosen"), (limits.lose_ratio, "limit beside chosen")]
    accuracy = Line("implicit accuracy", points(rows, names.IMPLICIT_ACCURACY), 2)
    yield figure(
        "Errors over the reference's, and implicit accuracy",
        "The chosen ones' ratio should fall below 1; the rejected ones' rises in healthy runs too. Accuracy says nothing without the ratios: training that has "
        "collapsed reaches 1 as well.",
        [Chart([win, lose], marks=marks, spans=spans, log=True), Chart([accuracy], limits=(0.0, 1.0), spans=spans)],
    )
    margin = points(rows, names.MARGIN)
    low = points(rows, lambda row: _plus(row.get(names.MARGIN), -_spread(row)))
    high = points(rows, lambda row: _plus(row.get(names.MARGIN), _spread(row)))
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
    lines = [Line(label, points(rows, name), colour) for (name, label), colour in zip(errors, (0, 4, 1, 5), strict=True)]
    yield figure("Errors", "Of policy and reference on the same pictures, noise and noise levels.", [Chart(lines, log=True)])
    yield figure(
        "Saturation",
        "Mean weight of a pair in the gradient: 1/2 at the start, towards 0 as margins are reached.",
        [Chart([Line("mean q", points(rows, names.SATURATION), 3)], marks=[(0.5, "")])],
    )
    yield figure(
        "Coefficient of the rejected error",
        "In the gradient. Below 0 the rejected picture is repelled, above 0 it is trained towards.",
        [Chart([Line("coefficient", points(rows, names.LOSER_COEFFICIENT), 1)], marks=[(0.0, "0")])],
    )
    yield figure("Loss", "As it is trained on, with its anchors.", [Chart([Line("loss", points(rows, names.LOSS), 4)])])


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
        [Chart([Line("flow loss", points(rows, "validation/loss"), 0)])],
    )
    margin = points(rows, VALIDATION + names.MARGIN)
    accuracy = points(rows, VALIDATION + names.IMPLICIT_ACCURACY)
    if margin:
        trained = [
            Line("chosen / reference, training", points(story.training, lambda row: ratios(row)[0]), 0),
            Line("rejected / reference, training", points(story.training, lambda row: ratios(row)[1]), 1),
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


def _spread(row: Row) -> float:
    """Standard deviation of the margin over the row's pairs; 0 where it is not known."""
    mean, square = row.get(names.MARGIN), row.get(names.MARGIN_SQUARED)
    return 0.0 if mean is None or square is None else math.sqrt(max(square - mean * mean, 0.0))


def _plus(value: float | None, more: float) -> float | None:
    return None if value is None else value + more


def _drift(row: Row) -> Points:
    found = [((d + 0.5) / 10, row.get(VALIDATION + names.DRIFT.format(d))) for d in range(10)]
    return [(sigma, value) for sigma, value in found if value is not None]
