"""Files that are made from the code and kept in the repository: write them, or check that they still match."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path


def write_or_check(path: Path, text: str, *, command: str, argv: list[str] | None = None) -> int:
    """The whole command line of a generator: writes ``text`` to ``path``, or with ``--check`` compares. Exit code 1: they differ."""
    parser = argparse.ArgumentParser(description=f"Write {path.name} from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file differs")
    if not parser.parse_args(argv).check:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
        return 0
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    if before == text:
        print(f"{path.name}: ok")
        return 0
    for line in difflib.unified_diff(before.splitlines(), text.splitlines(), path.name, "from the code", lineterm="", n=1):
        print(line)
    print(f"{path.name} does not match the code; run `{command}`")
    return 1
