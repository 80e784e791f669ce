"""Refuse a pytest run with skipped tests, or with none: python tools/no_skips.py REPORT.xml (as written by ``pytest --junitxml``)."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def problems(report: Path) -> list[str]:
    suites = ElementTree.fromstring(report.read_text(encoding="utf-8")).iter("testsuite")
    cases = [case for suite in suites for case in suite.iter("testcase")]
    if not cases:
        return ["no test was run"]
    return [
        f"{case.get('classname')}.{case.get('name')} was skipped: {case.find('skipped').get('message')}"
        for case in cases
        if case.find("skipped") is not None
    ]


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) if found else "no test was skipped")
    raise SystemExit(1 if found else 0)
