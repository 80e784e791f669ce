"""The curation benchmark runs from the command line, at a size that proves only that it works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.battery

TOOL = Path(__file__).parent.parent / "tools" / "bench" / "curate.py"


def test_the_benchmark_runs_all_three_ways_and_writes_json():
    sizes = ["--pictures", "6", "--size", "96", "--to", "48", "--workers", "2", "--repeats", "1", "--json"]
    done = subprocess.run([sys.executable, TOOL, *sizes], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["images_per_s"]) == {"serial", "pool", "engine"}
    assert min(report["images_per_s"].values()) > 0
    assert report["engine_over_pool"] > 0
