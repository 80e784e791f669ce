"""``ernie eval --checkpoint``: pictures as ``ernie sample`` makes them, settings, identity, and ``kill -9`` at any time."""

import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from ernie_core import io
from ernie_core.cli.main import main
from ernie_core.testing.mishaps import at_operation, in_call, read_trace, traced

SUITE = ("eval", "--suite", "toy-colours", "--device", "cpu", "--batch-size", 2)
MADE = ("verdicts.jsonl", "metrics.json", "best-and-worst.png", "settings.json")


@pytest.fixture
def ernie(host, capsys, monkeypatch):
    monkeypatch.setenv("ERNIE_DISABLE_PLUGINS", "data")

    def run(*arguments):
        code = main([str(a) for a in arguments])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def contents(out):
    files = [*(out / name for name in MADE), *sorted((out / "pictures").iterdir())]
    return {file.relative_to(out).as_posix(): io.sha256_file(file) for file in files}


def test_picture_n_is_that_of_seed_s_plus_n(ernie, small_run, tmp_path):
    out = tmp_path / "out"
    code, _, stderr = ernie(*SUITE, "--checkpoint", small_run, "--out", out, "--seed", 40, "--limit", 3, "--samples-per-prompt", 2)
    assert code == 0, stderr
    names = ["p00-red-0", "p01-green-0", "p02-blue-0", "p00-red-1", "p01-green-1", "p02-blue-1"]
    assert sorted(p.stem for p in (out / "pictures").iterdir()) == sorted(names)
    alone = tmp_path / "alone.png"
    ernie("sample", "--checkpoint", small_run, "--prompt", "green 1", "--seed", 44, "--out", alone, "--device", "cpu")
    difference = np.asarray(Image.open(alone)).astype(int) - np.asarray(Image.open(out / "pictures" / "p01-green-1.png")).astype(int)
    assert np.abs(difference).max() <= 1


def test_settings_and_identity_are_told(ernie, small_run, tmp_path):
    out = tmp_path / "out"
    ernie(*SUITE, "--checkpoint", small_run, "--out", out, "--raw", "--set", "count=2")
    found = json.loads((out / "metrics.json").read_bytes())
    newest = small_run / "checkpoints" / (small_run / "latest").read_text().strip()
    assert found["checkpoint"] == {
        "directory": str(newest.resolve()),
        "kind": "checkpoint",
        "sha256": io.read_manifest(newest)["sha256"],
        "step": 4,
    }
    assert found["settings"]["used"] == {
        "size_px": [32, 32],
        "steps": 3,
        "guidance_scale": 2.0,
        "shift": 3.0,
        "sampler": "euler",
        "device": "cpu",
        "dtype": "float32",
    }
    assert (found["settings"]["raw"], found["settings"]["steps"], found["settings"]["seed"]) == (True, None, 0)
    assert found["metrics"]["right"]["n"] == 2


def test_a_diffusers_folder_is_evaluated_and_told_from_another(ernie, pipeline_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(pipeline_folder, copy)
    options = (*SUITE, "--size", "32x16", "--steps", 1, "--set", "count=2")
    assert ernie(*options, "--checkpoint", pipeline_folder, "--out", tmp_path / "out")[0] == 0
    assert Image.open(tmp_path / "out" / "pictures" / "p00-red.png").size == (32, 16)
    assert ernie(*options, "--checkpoint", copy, "--out", tmp_path / "out")[0] == 0  # the same bytes elsewhere
    (copy / "scheduler" / "scheduler_config.json").write_text(
        (copy / "scheduler" / "scheduler_config.json").read_text().replace("{", '{"_note": 1,', 1)
    )
    code, _, stderr = ernie(*options, "--checkpoint", copy, "--out", tmp_path / "out")
    assert (code, "checkpoint.sha256: was " in stderr) == (2, True)


def test_other_settings_are_refused_and_equal_ones_do_nothing(ernie, small_run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = (*SUITE, "--checkpoint", small_run, "--out", out)
    ernie(*arguments)
    before = contents(out)
    code, _, stderr = ernie(*arguments, "--steps", 5, "--seed", 1)
    assert (code, "seed: was 0, now 1; steps: was the default, now 5" in stderr) == (2, True)

    def never(*arguments, **options):
        raise AssertionError("a finished evaluation needs no model")

    monkeypatch.setattr("ernie_core.sampling.pipeline.load_pipeline", never)
    assert ernie(*arguments)[0] == 0
    assert contents(out) == before


def test_a_wrong_size_leaves_the_folder_free_for_another(ernie, small_run, tmp_path):
    arguments = (*SUITE, "--checkpoint", small_run, "--out", tmp_path / "out")
    code, _, stderr = ernie(*arguments, "--size", "33x32")
    assert (code, "must be multiples of 4" in stderr) == (2, True)
    assert ernie(*arguments, "--size", "32x32")[0] == 0


def test_a_picture_that_was_removed_is_made_again_with_the_same_bytes(ernie, small_run, tmp_path):
    out = tmp_path / "out"
    arguments = (*SUITE, "--checkpoint", small_run, "--out", out)
    ernie(*arguments)
    before = contents(out)
    (out / "pictures" / "p03-red.png").unlink()
    (out / "verdicts.jsonl").unlink()
    ernie(*arguments)
    assert contents(out) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--checkpoint": "/nowhere"}, "/nowhere: expected a run, a checkpoint or a diffusers pipeline folder, found nothing"),
        ({"--sampler": "eular"}, 'no sampler is called "eular"; did you mean "euler"?'),
        ({"--device": "gpu"}, 'device "gpu": no such device'),
        ({"--suite": "shapebenhc"}, 'no evaluation suite is called "shapebenhc". Installed: toy-colours (toy-methods'),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(ernie, small_run, tmp_path, changes, message):
    options = {"--suite": "toy-colours", "--checkpoint": small_run, "--out": tmp_path / "out", "--device": "cpu", **changes}
    code, stdout, stderr = ernie("eval", *[part for option in options.items() for part in option])
    assert (code, stdout, len(stderr.splitlines())) == (2, "", 1)
    assert message in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.battery
def test_kill_9_at_any_time_leaves_no_trace(nursery, small_run, tmp_path):
    """Thirteen kills, spread over every operation on disk and inside sampling and judging."""
    command = [str(a) for a in (*SUITE, "--set", "count=5", "--checkpoint", small_run, "--out")]

    def run(out, plan=None):
        child = nursery.start([*command, str(out)], log=tmp_path / "log", plan=plan)
        return child.wait(), child

    whole = tmp_path / "whole"
    code, child = run(whole, traced(tmp_path / "trace"))
    assert code == 0, child.output()
    expected, operations = contents(whole), len(read_trace(tmp_path / "trace"))
    plans = [
        *(at_operation(n, "SIGKILL") for n in np.linspace(1, operations - 1, 10).astype(int).tolist()),
        in_call("ernie_core.sampling.text_to_image:Pipeline.decode", "SIGKILL", call=1),
        in_call("toy_methods.suite:Colours.judge", "SIGKILL", call=0),
        in_call("toy_methods.suite:Colours.judge", "SIGKILL", call=2),
    ]
    for number, plan in enumerate(plans):
        out = tmp_path / f"killed-{number}"
        code, child = run(out, plan)
        assert code == -signal.SIGKILL, child.output()
        code, child = run(out)
        assert code == 0, child.output()
        assert contents(out) == expected, plan
        assert not list(out.rglob(".tmp-*"))
