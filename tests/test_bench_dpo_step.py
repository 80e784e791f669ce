"""The benchmark of preference steps runs from the command line, at a size that proves only that it works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.battery

TOOL = Path(__file__).parent.parent / "tools" / "bench" / "dpo_step.py"


def test_the_benchmark_times_steps_and_counts_bytes(tmp_path):
    out = tmp_path / "bench.json"
    sizes = ["--size", "32/2/2", "--rank", "2", "--pairs", "2", "--grid", "3x4", "--text", "3", "--rounds", "2", "--warmup", "1"]
    done = subprocess.run([sys.executable, TOOL, *sizes, "--json", out], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    for row in report["time"].values():
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert report["memory"]["dpo"]["states"] == report["memory"]["sft"]["states"]
    assert 0.9 < report["memory_ratio"] <= 1.1, "the reference keeps nothing for backward"
    assert "of fine-tuning on the same 4 pictures" in done.stdout
