"""A model whose method fixed how it is sampled: its checkpoints, exports, grids and commands say and do so."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from ernie_core.cli.main import main
from ernie_core.config.load import from_plain
from ernie_core.config.run import SamplesTable
from ernie_core.errors import ConfigError, WeightsError
from ernie_core.sampling.fixed import FILE, fixed_in_folder, glance_at_fixed, settle, to_stored
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.train.assemble import assemble, build_engine
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.train.method import FixedSampling
from ernie_core.weights.diffusers import export_diffusers

FEW = {"use": "toy-few-steps", "steps": 8}
FIXED = FixedSampling(8, 1.0, "euler")


@pytest.fixture(scope="module")
def few(train_run, pipeline_folder):
    """The released pipeline trained on at shift 1.5 by a method that fixes 8 steps without guidance."""
    path = str(pipeline_folder)
    return train_run(
        {
            "codec": {"use": "flux2", "path": path},
            "encoder": {"use": "ministral3", "path": path},
            "model": {"init": path},
            "data": {"use": "toy-pictures"},
            "stages": [{"size_px": 32, "steps": 2, "batch_size": 2}],
            "method": FEW,
            "flow": {"shift": 1.5},
            "samples": {"every_steps": 2, "prompts": ["red"]},
            "logging": {"tensorboard": False},
            "data_workers": 0,
        }
    )


@pytest.fixture(scope="module")
def exported(few, host, tmp_path_factory):
    return export_diffusers(few, tmp_path_factory.mktemp("export") / "pipeline", host=host)


@pytest.fixture
def ernie(host, capsys, monkeypatch):
    monkeypatch.setenv("ERNIE_DISABLE_PLUGINS", "data")

    def run(*arguments):
        code = main([str(a) for a in arguments])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def sample(ernie, checkpoint, tmp_path, *options):
    return ernie(
        *(
            "sample",
            "--checkpoint",
            checkpoint,
            "--prompt",
            "red",
            "--size",
            "32x32",
            "--out",
            tmp_path / "p.png",
            "--json",
            "--device",
            "cpu",
        ),
        *options,
    )


def test_the_checkpoint_says_it_and_the_pipeline_takes_it_as_default(few, host):
    assert open_checkpoint(few).state["sampling"] == {"steps": 8, "guidance_scale": 1.0, "sampler": "euler"}
    pipeline = load_pipeline(few, host=host)
    assert pipeline.fixed == FIXED == glance_at_fixed(few)
    assert (pipeline.defaults.steps, pipeline.defaults.guidance_scale, pipeline.defaults.sampler) == (8, 1.0, "euler")
    assert (few / "samples" / "step-00000002.png").is_file()


def test_other_models_are_free(released_run, pipeline_folder, host):
    for path in (released_run, pipeline_folder):
        assert load_pipeline(path, host=host).fixed is None
        assert glance_at_fixed(path) is None
    assert "sampling" not in open_checkpoint(released_run).state


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"steps": 20}, "distilled to 8 steps and knows only their noise levels, found steps 20; remove it"),
        ({"guidance_scale": 4.0}, "without guidance, which is in its weights, found guidance_scale 4; remove it"),
    ],
)
def test_the_pipeline_refuses_other_steps_and_guidance_before_it_encodes_anything(few, host, monkeypatch, asked, said):
    pipeline = load_pipeline(few, host=host)
    monkeypatch.setattr(pipeline.encoder, "encode", lambda prompts: pytest.fail("it should not come to this"))
    settings = {"seed": 0, "steps": 8, "guidance_scale": 1.0, "size_px": (32, 32)} | asked
    with pytest.raises(ConfigError, match=said):
        pipeline.sample(["red"], **settings)


def test_who_studies_other_steps_takes_the_word_off(few, host):
    pipeline = replace(load_pipeline(few, host=host), fixed=None)
    assert pipeline.sample(["red"], seed=0, steps=2, guidance_scale=4.0, size_px=(32, 32)).shape == (1, 32, 32, 3)


def test_guidance_of_one_or_less_is_none_and_is_allowed(few, host):
    pipeline = load_pipeline(few, host=host)
    pictures = [pipeline.sample(["red"], seed=0, steps=8, guidance_scale=g, size_px=(32, 32)) for g in (0.0, 1.0)]
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("which", ["run", "export"])
def test_ernie_sample_obeys_and_refuses_before_it_reads_a_model(ernie, few, exported, tmp_path, monkeypatch, which):
    checkpoint = few if which == "run" else exported.folder
    code, out, err = sample(ernie, checkpoint, tmp_path)
    assert code == 0, err
    made = json.loads(out)
    assert (made["steps"], made["guidance_scale"], made["sampler"], made["shift"]) == (8, 1.0, "euler", 1.5)
    assert "warning" not in err
    monkeypatch.setattr("ernie_core.sampling.pipeline.load_pipeline", lambda *_, **__: pytest.fail("a model was read"))
    for options, said in ((("--guidance", 4), "found --guidance 4"), (("--steps", 20), "found --steps 20")):
        code, _, err = sample(ernie, checkpoint, tmp_path, *options)
        assert code == 2
        assert said in err
        assert str(checkpoint) in err


def test_another_sampler_is_allowed_with_one_line_of_warning(ernie, few, tmp_path):
    code, out, err = sample(ernie, few, tmp_path, "--sampler", "heun")
    assert code == 0
    assert json.loads(out)["sampler"] == "heun"
    assert [line for line in err.splitlines() if "distilled to be sampled with euler; with heun" in line] == err.splitlines()


def test_ernie_eval_takes_the_models_own_way_and_refuses_others(ernie, few, tmp_path):
    command = ("eval", "--suite", "toy-colours", "--checkpoint", few, "--size", "32x32", "--limit", 2, "--device", "cpu", "--json")
    code, out, err = ernie(*command, "--out", tmp_path / "judged")
    assert code == 0, err
    assert json.loads(out)["settings"]["used"]["steps"] == 8
    code, _, err = ernie(*command, "--out", tmp_path / "other", "--guidance", 3)
    assert code == 2
    assert "found --guidance 3" in err


def test_the_export_says_it_beside_the_schedulers_shift_and_diffusers_makes_the_same_pictures(exported, few, host):
    from diffusers import ErnieImagePipeline

    assert json.loads((exported.folder / FILE).read_text()) == {"steps": 8, "guidance_scale": 1.0, "sampler": "euler"}
    assert json.loads((exported.folder / "scheduler" / "scheduler_config.json").read_text())["shift"] == 1.5
    assert exported.notes == ("sample it with num_inference_steps=8, guidance_scale=1 and no others",)
    theirs = ErnieImagePipeline.from_pretrained(exported.folder)
    theirs.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 8, "guidance_scale": 1.0, "height": 32, "width": 48, "use_pe": False}
    expected = np.asarray(theirs("red", generator=torch.Generator("cpu").manual_seed(7), **settings).images[0]).astype(int)
    for path in (few, exported.folder):
        ours = load_pipeline(path, host=host)
        way = {"steps": ours.defaults.steps, "guidance_scale": ours.defaults.guidance_scale, "size_px": (48, 32)}
        assert np.abs(ours.sample(["red"], seed=7, **way)[0].astype(int) - expected).max() <= 1


def test_a_transformer_alone_has_no_such_file_but_the_note(few, host, tmp_path):
    alone = export_diffusers(few, tmp_path / "alone", host=host, transformer_only=True)
    assert not (alone.folder / FILE).exists()
    assert "num_inference_steps=8" in alone.notes[0]


def test_a_model_distilled_for_another_sampler_is_no_pipeline_of_diffusers_whose_scheduler_is_eulers(few, host, tmp_path, monkeypatch):
    other = replace(open_checkpoint(few), state={**open_checkpoint(few).state, "sampling": to_stored(FixedSampling(8, 1.0, "renoised"))})
    monkeypatch.setattr("ernie_core.weights.diffusers.open_checkpoint", lambda path: other)
    with pytest.raises(WeightsError, match="sampler `renoised`: the pipeline samples with euler"):
        export_diffusers(few, tmp_path / "pipeline", host=host)
    alone = export_diffusers(few, tmp_path / "alone", host=host, transformer_only=True)
    assert alone.notes == ("sample it with num_inference_steps=8, guidance_scale=1 and no others, by the sampler renoised",)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"steps": 8}',
        '{"steps": 0, "guidance_scale": 1.0, "sampler": "euler"}',
        '{"steps": 8.5, "guidance_scale": 1.0, "sampler": "euler"}',
        '{"steps": 8, "guidance_scale": 1e999, "sampler": "euler"}',
        '{"steps": 8, "guidance_scale": -1, "sampler": "euler"}',
        '{"steps": 8, "guidance_scale": 1.0, "sampler": ""}',
        '{"steps": 8, "guidance_scale": 1.0, "sampler": "euler", "shift": 4}',
        "\ufffe\x00",
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / FILE).write_text(content, encoding="utf-16-le" if "\ufffe" in content else "utf-8")
    with pytest.raises(WeightsError, match=FILE):
        fixed_in_folder(tmp_path)


def test_a_sampler_that_is_not_installed_is_named(ernie, exported, tmp_path):
    (tmp_path / "copy").mkdir()
    for path in exported.folder.iterdir():
        (tmp_path / "copy" / path.name).symlink_to(path)
    (tmp_path / "copy" / FILE).unlink()
    (tmp_path / "copy" / FILE).write_text('{"steps": 8, "guidance_scale": 1.0, "sampler": "renoised"}')
    code, _, err = sample(ernie, tmp_path / "copy", tmp_path)
    assert code == 2
    assert 'no sampler is called "renoised"' in err


# ---- the pictures of a run ----


def table(**keys):
    return SamplesTable(**keys)


def test_what_samples_leaves_open_is_the_methods_else_twenty_steps_at_guidance_four():
    assert settle(table(), None) == FixedSampling(20, 4.0, "euler")
    assert settle(table(), FIXED) == FIXED
    assert settle(table(steps=8, guidance_scale=0.0), FIXED) == FixedSampling(8, 0.0, "euler")
    assert settle(table(steps=3), None) == FixedSampling(3, 4.0, "euler")


def test_a_method_may_fix_a_guidance_of_its_own():
    guided = FixedSampling(4, 3.0)
    assert settle(table(guidance_scale=3.0), guided) == guided
    with pytest.raises(ConfigError, match=r"at guidance 3, found samples\.guidance_scale 1"):
        settle(table(guidance_scale=1.0), guided)


def test_samples_that_contradict_the_method_are_refused_with_all_keys_before_training(host):
    plain = {
        "codec": {"use": "pixel", "patch": 4},
        "encoder": {"use": "bytes", "width": 24, "byte_width": 16},
        "model": {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 1, "ffn_hidden_size": 48},
        "data": {"use": "toy-pictures"},
        "stages": [{"size_px": 32, "steps": 1, "batch_size": 1}],
        "method": FEW,
    }

    def parts(**samples):
        config = from_plain({**plain, "samples": samples}, host)
        return assemble(config, host, build_engine(config, host), draws=0, note=lambda *_: None)

    with pytest.raises(ConfigError) as caught:
        parts(steps=20, guidance_scale=4.0)
    assert [p.where for p in caught.value.problems] == ["samples.steps", "samples.guidance_scale"]
    assert parts().sampling == FIXED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parts(sampler={"use": "heun"}).sampling.sampler == "heun"
