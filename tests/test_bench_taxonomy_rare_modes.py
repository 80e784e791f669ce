"""The benchmarks of taxonomies and of rare categories run from the command line, at sizes that prove only that they work."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.battery

BENCH = Path(__file__).parent.parent / "tools" / "bench"


def run(tool: str, options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, BENCH / tool, *shlex.split(options)], capture_output=True, text=True, timeout=240, check=False)


def test_rare_categories_are_drawn_more_at_a_lower_power_up_to_the_cap():
    sizes = "--seeds 2 --common 2 --rare 6 --common-rows 2000 --rare-rows 20 --steps 40 --batch 32 --width 16"
    done = run("rare_modes.py", sizes + " --alphas 1 0.5 --json")
    assert done.returncode == 0, done.stderr
    natural, half = json.loads(done.stdout)["results"]
    rows = 2 * 2000 + 6 * 20
    assert natural["rare_draws_expected"]["mean"] == pytest.approx(40 * 32 * 20 / rows, abs=1e-3)
    flat = 20**0.5 / (2 * 2000**0.5 + 6 * 20**0.5)
    assert half["rare_draws_expected"]["mean"] == pytest.approx(min(4 * 20, 40 * 32 * flat), abs=1e-3)
    for result in (natural, half):
        for name in ("rare_recall", "rare_hits", "common_recall", "common_hits"):
            assert 0 <= result[name]["mean"] <= 1
            assert result[name]["low"] <= result[name]["mean"] <= result[name]["high"]


def test_a_taxonomy_is_grown_and_measured():
    done = run("taxonomy.py", "--rows 2000 --width 16 --leaves 100 --levels 1 2 --json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [result["nodes"] for result in report["results"]] == [[100], [10, 100]]
    for result in report["results"]:
        assert report["mean_squared_distance_of_true_groups"] / 2 < result["mean_squared_distance"] < 1


@pytest.mark.parametrize(("tool", "options"), [("rare_modes.py", "--rare 0"), ("taxonomy.py", "--leaves 0")])
def test_sizes_that_make_no_sense_are_refused(tool, options):
    done = run(tool, options)
    assert done.returncode == 2
    assert "must be at least 1" in done.stderr
