"""``ernie align pairs import|build|inspect``. Light: a verb's work is imported when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ernie_align.pairs.verbs import add_pairs

if TYPE_CHECKING:
    from ernie_core.api import App


def main(argv: Sequence[str], app: App) -> int:
    """Exit code 0: done, 1: failed, 2: wrong input."""
    parser = argparse.ArgumentParser(prog="ernie align", description="Fine-tuning and preference training.", allow_abbrev=False)
    groups = parser.add_subparsers(required=True, metavar="VERB")
    add_pairs(groups)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments, app)
