"""What the experiments on pictures share: commands of ``ernie`` in this process, and how a result says what it is of."""

from __future__ import annotations

import contextlib
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any


def ernie(*arguments: str | Path | int, log: Path, allow: Sequence[int] = (0,)) -> int:
    """One command line of ``ernie`` in the folder of ``log``, in this process: its imports are paid once per process and not per run."""
    from ernie_core.cli.main import main

    with contextlib.chdir(log.parent), log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = main([str(argument) for argument in arguments])
    if code not in allow:
        raise SystemExit(f"ernie {' '.join(map(str, arguments))}: exit code {code}, expected {' or '.join(map(str, allow))}; see {log}")
    return code


def about(tool: str, jobs: int) -> dict[str, Any]:
    """Command, date and versions. The command is as others would give it: in a folder of their own."""
    import torch

    words = ["DIR" if before == "--out" else word for before, word in zip(["", *sys.argv[1:]], sys.argv[1:])]
    return {
        "command": shlex.join(["python", f"tools/bench/{tool}", *words]),
        "date": date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": f"CPU, {jobs} runs at a time, one thread each",
        },
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of Markdown."""
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
