"""The arguments of ``ernie distill teachers``. Light; the work is imported when it is done."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_core.api import App

_BUILD = """Each expert is an ordinary run, DIR/NAME. Afterwards: ernie train turbo.toml DIR/teachers.toml --out RUN. After a kill the same command goes on.
Exit codes: 0 done, 1 failed, 2 wrong input, 75 stopped by a signal."""


def add_teachers(groups: Any) -> None:
    """Add ``teachers`` to the verbs of ``ernie distill``."""
    teachers = groups.add_parser("teachers", help="make domain experts", description="Domain experts as teachers.", allow_abbrev=False)
    verbs = teachers.add_subparsers(required=True, metavar="VERB")
    summary = "fine-tune an expert for each domain over one shared base, with the method sft"
    build = verbs.add_parser("build", help=summary, description=summary, epilog=_BUILD, allow_abbrev=False)
    build.add_argument("config", type=Path, metavar="CONFIG.toml", help="what all experts share, and [[experts]]")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one key of CONFIG.toml")
    build.add_argument("--nproc", type=int, metavar="N", help="start N ranks on this machine for each run")
    build.set_defaults(run=_build)


def _build(arguments: argparse.Namespace, app: App) -> int:
    from ernie_distill.experts.build import build_teachers

    return build_teachers(arguments.config, arguments.set, arguments.out, app, ranks=arguments.nproc)
