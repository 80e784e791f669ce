"""The experiment on pictures runs from the command line at a size that proves only that it works; its figures are right on made-up verdicts."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.battery

BENCH = Path(__file__).parent.parent / "tools" / "bench"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the command leaves of two arms and two seeds."""
    folder = tmp_path_factory.mktemp("effect")
    sizes = "--generalist-steps 1 1 --expert-steps 1 --pictures 64 --updates 1 --warmup 1 --batch 2 --prompts 8 --samples 2 --seeds 0 1 --jobs 2"
    command = [sys.executable, BENCH / "distill_effect.py", "--out", "out", *sizes.split(), "--arms", "averaged", "gated"]
    done = subprocess.run(command, cwd=folder, timeout=500, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, command


def test_teachers_and_students_are_trained_judged_and_told(made):
    folder, _ = made
    report = json.loads(next((folder / "out").glob("distill-effect-*.json")).read_text())
    assert list(report["models"]) == ["generalist", "plain", "pointed", "floor", "guided"]
    assert [row["arm"] for row in report["rows"]] == ["averaged", "gated"]
    averaged, gated = report["rows"]
    assert len(averaged["ended"]) == len(averaged["right_by_seed"]) == 2
    assert averaged["gated_drift_minus_this"] is not None
    assert gated["gated_drift_minus_this"] is None
    text = next((folder / "out").glob("distill-effect-*.md")).read_text()
    assert "| gated | both experts, each for the prompts of its domain" in text
    sheet = Image.open(next((folder / "out").glob("distill-effect-*.png")))
    assert sheet.height == 30 + 50 * 6, "a row for each teacher, the floor and each arm"


def test_the_generalist_alone_is_told_wrong_captions(made):
    folder, _ = made
    wrong = {}
    for name in ("all", "plain"):
        rows = [json.loads(line) for line in (folder / "out" / "pictures" / name / "metadata.jsonl").read_text().splitlines()]
        shapes = [{shape for shape in ("circle", "square", "triangle", "cross") if shape in row["text"]} for row in rows]
        wrong[name] = sum(bool(found & {"triangle", "cross"}) for found in shapes)
    assert wrong["plain"] == 0
    assert 0 < wrong["all"] < 64


def test_the_same_command_goes_on_with_what_is_missing(made, check_goes_on):
    folder, command = made
    check_goes_on(command, folder, kept="out/run-gated-0/ended.json", lost="out/judged-gated-1/verdicts.jsonl")


def test_drift_is_of_the_worst_domain_against_its_best_teacher(made, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    table = importlib.import_module("distill_table")
    folder = made[0] / "out"
    right = {  # by model: share of circles and squares, of triangles and crosses
        "generalist": (0.8, 0.6),
        "plain": (1.0, 0.0),
        "pointed": (0.0, 0.9),
        "floor": (0.5, 0.1),
        "student-a": (0.9, 0.9),
        "student-b": (0.9, 0.5),
    }
    monkeypatch.setattr(table, "scores", lambda one, part: _scores(one, right))
    monkeypatch.setattr(table, "read_finished", lambda path: _Named(path.name, real.verdicts, real.prompts))
    monkeypatch.setattr(table, "check_comparable", lambda evals: [])
    monkeypatch.setattr(table, "read_pixels", lambda one: None)
    monkeypatch.setattr(table.Scores, "_looks", lambda *_: 1.0)
    from ernie_core.evaluation.read import read_finished

    real = read_finished(folder / "judged-generalist")
    models = {name: Path(name) for name in ("generalist", "plain", "pointed", "floor")}
    found = table.Scores(models, {"gated": [Path("student-a")], "averaged": [Path("student-a"), Path("student-b")]})
    gated, averaged = found.about("gated"), found.about("averaged")
    assert gated["retention"] == pytest.approx({"plain": 0.8, "pointed": 1.0})
    assert gated["drift"]["value"] == pytest.approx(0.2)
    assert averaged["retention"] == pytest.approx({"plain": 0.8, "pointed": 0.75}), "the mean of two seeds"
    assert averaged["drift_by_seed"] == pytest.approx([0.2, 0.5])
    assert found.drift_of_gated_minus("averaged")["value"] == pytest.approx(-0.05)
    plain = np.mean([any(s in real.verdicts[p].cluster for s in ("circle", "square")) for p in range(real.prompts)])
    assert 0 < plain < 1
    shares = np.array([plain, 1 - plain])
    assert averaged["over_generalist"]["value"] == pytest.approx(shares @ [0.9, 0.7] / (shares @ [0.8, 0.6]))


class _Named:
    def __init__(self, name, verdicts, prompts):
        self.name, self.verdicts, self.prompts = name, verdicts, prompts


def _scores(one, right):
    plain, pointed = right[one.name]
    return np.array([plain if any(s in one.verdicts[p].cluster for s in ("circle", "square")) else pointed for p in range(one.prompts)])
