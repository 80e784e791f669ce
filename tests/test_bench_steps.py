"""The benchmarks of preference steps and of distillation's periods run from the command line, at a size that proves only that they work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.battery

TOOLS = Path(__file__).parent.parent / "tools" / "bench"
TINY = ["--size", "32/2/2", "--rank", "2", "--grid", "3x4", "--text", "3", "--rounds", "2", "--warmup", "1"]


def reported(tool, tmp_path, *options):
    out = tmp_path / "bench.json"
    command = [sys.executable, TOOLS / tool, *TINY, *options, "--json", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def test_a_preference_step_is_timed_and_its_bytes_counted(tmp_path):
    report, said = reported("dpo_step.py", tmp_path, "--pairs", "2")
    for row in report["time"].values():
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert report["memory"]["dpo"]["states"] == report["memory"]["sft"]["states"]
    assert 0.9 < report["memory_ratio"] <= 1.1, "the reference keeps nothing for backward"
    assert "of fine-tuning on the same 4 pictures" in said


def test_a_period_of_distillation_is_timed_and_teachers_cost_their_adapters(tmp_path):
    report, said = reported("distill_step.py", tmp_path, "--prompts", "2")
    assert 0 < report["time"]["low"] <= report["time"]["ratio"] <= report["time"]["high"]
    assert {int(k): row["adapters"] for k, row in report["memory"].items()} == {2: 1.0, 3: 2.0, 4: 3.0}
    assert "of its passes" in said
