"""The page from a run's story, what drift was found, and pictures. It holds no time and loads nothing; everything from outside is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ernie_core.report.charts import Chart, Line, figure
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
from ernie_distill import telemetry as names
from ernie_distill.report.drift import drift_section
from ernie_distill.report.gates import gates_section
from ernie_distill.report.side_by_side import Sides, sides_section
from ernie_distill.report.story import Story
from ernie_distill.telemetry import VALIDATION, AlarmConfig

_LAST_VALUES = 5
_FOOTER = (
    "Written by <code>ernie distill report</code> from the run's own logs. Predictions are of the clean sample; gradients are root mean squares in latent units "
    "before they are normalised. Saturation and diversity compare pictures of student and guided generalist from the same noise. Curves with more than 300 "
    "points are means over neighbours."
)


def report_html(story: Story, drift: Mapping[str, Any] | None = None, sides: Sides | None = None) -> str:
    """The whole page.

    Args:
        drift: what ``read_drift`` gave.

    Raises:
        DataError: a picture is not the one that was judged.
    """
    return page(
        story.name,
        about="distillation",
        lead=f"Distillation to {story.method.get('steps', '?')} steps, {len(story.rows):,} logged rows to step {story.last_step:,}.",
        head_html=_tiles(story, drift),
        sections=_sections(story, drift, sides),
        footer_html=_FOOTER,
    )


def _sections(story: Story, drift: Mapping[str, Any] | None, sides: Sides | None) -> Iterator[tuple[str, str]]:
    yield "Alarms", alarms_section(story.episodes, story.checkpoints, limits=_limits(story), off=story.alarms is None)
    yield "Capability drift", drift_section(drift) if drift is not None else ""
    yield "Teacher and student", sides_section(sides) if sides is not None else ""
    yield "Pictures against the teacher's", charts_section(_pictures(story))
    yield "Matching and guidance", charts_section(_matching(story)) if story.rows else '<p class="dim">Nothing was logged yet.</p>'
    yield "Whom the gates asked", gates_section(story.rows)
    yield "What was trained", facts_table([*_method(story.method), *training_facts(story.config, story.checkpoints, unit="prompts")])
    yield "The same prompts and noise while training", grids_section(story.samples, story.config.get("samples", {}).get("prompts", []))
    yield "Events", events_section(story.events)


# ---- the head ----


def _tiles(story: Story, drift: Mapping[str, Any] | None) -> str:
    limits = story.alarms or AlarmConfig()
    found = []
    saturation, diversity, ratio = (
        _last(story, name) for name in (VALIDATION + names.SATURATION, VALIDATION + names.DIVERSITY, names.RATIO)
    )
    if saturation is not None:
        good = limits.saturation_below <= saturation <= limits.saturation_above
        found.append(("good" if good else "bad", f"{saturation:.3g}", "saturation; the teacher's is 1"))
    if diversity is not None:
        found.append(("good" if diversity >= limits.diversity_below else "bad", f"{diversity:.3g}", "diversity; the teacher's is 1"))
    if ratio is not None:
        found.append(("good" if ratio <= limits.ratio else "bad", f"{ratio:.3g}", "guidance over matching; about 1 in balance"))
    if (fake := _last(story, names.FAKE_LOSS)) is not None:
        found.append(("", f"{fake:.3g}", "fake score's loss"))
    if drift is not None:
        value = drift["drift"]["best"]["value"]
        found.append(("", "undefined" if value is None else f"{value:.1%}", "drift: lost in the worst domain, against its best teacher"))
    found.append(("bad" if story.episodes else "good", str(len(story.episodes)), "alarms"))
    return tiles(found, f"Means over the last {_LAST_VALUES} values; drift from its own evaluations.")


def _last(story: Story, name: str) -> float | None:
    values = [value for row in story.rows if (value := row.get(name)) is not None][-_LAST_VALUES:]
    return mean(values) if values else None


def _limits(story: Story) -> str:
    c = story.alarms or AlarmConfig()
    return (
        f"Limits: saturation outside {c.saturation_below:g} to {c.saturation_above:g} for {c.saturation_steps} steps; diversity below {c.diversity_below:g} for "
        f"{c.diversity_steps} steps; the fake score's loss, over {c.fake_steps} steps, above {c.fake_ratio:g} times its least; guidance over matching above "
        f"{c.ratio:g} for {c.ratio_steps} steps; anything that is not finite. The fake score's warm-up is not judged."
    )


def _method(method: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Options as rows; those of ``alarms`` stand with the alarms."""
    return [(name, _shown(value)) for name, value in method.items() if name not in ("use", "alarms")]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "; ".join(_shown(inner) for inner in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---- charts ----


def _pictures(story: Story) -> Iterator[str]:
    limits, spans = story.alarms or AlarmConfig(), spans_of(story.episodes)
    for name, title, note, marks in (
        (
            names.SATURATION,
            "Saturation",
            "Standard deviation of the student's clean samples over the guided teacher's, at the same noise in validation.",
            [(limits.saturation_above, "limit"), (1.0, "the teacher's"), (limits.saturation_below, "limit")],
        ),
        (
            names.DIVERSITY,
            "Diversity",
            "Spread of the student's samples of one prompt over the guided teacher's, from the same two noises in validation.",
            [(1.0, "the teacher's"), (limits.diversity_below, "limit")],
        ),
    ):
        if found := points(story.rows, VALIDATION + name):
            yield figure(title, note, [Chart([Line(title.lower(), found, 2)], marks=marks, spans=spans)])
    if found := points(story.rows, names.STUDENT_STD):
        yield figure(
            "The student's standard deviation in training",
            "Of its clean samples over places, in latent units.",
            [Chart([Line("deviation", found, 0)], spans=spans)],
        )
    if found := points(story.rows, names.REWARD):
        yield figure("Reward", "Mean over the student's pictures, in the scorer's unit.", [Chart([Line("reward", found, 3)], spans=spans)])


def _matching(story: Story) -> Iterator[str]:
    rows, limits, spans = story.rows, story.alarms or AlarmConfig(), spans_of(story.episodes)
    yield figure(
        "The fake score's loss",
        "On the student's own samples. It should not rise: a rising one has lost the student, or the student spreads out.",
        [Chart([Line("fake loss", points(rows, names.FAKE_LOSS), 0)], spans=spans, log=True)],
    )
    ratio = points(rows, names.RATIO)
    yield figure(
        "Guidance over matching",
        "After normalising and weighing. Large right after the warm-up, about 1 in balance; guidance alone has no fixed point.",
        [Chart([Line("ratio", ratio, 1)], marks=[(1.0, "balance"), (limits.ratio, "limit")], spans=spans, log=True)],
    )
    for title, note, parts in (
        ("Gradients", "Root mean square before normalising.", ((names.MATCH_NORM, "matching"), (names.GUIDANCE_NORM, "guidance"))),
        (
            "Normalisers",
            "Mean absolute distance of the student's samples from the predictions that each gradient is divided by.",
            ((names.MATCH_SCALE, "matching"), (names.GUIDANCE_SCALE, "guidance")),
        ),
    ):
        lines = [Line(label, found, colour) for colour, (name, label) in enumerate(parts) if (found := points(rows, name))]
        if lines:
            yield figure(title, note, [Chart(lines, spans=spans, log=True)])
