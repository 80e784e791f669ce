"""The benchmark of finding duplicates works, at a tiny size, and finds every planted copy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.battery

TOOL = Path(__file__).parent.parent / "tools" / "bench" / "duplicates.py"


def test_every_planted_copy_is_found_and_nothing_else():
    done = subprocess.run(
        [sys.executable, str(TOOL), "--rows", "6000", "--hamming", "6", "--json"], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)
    assert found["refused"] == found["planted"] == 720
    assert (found["exact"], found["near"]) == (120, 600)
    assert found["peak_mib"] > 0
