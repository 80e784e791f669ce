"""`ernie quickstart` as a user calls it, with a tiny model: what it leaves behind, minutes as steps, and a kill in the middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("torch", reason="the quickstart trains")

from ernie_core.io import read_manifest, verify_folder

pytestmark = pytest.mark.battery

TINY = {
    "model.hidden_size": 32,
    "model.num_attention_heads": 1,
    "model.num_layers": 1,
    "model.ffn_hidden_size": 32,
    "encoder.width": 16,
    "encoder.byte_width": 8,
    "samples.steps": 1,
    "samples.guidance_scale": 1.0,
    "validation.every_steps": 0,
    "samples.every_steps": 0,
    "logging.tensorboard": "false",
    "checkpoint.every_steps": 8,
}


def command(out, *arguments) -> list[str]:
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "ernie_core.cli.main", "quickstart", "--out", str(out), *arguments, *settings]


def call(out, *arguments) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command(out, *arguments), env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A quickstart of a hundredth of a minute."""
    out = tmp_path_factory.mktemp("quickstart") / "out"
    done = call(out, "--minutes", "0.01")
    assert done.returncode == 0, done.stderr
    return out, done


def test_it_leaves_everything_it_promises(finished):
    out, done = finished
    assert {"data", "plan.json", "run", "checkpoint", "samples.png", "verdicts.png", "metrics.json", "report.html"} <= {
        p.name for p in out.iterdir()
    }
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["minutes"] > 0
    for tag in ("colour", "shape", "position"):
        assert set(metrics["shapebench"][tag]) >= {"value", "low", "high", "n"}
        assert metrics["shapebench"][tag]["n"] == 512
    assert len(list((out / "data" / "train").rglob("*.png"))) == 4000
    assert "right on held-out prompts (512 pictures of 16 unseen triples):" in done.stdout
    assert "report.html: pictures, curves and the table" in done.stdout


def test_minutes_became_steps_before_the_first_and_are_recorded(finished):
    out, done = finished
    plan = json.loads((out / "plan.json").read_text())
    assert plan["minutes"] == 0.01
    assert len(plan["steps"]) == len(plan["seconds_per_step"]) == 2
    assert json.loads((out / "metrics.json").read_text())["steps"] == plan["steps"]
    assert json.loads((out / "run" / "run.json").read_text())["total_steps"] == sum(plan["steps"])
    assert not (out / "trial").exists(), "the trial run is thrown away"
    assert done.stderr.index("measuring this machine") < done.stderr.index("steps 0 to")


def test_the_checkpoint_is_whole_and_makes_pictures(finished):
    out, _ = finished
    assert verify_folder(out / "checkpoint") is None
    arguments = [
        "sample",
        "--checkpoint",
        str(out / "checkpoint"),
        "--prompt",
        "a red circle",
        "--out",
        str(out / "one.png"),
        "--steps",
        "1",
    ]
    done = subprocess.run([sys.executable, "-m", "ernie_core.cli.main", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (out / "one.png").read_bytes().startswith(b"\x89PNG")


def test_another_number_of_minutes_is_refused_for_the_same_folder(finished):
    out, _ = finished
    done = call(out, "--minutes", "5")
    assert done.returncode == 2
    assert "was begun with 0.01 minutes, now --minutes 5. Leave --minutes out to go on, or choose another --out" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_quickstart_goes_on_and_ends_in_the_same_weights(finished, tmp_path):
    whole, out = finished[0], tmp_path / "killed"
    out.mkdir()
    shutil.copytree(whole / "data", out / "data")  # what an earlier call would have left behind
    shutil.copy(whole / "plan.json", out / "plan.json")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command(out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "run" / "latest").exists():
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "checkpoint").exists()
    done = call(out)
    assert done.returncode == 0, done.stderr
    assert "(resumed)" in done.stderr
    files = [read_manifest(folder / "checkpoint")["files"] for folder in (whole, out)]
    weights = [{n: f["sha256"] for n, f in found.items() if n.endswith(".safetensors")} for found in files]
    assert weights[0] == weights[1]
    assert any("optimizer" in name for name in weights[0])
    scores = [json.loads((folder / "metrics.json").read_text())["shapebench"] for folder in (whole, out)]
    assert scores[0] == scores[1]
