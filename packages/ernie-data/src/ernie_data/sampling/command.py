"""``ernie data sampling plan``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ernie_core.api import ConfigError, Problem
from ernie_data.loading.opened import index_folder
from ernie_data.sampling.config import SamplingConfig, SamplingFile, read_sampling, wrong_value
from ernie_data.sampling.index import Index
from ernie_data.sampling.plan import KNOBS, RARELY, Plan, Summary, make_plan
from ernie_data.sampling.strategies import KNOBS_OF

if TYPE_CHECKING:
    from ernie_core.api import App

_TITLES = ("effective categories", "most repeated", "without caps", "at the cap", "to rare half", f"below {RARELY:g} epochs")


def plan(arguments: argparse.Namespace, app: App) -> int:
    """Arguments as ``ernie_data.sampling.verbs`` defines them.

    Raises:
        ConfigError: a wrong config or option, or caps that cannot be met.
        DataError: no usable index.
    """
    place: Path = arguments.source
    file = SamplingFile(index=str(place)) if place.is_dir() else read_sampling(place)
    if not file.index:
        raise ConfigError([Problem(str(place), '`index`: missing; expected the folder of a sampling index, as index = "..."')])
    fields = [field.name for field in msgspec.structs.fields(SamplingConfig)]
    chosen: dict[str, Any] = {name: getattr(file, name) for name in fields}
    given = {name: value for name in fields if (value := getattr(arguments, name)) is not None}
    problems = [
        Problem(f"--{name.replace('_', '-')} {value}", wrong) for name, value in given.items() if (wrong := wrong_value(name, value))
    ]
    if problems:
        raise ConfigError(problems)
    config = SamplingConfig(**{**chosen, **given})
    with Index(index_folder(Path(file.index))) as index:
        made = make_plan(index.tables.classes, index.tables.categories, config, top=arguments.top)
    if arguments.json:
        app.out(json.dumps({"index": file.index, **made.to_json()}, ensure_ascii=False, allow_nan=False))
    else:
        app.out("\n".join(report(made, file.index)))
    return 0


def report(made: Plan, where: str) -> Iterator[str]:
    """The plan as lines of text."""
    config, summary, free = made.config, made.summary, made.uncapped
    yield f"{where}: {made.pictures} pictures in {made.categories} categories, {made.draws} draws, {config.strategy}"
    yield "  " + ", ".join(f"{name} {_shown(getattr(config, name))}" for name in _mattering(config))
    yield ""
    yield "expected epochs per picture: " + ", ".join(f"{name} {_number(value)}" for name, value in made.epochs.items())
    yield f"effective categories {summary.effective_categories:.1f}, effective pictures {_number(summary.effective_pictures)}"
    yield f"the smaller half of the categories gets {summary.rare_share:.2%} of the draws"
    yield f"{summary.rarely_seen:.2%} of the pictures are expected less than {RARELY:g} times"
    yield (
        f"caps: without them up to {_number(free.most_repeated)} epochs and {free.effective_categories:.1f} effective categories; they move "
        f"{made.moved_by_caps:.2%} of the draws, and {summary.capped_pictures:.2%} of the pictures are at the cap"
    )
    if made.repeated:
        yield ""
        yield from _table(
            ("most repeated: category", "bin", "pictures", "mean score", "epochs each", "without caps"),
            [(r.category, str(r.bin), str(r.pictures), _number(r.score), _number(r.epochs), _number(r.uncapped)) for r in made.repeated],
        )
    for title, shifts in (("drawn more than found", made.gaining), ("drawn less than found", made.losing)):
        if shifts:
            yield ""
            yield from _table(
                (title, "pictures", "of pictures", "of draws"),
                [(s.category, str(s.pictures), f"{s.share_of_pictures:.3%}", f"{s.share_of_draws:.3%}") for s in shifts],
            )
    for knob, _, meaning in KNOBS:
        rows = [
            (_number(v.value) + ("  <-" if v.value == getattr(config, knob) else ""), v.summary) for v in made.variants if v.knob == knob
        ]
        if rows:
            yield ""
            yield f"{knob}: {meaning}"
            yield from _table((knob, *_TITLES), [(value, *_cells(s)) for value, s in rows])


def _cells(summary: Summary | None) -> tuple[str, ...]:
    if summary is None:
        return ("caps cannot be met", *[""] * (len(_TITLES) - 1))
    return (
        f"{summary.effective_categories:.1f}",
        _number(summary.most_repeated),
        _number(summary.most_uncapped),
        f"{summary.capped_pictures:.2%}",
        f"{summary.rare_share:.2%}",
        f"{summary.rarely_seen:.2%}",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """First column to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        yield "  " + "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))]).rstrip()


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 or value == float("inf") else f"{value:.0f}"


def _mattering(config: SamplingConfig) -> list[str]:
    """The knobs that have an effect under the chosen strategy."""
    some = {*KNOBS_OF[config.strategy], "max_repeats"}
    return [field.name for field in msgspec.structs.fields(SamplingConfig) if field.name in some]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{size}:{_number(score)}" for size, score in value) or "none"
    if isinstance(value, dict):
        return " ".join(f"{pattern}={_number(share)}" for pattern, share in value.items()) or "none"
    return _number(value)
