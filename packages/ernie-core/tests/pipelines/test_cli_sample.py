"""``ernie sample`` from the command line inwards."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ernie_core.cli.main import main

PROMPT = "a large red circle at the top left"


@pytest.fixture
def ernie(host, capsys, monkeypatch):
    """Run a command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("ERNIE_DISABLE_PLUGINS", "data")

    def run(*arguments):
        code = main([str(a) for a in arguments])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def pixels(file):
    image = Image.open(file)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("guidance", [1, 4])
def test_the_picture_is_the_released_pipelines(ernie, pipeline, pipeline_folder, tmp_path, guidance):
    out = tmp_path / "out.png"
    arguments = ["--steps", 8, "--guidance", guidance, "--seed", 11, "--size", "48x32", "--device", "cpu"]
    code, stdout, _ = ernie("sample", "--checkpoint", pipeline_folder, "--prompt", PROMPT, "--out", out, *arguments)
    assert code == 0
    assert stdout == f"{out}\n"
    expected = pipeline(
        PROMPT,
        height=32,
        width=48,
        num_inference_steps=8,
        guidance_scale=guidance,
        generator=torch.Generator("cpu").manual_seed(11),
        use_pe=False,
    ).images[0]
    assert np.abs(pixels(out) - np.asarray(expected)).max() <= 1


def test_several_pictures_are_numbered_and_described_as_json(ernie, small_run, tmp_path):
    out = tmp_path / "p.png"
    code, stdout, _ = ernie(
        "sample",
        "--checkpoint",
        small_run,
        "--prompt",
        "red",
        "--prompt",
        "blue",
        "--count",
        2,
        "--out",
        out,
        "--json",
        "--batch",
        3,
        "--device",
        "cpu",
    )
    assert code == 0
    made = json.loads(stdout)
    assert made["files"] == [str(tmp_path / f"p-{i:03d}.png") for i in range(4)]
    assert made["prompts"] == ["red", "red", "blue", "blue"]
    assert made["seeds"] == [0, 1, 2, 3]
    assert (made["steps"], made["guidance_scale"], made["size_px"], made["shift"]) == (3, 2.0, [32, 32], 3.0)
    assert not out.exists()
    alone = tmp_path / "alone.png"
    assert ernie("sample", "--checkpoint", small_run, "--prompt", "blue", "--seed", 2, "--out", alone, "--device", "cpu")[0] == 0
    assert np.abs(pixels(alone) - pixels(made["files"][2])).max() <= 1


def test_a_grid_is_one_file(ernie, small_run, tmp_path):
    out = tmp_path / "grid.png"
    code, stdout, _ = ernie(
        "sample", "--checkpoint", small_run, "--prompt", "red", "--count", 4, "--grid", "--out", out, "--sampler", "ab2"
    )
    assert code == 0
    assert stdout.splitlines() == [str(out)]
    assert pixels(out).shape[0] > 64
    assert pixels(out).shape[1] > 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--size": "50x32"}, "picture size 50x32: width and height must be multiples of 4 pixels; the nearest is 48x32"),
        ({"--size": "big"}, "expected WIDTHxHEIGHT in pixels such as 1024x768, found 'big'"),
        ({"--steps": "0"}, "expected a whole number of at least 1, found '0'"),
        ({"--seed": "-3"}, "expected a whole number of at least 0, found '-3'"),
        ({"--seed": str(2**65)}, f"expected at most {2**63 - 1}, found '{2**65}'"),
        ({"--guidance": "nan"}, "expected a number, found 'nan'"),
        ({"--device": "gpu"}, 'device "gpu": no such device; expected auto, cpu or cuda'),
        ({"--sampler": "eular"}, 'no sampler is called "eular"; did you mean "euler"?'),
        ({"--out": "picture.jpg"}, "--out picture.jpg: expected a name that ends in .png"),
        ({"--checkpoint": "/nowhere"}, "/nowhere: expected a run, a checkpoint or a diffusers pipeline folder, found nothing"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(ernie, small_run, tmp_path, changes, message):
    options = {"--checkpoint": small_run, "--prompt": "red", "--out": tmp_path / "out.png", "--device": "cpu", **changes}
    code, stdout, stderr = ernie("sample", *[part for option in options.items() for part in option])
    assert code == 2
    assert message in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(ernie, pipeline_folder, tmp_path):
    arguments = ["--size", "16x16", "--steps", 1, "--out", tmp_path / "out.png", "--device", "cpu"]
    code, _, stderr = ernie("sample", "--checkpoint", pipeline_folder, "--prompt", "z" * 200, *arguments)
    assert code == 0
    assert "warning: 1 of 1 prompts are longer than 48 tokens: " in stderr
