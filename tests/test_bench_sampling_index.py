"""The sampling benchmark runs from the command line, at a size that proves only that it works."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.battery

TOOL = Path(__file__).parent.parent / "tools" / "bench" / "sampling_index.py"


def test_the_benchmark_writes_an_index_samples_it_and_checks_what_it_resolves(tmp_path):
    sizes = shlex.split("--rows 300000 --real 3000 --categories 50 --bins 16 --batch 128 --draws 5000 --resolve 1000")
    command = [sys.executable, TOOL, *sizes, "--folder", tmp_path, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["rows"], report["real_rows"], report["categories"], report["bins"], report["buckets"]) == (300_000, 3000, 50, 16, 75)
    for name in ("resident_mb", "minor_faults", "seek_s", "draws_per_s", "resolved_per_s"):
        assert report[name] > 0
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_make_no_sense_are_refused():
    done = subprocess.run([sys.executable, TOOL, "--rows", "10", "--real", "10"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--real must lie between 0 and --rows, found 10 and 10" in done.stderr
