"""Distillation of a released pipeline's kind, and the student in diffusers: the same pictures there as by ``ernie sample``."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ernie_core.api import App, ConfigError
from ernie_core.cli import sample, weights
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.testing.runs import TINY_RUN, logged, merged
from ernie_core.testing.tiny import tiny_pipeline

from .distill_makers import run

PROMPTS = ["a red fox", "a lighthouse, very tall"]
STEPS = 8


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "pipeline"
    tiny_pipeline(shift=3.0).save_pretrained(folder)
    return folder


def tables(released, **method):
    parts = {"codec": {"use": "flux2", "path": str(released)}, "encoder": {"use": "ministral3", "path": str(released)}}
    quick = {
        "samples": {"every_steps": 0},
        "validation": {"every_steps": 0},
        "run": {"micro_batch_size": 2},
        "optimizer": {"learning_rate": 1e-2},
        "flow": {"shift": 4.0},
        "data": {"use": "memory-pictures"},
        "stages": [{"size_px": 32, "steps": 6, "batch_size": 2}],
    }
    options = {"steps": STEPS, "fake_steps": 1, "fake_warmup_steps": 1, "adapter": {"rank": 2, "targets": ["all"]}, **method}
    plain = merged(TINY_RUN, parts, quick, {"method": {"use": "mt-dmd", **options}})
    return {**{k: v for k, v in plain.items() if k != "samples"}, "model": {"init": str(released)}}


@pytest.mark.parametrize("adapter", [{"rank": 2, "targets": ["all"]}, False])
def test_the_student_gives_the_same_pictures_in_diffusers(released, memory_host, tmp_path, adapter, capsys):
    """8 steps, no guidance, the training's shift, and weights that have moved."""
    from diffusers import ErnieImagePipeline

    student = run(tables(released, adapter=adapter), tmp_path / "run", memory_host)
    assert logged(student, "grad_norm/student")[3] > 0
    exported = tmp_path / "exported"
    app = App()
    assert weights.main(["export", str(student), str(exported), "--format", "diffusers"], app) == 0
    assert json.loads((exported / "sampling.json").read_text()) == {"steps": STEPS, "guidance_scale": 1.0, "sampler": "euler"}

    pipeline = ErnieImagePipeline.from_pretrained(exported, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.shift == 4.0
    theirs = pipeline(
        PROMPTS,
        num_inference_steps=STEPS,
        guidance_scale=1.0,
        height=32,
        width=32,
        generator=[torch.Generator("cpu").manual_seed(7 + i) for i in range(len(PROMPTS))],
        output_type="np",
        **({"use_pe": False} if "use_pe" in ErnieImagePipeline.__call__.__code__.co_varnames else {}),
    ).images
    for checkpoint in (student, exported):
        out = tmp_path / f"{checkpoint.name}.png"
        asked = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
        code = sample.main(
            ["--checkpoint", str(checkpoint), *asked, "--seed", "7", "--size", "32x32", "--dtype", "float32", "--out", str(out)], app
        )
        assert code == 0
        assert "8 steps of euler at guidance 1 and shift 4" in capsys.readouterr().err
        ours = [np.asarray(Image.open(out.with_name(f"{out.stem}-{i:03d}.png"))) for i in range(len(PROMPTS))]
        assert np.abs(np.stack(ours).astype(int) - (theirs * 255).round().astype(int)).max() <= 1


def test_a_reward_trains_the_student_through_the_released_autoencoder(released, memory_host, tmp_path):
    pictures = []
    for weight in (0.1, 1000.0):
        reward = {"scorer": {"use": "memory-brightness"}, "weight": weight}
        student = run(tables(released, reward=reward), tmp_path / f"{weight}", memory_host)
        pictures.append(
            load_pipeline(student, host=memory_host, raw=True).sample(PROMPTS, seed=0, steps=STEPS, guidance_scale=1.0, size_px=(32, 32))
        )
    assert pictures[1].mean() > pictures[0].mean()


def test_the_student_moved_and_is_not_sampled_with_guidance(released, memory_host, tmp_path):
    student = run(tables(released), tmp_path / "run", memory_host)
    before, after = (load_pipeline(path, host=memory_host) for path in (released, student))
    pictures = [p.sample(PROMPTS, seed=0, steps=STEPS, guidance_scale=1.0, size_px=(32, 32)) for p in (before, after)]
    assert not np.array_equal(*pictures)
    for asked, words in (({"steps": STEPS, "guidance_scale": 4.0}, "without guidance"), ({"steps": 4, "guidance_scale": 1.0}, "8 steps")):
        with pytest.raises(ConfigError, match=words):
            after.sample(PROMPTS, seed=0, size_px=(32, 32), **asked)
