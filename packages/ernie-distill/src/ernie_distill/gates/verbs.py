"""``ernie distill gates fit``. Light until it is run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ernie_core.api import App


def add_gates(groups: Any) -> None:
    """Add ``gates`` to the verbs of ``ernie distill``."""
    gates = groups.add_parser("gates", help="the gate of a committee of teachers", allow_abbrev=False)
    verbs = gates.add_subparsers(required=True, metavar="VERB")
    summary = "fit the gate `learned` to the teachers' errors on the run's own pictures"
    parser = verbs.add_parser("fit", help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("configs", nargs="+", metavar="CONFIG.toml", help="the run's own; method.gate.fit says how")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="override one key")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder: the run's method.gate.path")
    parser.add_argument(
        "--points", metavar="DIR", help="where what the fit needs of the teachers' predictions is kept; default: DIR.points beside --out"
    )
    parser.set_defaults(run=_fit)


def _fit(arguments: argparse.Namespace, app: App) -> int:
    from ernie_distill.gates.fit_command import run

    out = arguments.out.rstrip("/")
    return run(arguments.configs, arguments.set, out, arguments.points or f"{out}.points", app)
