"""``ernie distill VERB``. Light: a verb's work is imported when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ernie_distill.drift.command import add_drift
from ernie_distill.experts.command import add_teachers
from ernie_distill.gates.verbs import add_gates
from ernie_distill.report.command import add_report

if TYPE_CHECKING:
    from ernie_core.api import App


def main(argv: Sequence[str], app: App) -> int:
    """Exit code 0: done, 1: failed, 2: wrong input."""
    parser = argparse.ArgumentParser(prog="ernie distill", description="Distillation to few steps.", allow_abbrev=False)
    groups = parser.add_subparsers(required=True, metavar="VERB")
    add_teachers(groups)
    add_gates(groups)
    add_drift(groups)
    add_report(groups)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments, app)
