"""The transformer benchmark runs from the command line, at a size that proves only that it works."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.battery

TOOL = Path(__file__).parent.parent / "tools" / "bench" / "dit.py"


def test_the_benchmark_compares_every_kind_of_work_and_writes_json(tmp_path):
    out = tmp_path / "bench.json"
    sizes = [
        "--size",
        "32/2/2",
        "--ffn",
        "48",
        "--batch",
        "3",
        "--grid",
        "3x4",
        "--text",
        "5",
        "--steps",
        "2",
        "--pairs",
        "3",
        "--warmup",
        "1",
    ]
    done = subprocess.run([sys.executable, TOOL, *sizes, "--json", out], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [r["work"] for r in report["results"]] == ["forward", "train", "train-mixed", "sample"]
    for result in report["results"]:
        assert 0 < result["low"] <= result["ratio"] <= result["high"]
        assert math.isfinite(result["high"])
        assert result["work"] in done.stdout
    assert report["ops"] in done.stdout
