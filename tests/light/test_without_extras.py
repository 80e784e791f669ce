"""C2: what a user meets with the light packages alone. Every command gives its result, or one line with the cause and the fix.

These tests pass in an environment without torch, and beside an installed torch too: there a finder hides the extras from the processes they start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXTRAS = ("torch", "torchvision", "diffusers", "transformers", "safetensors", "tensorboard", "tqdm", "triton", "deepspeed")
HIDE = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""
CONFIG = """\
[codec]
use = "pixel"
[encoder]
use = "bytes"
[data]
use = "folder"
path = "pictures"
[model]
hidden_size = 64
num_attention_heads = 4
num_layers = 2
ffn_hidden_size = 128
[[stages]]
size_px = 64
steps = 10
batch_size = 4
"""
LIGHT_MODULES = [
    "ernie_core.api",
    "ernie_core.chat",
    "ernie_core.errors",
    "ernie_core.io",
    "ernie_core.records",
    "ernie_core.redact",
    "ernie_core.rng",
    "ernie_core.config.base",
    "ernie_core.config.load",
    "ernie_core.config.run",
    "ernie_core.config.schema",
    "ernie_core.config.toml",
    "ernie_core.plugins.hookspecs",
    "ernie_core.plugins.host",
    "ernie_core.cli.main",
    "ernie_core.cli.train",
    "ernie_core.cli.sample",
    "ernie_core.cli.eval",
    "ernie_core.evaluation.read",
    "ernie_core.report.page",
    "ernie_core.report.pictures",
    "ernie_core.stats",
    "ernie_core.cli.weights",
    "ernie_core.cli.config",
    "ernie_core.cli.plugins",
    "ernie_core.cli.doctor",
    "ernie_core.ops.apex_detect",
    "ernie_core.testing.plugin_folder",
    "ernie_core.train.method",
    "ernie_core.train.watch",
    "ernie_data.plugin",
    "ernie_data.config",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a config, and with the module that hides the extras."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(HIDE)
    (tmp_path / "run.toml").write_text(CONFIG)
    (tmp_path / "pictures").mkdir()
    return tmp_path


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, [str(folder / "hide"), os.environ.get("PYTHONPATH", "")]))
    environ = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *arguments], env=environ, cwd=folder, capture_output=True, text=True, timeout=120)


def ernie(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(folder, "-m", "ernie_core.cli.main", *arguments)


def test_the_extras_are_really_hidden(folder):
    for name in ("torch", "diffusers", "transformers"):
        assert f"No module named '{name}'" in python(folder, "-c", f"import {name}").stderr


def test_light_modules_import_without_the_extras(folder):
    code = f"""
import importlib, sys
for name in {LIGHT_MODULES!r}:
    importlib.import_module(name)
    print(name, [m for m in {EXTRAS!r} if m in sys.modules])
"""
    done = python(folder, "-c", code)
    assert done.stderr == ""
    assert done.stdout.strip().split("\n") == [f"{name} []" for name in LIGHT_MODULES]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--help"], "verbs:"),
        (["--version"], "ernie-core "),
        (["config", "show", "run.toml"], 'use = "pixel"  # run.toml:2'),
        (["config", "check", "run.toml"], "ok: 10 steps"),
        (["config", "schema"], "json-schema.org"),
        (["plugins", "list"], "data  ernie-data "),
        (["plugins", "check"], "core  ernie-core "),
        (["plugins", "check", "data"], "data  ernie-data "),
        (["doctor"], 'needs the package `torch`, which is not installed: pip install "ernie-core[train]"'),
        (["train", "--help"], "usage: ernie train"),
        (["sample", "--help"], "usage: ernie sample"),
        (["eval", "--help"], "usage: ernie eval"),
        (["eval", "--suite", "shapebench", "--list", "--limit", "1"], '"id": "bench-single-held-out-0000"'),
        (["weights", "--help"], "usage: ernie weights"),
        (["quickstart", "--help"], "usage: ernie quickstart"),
    ],
)
def test_commands_that_need_no_extras_give_their_result(folder, arguments, shown):
    done = ernie(folder, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    assert shown in done.stdout
    assert done.stderr == ""


BUILD = """\
sources = [{ use = "folder", path = "shapes/pictures" }]
unit_rows = 16
index = { size_px = [32] }
[[stages]]
use = "decode"
[[stages]]
use = "size"
[[stages]]
use = "hashes"
[[stages]]
use = "score"
scorer = { use = "shapes-quality" }
[[stages]]
use = "duplicates"
[[stages]]
use = "embed"
[[stages]]
use = "category"
leaves = 3
[[stages]]
use = "agreement"
[[stages]]
use = "select"
where = "score >= 4"
name = "low quality"
"""


def test_a_set_is_curated_queried_planned_and_reported(folder):
    (folder / "build.toml").write_text(BUILD)
    (folder / "defects.toml").write_text('profile = "quick"\ncount = 40\nsize_px = 32\nduplicates = 0.2\ncorrupt = 0.1\n')
    for arguments in (
        ["data", "shapes", "--defects", "defects.toml", "--out", "shapes"],
        ["data", "build", "build.toml", "--out", "built"],
        ["data", "status", "built", "--verify"],
        ["data", "report", "built", "--truth", "shapes/truth.jsonl", "--out", "report.html"],
        ["data", "sampling", "plan", "built", "--draws", "1000", "--max-repeats", "inf"],
    ):
        done = ernie(folder, *arguments)
        assert done.returncode == 0, done.stderr + done.stdout
    done = ernie(folder, "data", "query", "built", "select count(*) as n, (select count(*) from rejected) as refused from items", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, done.stdout.split("\n")[:1])
    assert row["n"] + row["refused"] == 40
    assert row["refused"] >= 4 + 6
    assert "<html" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "run.toml", "--out", "run"],
        ["sample", "--checkpoint", "pictures", "--prompt", "a cat", "--out", "cat.png"],
        ["weights", "inspect", "pictures"],
        ["weights", "verify", "pictures", "--against", "pictures"],
        ["weights", "export", "pictures", "out", "--format", "diffusers"],
        ["quickstart", "--out", "quick", "--minutes", "1"],
    ],
)
def test_commands_that_need_an_extra_say_which_in_one_line(folder, arguments):
    done = ernie(folder, *arguments)
    assert done.returncode == 2, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().split("\n")
    assert "which is not installed: pip install" in line or "pictures" in line
    assert done.stdout == ""
    assert not (folder / "run" / "checkpoints").exists()


def test_doctor_for_programs_names_every_op_set_and_engine_and_why_not(folder):
    done = ernie(folder, "doctor", "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert {"auto", "reference", "apex", "fused"} <= set(report["op_sets"])
    assert {"auto", "single", "ddp"} <= set(report["engines"])
    for row in (*report["op_sets"].values(), *report["engines"].values()):
        assert row == {"usable": False, "reason": 'it needs the package `torch`: pip install "ernie-core[train]"'}
    assert report["plugins"]["core"].startswith("ernie-core ")


def test_a_wrong_config_is_refused_before_torch_is_missed(folder):
    (folder / "run.toml").write_text(CONFIG.replace("hidden_size = 64", "hidden_siz = 64", 1))
    done = ernie(folder, "train", "run.toml", "--out", "run")
    assert done.returncode == 2
    assert "run.toml:9: unknown key `model.hidden_siz`; did you mean `hidden_size`?" in done.stderr
    assert "torch" not in done.stderr
