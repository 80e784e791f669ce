"""``ernie distill drift``. Light until it is run."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_core.api import App

FILE = "drift.json"


def add_drift(groups: Any) -> None:
    """Add ``drift`` to the verbs of ``ernie distill``."""
    summary = "what a student retained of its teachers in each domain, from finished `ernie eval` folders"
    parser = groups.add_parser("drift", help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("--student", type=Path, required=True, metavar="EVALDIR", help="of the student, as users sample it")
    parser.add_argument(
        "--generalist", type=Path, required=True, metavar="EVALDIR", help="of the generalist, with its own steps and guidance"
    )
    parser.add_argument(
        "--expert", type=_named, action="append", default=[], metavar="NAME=EVALDIR", help="of an expert teacher; may be repeated"
    )
    parser.add_argument(
        "--floor",
        type=Path,
        metavar="EVALDIR",
        help="of what counts as nothing: an untrained model, or the generalist undistilled at the student's steps; default: 0",
    )
    parser.add_argument(
        "--domain",
        type=_named,
        action="append",
        default=[],
        metavar="NAME=TAG[,TAG]",
        help="prompts with any of these tags; default: each tag is a domain",
    )
    parser.add_argument("--metric", metavar="NAME", help="of the suite; default: the first of each prompt")
    parser.add_argument(
        "--delta", type=_delta, default=0.1, metavar="D", help="a prompt is worse if its score is lower by more than D (default 0.1)"
    )
    parser.add_argument("--resamples", type=_count, default=2000, metavar="N", help="of the bootstrap (default 2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the bootstrap")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"for {FILE}")
    parser.add_argument("--json", action="store_true", help=f"print {FILE} instead of a table")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, app: App) -> int:
    from ernie_core import io
    from ernie_core.evaluation.read import read_finished
    from ernie_distill.drift.assess import Question, assess
    from ernie_distill.drift.table import lines

    question = Question(
        student=read_finished(arguments.student),
        generalist=read_finished(arguments.generalist),
        experts={name: read_finished(Path(folder)) for name, folder in _once("--expert", arguments.expert).items()},
        floor=None if arguments.floor is None else read_finished(arguments.floor),
        domains={name: _tags(name, tags) for name, tags in _once("--domain", arguments.domain).items()},
        metric=arguments.metric,
        delta=arguments.delta,
        resamples=arguments.resamples,
        seed=arguments.seed,
    )
    found = assess(question)
    io.make_folder(arguments.out)
    io.write_json(arguments.out / FILE, found)
    for line in [json.dumps(found, ensure_ascii=False)] if arguments.json else lines(found):
        app.out(line)
    for note in found["notes"]:
        app.err(f"note: {note}")
    return 0


def _once(option: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    from ernie_core.api import DataError

    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{option}: `{repeated[0]}` is given twice; give each name once")
    return dict(pairs)


def _tags(name: str, text: str) -> tuple[str, ...]:
    from ernie_core.api import DataError

    tags = tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
    if not tags:
        raise DataError(f"--domain {name}={text}: names no tag; expected NAME=TAG[,TAG]")
    return tags


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} has not the form NAME=VALUE")
    return name, value


def _delta(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of 0 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 100:
        raise argparse.ArgumentTypeError(f"{value} resamples give no interval; expected 100 or more")
    return value
