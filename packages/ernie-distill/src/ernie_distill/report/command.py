"""``ernie distill report RUN``. Light until it is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_core.api import App


def add_report(groups: Any) -> None:
    """Add ``report`` to the verbs of ``ernie distill``."""
    summary = "one HTML page of what a run of method mt-dmd did: matching, gates, alarms, drift, teacher and student side by side"
    parser = groups.add_parser("report", help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="RUN", help="finished or not")
    parser.add_argument("--drift", type=Path, metavar="FILE", help="the drift.json of `ernie distill drift`")
    parser.add_argument(
        "--teacher-pictures", type=Path, metavar="EVALDIR", help="an `ernie eval` of the teacher, shown beside the student's"
    )
    parser.add_argument("--student-pictures", type=Path, metavar="EVALDIR", help="an `ernie eval` of the student, from the same noise")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="default: RUN/report.html")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, app: App) -> int:
    from ernie_core import io
    from ernie_core.api import DataError
    from ernie_distill.report.page import report_html
    from ernie_distill.report.side_by_side import read_sides
    from ernie_distill.report.story import read_drift, read_story, worst_ids

    folders = (arguments.teacher_pictures, arguments.student_pictures)
    if (folders[0] is None) != (folders[1] is None):
        raise DataError("--teacher-pictures and --student-pictures are shown side by side: give both, or neither")
    story = read_story(arguments.folder)
    drift = None if arguments.drift is None else read_drift(arguments.drift)
    sides = None if folders[0] is None else read_sides(*folders, worst=worst_ids(drift))
    out: Path = arguments.out or arguments.folder / "report.html"
    io.write_text(out, report_html(story, drift, sides))
    app.out(f"{out}: {len(story.rows)} rows to step {story.last_step}, {len(story.episodes)} alarms")
    for episode in story.episodes:
        app.out(f"  step {episode.alarm.step}: {episode.alarm.found}")
    return 0
