"""The experiment on pictures runs from the command line at a size that proves only that it works; its figures are right on made-up verdicts."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.battery

BENCH = Path(__file__).parent.parent / "tools" / "bench"
BASE = """codec = { use = "pixel", patch = 4, scale = 1.4 }
encoder = { use = "bytes", width = 128, byte_width = 64 }
data = { use = "shapes", profile = "quick" }
stages = [{ size_px = 24, steps = 2, batch_size = 4 }]
model = { hidden_size = 32, num_attention_heads = 2, num_layers = 1, ffn_hidden_size = 64, rope_layout = "standard" }
flow = { shift = 3.0 }
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base that has learnt nothing, pairs of plain colours, and what the command leaves of two arms and two seeds."""
    folder = tmp_path_factory.mktemp("effect")
    (folder / "base.toml").write_text(BASE)
    votes = []
    for n, colour in enumerate(["red", "green", "blue", "orange"]):
        Image.new("RGB", (24, 24), colour).save(folder / f"win{n}.png")
        Image.new("RGB", (24, 24), "white").save(folder / f"lose{n}.png")
        votes.append(json.dumps({"prompt": f"{colour} circle, top left", "winner": f"win{n}.png", "loser": f"lose{n}.png"}))
    (folder / "votes.jsonl").write_text("\n".join(votes) + "\n")
    ernie = Path(sys.executable).with_name("ernie")
    for line in ("train base.toml --out base", "align pairs import votes.jsonl --layout jsonl --out pairs"):
        subprocess.run([ernie, *line.split()], cwd=folder, check=True, timeout=240, capture_output=True)
    sizes = "--steps 2 --batch 2 --prompts 2 --samples 2 --seeds 0 1 --jobs 1"
    command = [sys.executable, BENCH / "align_effect.py", "--out", "out", "--base", "base", "--pairs", "pairs", *sizes.split()]
    command += ["--arms", "sft winners", "plain 20"]
    done = subprocess.run(command, cwd=folder, timeout=400, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, command


def test_arms_are_trained_judged_and_told(made):
    folder, _ = made
    report = json.loads(next((folder / "out").glob("align-effect-*.json")).read_text())
    control, plain = report["rows"]
    assert [row["arm"] for row in report["rows"]] == ["sft winners", "plain 20"]
    assert control["pictures"] == 2 * 2 * 4, "two seeds, two noises, two seen and two held-out prompts"
    assert plain["pictures"] == 2 * 4, "one noise where only stability is asked"
    assert plain["minus_control"]["control"] == "sft winners"
    assert "minus_control" not in control
    assert [error["beta_eff"] for error in plain["errors"]] == [20, 20]
    assert plain["collapsed"] == 2, "a base that has learnt nothing draws no objects"
    sheet = Image.open(next((folder / "out").glob("align-effect-*.png")))
    assert sheet.height == 30 + 50 * 3, "a row for the base and one for each arm"


def test_the_same_command_goes_on_with_what_is_missing(made, check_goes_on):
    folder, command = made
    check_goes_on(command, folder, kept="out/run-plain-20-0/ended.json", lost="out/judged-plain-20-1/verdicts.jsonl")


def test_differences_are_paired_by_prompt_and_noise(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    table = importlib.import_module("align_table")
    right, wrong = (table.Picture(f"c{n}", False, {"right": value}) for n, value in ((0, 1.0), (0, 0.0)))
    first = {f"p-{n}": table.Picture(f"c{n}", False, right.metrics) for n in range(8)}
    second = {f"p-{n}": table.Picture(f"c{n}", False, (wrong if n < 4 else right).metrics) for n in range(8)} | {"p-9": right}
    pairs = table.paired([first], [second])
    assert len(pairs) == 8, "a picture that only one side has is not compared"
    found = table.difference(pairs, "right")
    assert found["value"] == 0.5
    assert found["low"] < 0.5 < found["high"]
    assert not table.difference([(b, a) for a, b in pairs], "right")["not_worse_by_3_points"]
