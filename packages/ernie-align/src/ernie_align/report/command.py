"""``ernie align report RUN [--out FILE.html]``. Light until it is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_core.api import App


def add_report(groups: Any) -> None:
    """Add ``report`` to the verbs of ``ernie align``."""
    summary = "one HTML page of what a run of method dpo did: margins, ratios, drift, alarms, pictures"
    parser = groups.add_parser("report", help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="RUN", help="finished or not")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="default: RUN/report.html")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, app: App) -> int:
    from ernie_align.report.page import report_html
    from ernie_align.report.story import read_story
    from ernie_core import io

    story = read_story(arguments.folder)
    out: Path = arguments.out or arguments.folder / "report.html"
    io.write_text(out, report_html(story))
    app.out(f"{out}: {len(story.training)} rows to step {story.last_step}, {len(story.episodes)} alarms")
    for episode in story.episodes:
        app.out(f"  step {episode.alarm.step}: {episode.alarm.found}")
    return 0
