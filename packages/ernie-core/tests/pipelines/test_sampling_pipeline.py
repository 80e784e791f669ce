"""Sampling against diffusers' ErnieImagePipeline: same embeddings, same noise, same latents and pictures. And what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from ernie_core.errors import ConfigError, DataError, RunFolderError, WeightsError
from ernie_core.sampling.pipeline import Pipeline, load_pipeline, usable_device
from ernie_core.sampling.samplers import ab2, euler, heun
from ernie_core.testing.tiny import tiny_config, tiny_dit, tiny_pipeline, tiny_reference
from ernie_core.text.embeddings import pad_right

PROMPTS = ["a large red circle at the top left", "一只红色的猫"]  # of different lengths
SIZE_PX = (48, 32)
SEED = 7


class Reference(nn.Module):
    """diffusers' transformer behind the call that our sampling makes."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, tiny_config()

    def forward(self, x, time, text, lens, layout):
        return self.model(hidden_states=x, timestep=time.expand(len(x)), text_bth=text, text_lens=lens, return_dict=False)[0]


def theirs(pipeline, *, steps, guidance_scale, shift, embeddings=None, output_type="latent", prompts=PROMPTS):
    pipeline.scheduler = type(pipeline.scheduler).from_config({**pipeline.scheduler.config, "shift": shift})
    given = {"prompt": prompts} if embeddings is None else {"prompt_embeds": embeddings[0], "negative_prompt_embeds": embeddings[1]}
    return pipeline(
        **given,
        height=SIZE_PX[1],
        width=SIZE_PX[0],
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(SEED + i) for i in range(len(prompts))],
        output_type=output_type,
        use_pe=False,
    ).images


@pytest.fixture(scope="module")
def embeddings(pipeline):
    return pipeline.encode_prompt(PROMPTS, "cpu"), pipeline.encode_prompt(["", ""], "cpu")


@pytest.fixture(scope="module")
def ours(pipeline_folder, host):
    return load_pipeline(pipeline_folder, host=host)


@pytest.mark.parametrize("steps", [4, 8, 50])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("shift", [3.0, 4.0])
def test_latents_equal_the_released_pipelines(pipeline, ours, embeddings, steps, guidance_scale, shift):
    expected = theirs(pipeline, steps=steps, guidance_scale=guidance_scale, shift=shift, embeddings=embeddings)
    text = (pad_right(embeddings[0]), pad_right(embeddings[1][:1]) if guidance_scale > 1 else None)

    def error(transformer):
        driven = Pipeline(transformer, ours.codec, ours.encoder, shift)
        noise = driven.noise(2, seed=SEED, size_px=SIZE_PX)
        latents = driven.sample_latents(text, noise_BCHW=noise, steps=steps, guidance_scale=guidance_scale)
        return float((latents - expected).abs().max() / expected.abs().max())

    assert expected.std() > 0.1
    assert error(Reference(pipeline.transformer)) <= 1e-6  # our sampler, diffusers' model
    assert error(ours.transformer) <= 1e-4  # our sampler, our model
    if steps == 4:
        assert error(tiny_dit(seed=1).eval()) > 0.05  # another model is told apart


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_bfloat16_latents_are_diffusers_bit_for_bit(ours, embeddings, guidance_scale):
    """The dtype of the noise, the rounding of times, of products and of the state between steps: all of it as the released pipeline does."""
    pipeline = tiny_pipeline()
    pipeline.transformer = tiny_reference().to(torch.bfloat16)
    expected = theirs(pipeline, steps=8, guidance_scale=guidance_scale, shift=4.0, embeddings=embeddings)
    driven = Pipeline(Reference(pipeline.transformer), ours.codec, ours.encoder, 4.0)
    text = (pad_right(embeddings[0]), pad_right(embeddings[1][:1]))
    noise = driven.noise(2, seed=SEED, size_px=SIZE_PX)
    assert noise.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(driven.sample_latents(text, noise_BCHW=noise, steps=8, guidance_scale=guidance_scale), expected)
    precise = Pipeline(driven.transformer, ours.codec, ours.encoder, 4.0, latent_dtype="float32")
    latents = precise.sample_latents(text, noise_BCHW=noise, steps=8, guidance_scale=guidance_scale)
    assert latents.dtype == torch.float32
    assert 0 < float((latents - expected.float()).square().mean().sqrt()) < 0.1


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_pictures_equal_the_released_pipelines_within_one_level(pipeline, ours, guidance_scale):
    expected = np.stack([np.asarray(p) for p in theirs(pipeline, steps=8, guidance_scale=guidance_scale, shift=3.0, output_type="pil")])
    pictures = ours.sample(PROMPTS, seed=SEED, steps=8, guidance_scale=guidance_scale, size_px=SIZE_PX)
    assert pictures.dtype == np.uint8
    assert pictures.shape == expected.shape == (2, 32, 48, 3)
    assert np.abs(pictures.astype(int) - expected).max() <= 1
    assert expected.std() > 5


def test_the_shift_is_the_schedulers(pipeline_folder, tmp_path, host, ours):
    assert ours.shift == 3.0
    folder = copied(pipeline_folder, tmp_path)
    edit(folder / "scheduler" / "scheduler_config.json", shift=4.0)
    assert load_pipeline(folder, host=host).shift == 4.0


def test_a_picture_depends_on_its_own_seed_only(ours):
    together = ours.sample(["red", "blue", "red"], seed=3, steps=2, guidance_scale=2.0, size_px=SIZE_PX)
    alone = ours.sample(["blue"], seed=4, steps=2, guidance_scale=2.0, size_px=SIZE_PX)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    assert np.abs(together[0].astype(int) - together[2]).max() > 5


def test_what_a_sampler_draws_depends_on_a_pictures_own_seed_and_on_the_interval(ours):
    drawn = []

    def drawing(velocity_fn, x, sigmas, *, noise_fn=None, on_step=None):
        drawn.append([noise_fn(i) for i in range(len(sigmas) - 1)])
        return drawn[-1][-1].to(x.dtype)

    settings = {"steps": 2, "guidance_scale": 1.0, "size_px": SIZE_PX, "sampler": drawing}
    together = ours.sample(["red", "blue", "red"], seed=3, **settings)
    alone = ours.sample(["blue"], seed=4, **settings)
    assert np.array_equal(together[1:2], alone)
    first, second = drawn[0]
    assert first.shape == ours.noise(3, seed=3, size_px=SIZE_PX).shape
    assert first.dtype == torch.float32
    numbers = torch.cat([first, second, ours.noise(3, seed=3, size_px=SIZE_PX)]).flatten(1).double()
    assert (torch.corrcoef(numbers) - torch.eye(9)).abs().max() < 6 / numbers.shape[1] ** 0.5  # nine independent draws
    assert (numbers.std(1) - 1).abs().max() < 6 / (2 * numbers.shape[1]) ** 0.5


@pytest.mark.parametrize("sampler", [heun, ab2])
def test_other_samplers_come_close_to_many_euler_steps(ours, sampler):
    settings = {"seed": 1, "guidance_scale": 1.0, "size_px": SIZE_PX}
    exact = ours.sample(PROMPTS, steps=100, **settings).astype(float)
    second, first = (np.abs(ours.sample(PROMPTS, steps=8, sampler=s, **settings) - exact).mean() for s in (sampler, euler))
    assert second < first


def test_sizes_that_do_not_divide_are_refused_before_any_work(ours):
    with pytest.raises(DataError, match="picture size 50x32: width and height must be multiples of 4 pixels; the nearest is 48x32"):
        ours.sample(["x"], seed=0, steps=1, guidance_scale=1.0, size_px=(50, 32))
    with pytest.raises(ConfigError, match="steps = 0: expected at least 1"):
        ours.sample(["x"], seed=0, steps=0, guidance_scale=1.0, size_px=(48, 32))


# ---- our own runs ----


def test_a_run_samples_with_its_moving_average_unless_raw(small_run, host):
    settings = {"seed": 0, "steps": 3, "guidance_scale": 2.0, "size_px": (32, 32)}
    averaged, raw = load_pipeline(small_run, host=host), load_pipeline(small_run, host=host, raw=True)
    assert averaged.sample(["red"], **settings).shape == (1, 32, 32, 3)
    for name in ("transformer", "encoder"):
        ema, trained = getattr(averaged, name).state_dict(), getattr(raw, name).state_dict()
        assert any(not torch.equal(ema[key], trained[key]) for key in ema), name
    assert averaged.defaults.size_px == (32, 32)
    assert (averaged.defaults.steps, averaged.defaults.guidance_scale) == (3, 2.0)
    assert averaged.shift == 3.0
    checkpoint = next((small_run / "checkpoints").iterdir())
    again = load_pipeline(checkpoint, host=host)
    assert np.array_equal(again.sample(["red"], **settings), averaged.sample(["red"], **settings))


def test_a_checkpoint_needs_no_data_source_to_sample(small_run):
    from ernie_core.plugins.host import PluginHost

    core_only = PluginHost.discover(plugins=False)
    assert "toy-pictures" not in core_only.entries("data_sources")
    assert load_pipeline(small_run, host=core_only).codec.channels == 48


# ---- refusals ----


def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("option", "value"), [("use_dynamic_shifting", True), ("shift_terminal", 0.1), ("use_karras_sigmas", True), ("invert_sigmas", True)]
)
def test_schedulers_with_other_noise_levels_are_refused(pipeline_folder, tmp_path, host, option, value):
    folder = copied(pipeline_folder, tmp_path)
    edit(folder / "scheduler" / "scheduler_config.json", **{option: value})
    with pytest.raises(WeightsError, match=rf"scheduler_config\.json: {option} = {value!r} changes the noise levels"):
        load_pipeline(folder, host=host)


def test_foreign_pipelines_schedulers_and_shifts_are_refused(pipeline_folder, tmp_path, host):
    folder = copied(pipeline_folder, tmp_path)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    edit(scheduler, shift=-1)
    with pytest.raises(WeightsError, match="shift = -1, expected a number above 0"):
        load_pipeline(folder, host=host)
    edit(scheduler, shift=3.0, num_train_timesteps=500)
    with pytest.raises(WeightsError, match="num_train_timesteps = 500, expected 1000"):
        load_pipeline(folder, host=host)
    edit(scheduler, num_train_timesteps=1000, _class_name="DDIMScheduler")
    with pytest.raises(WeightsError, match="found a DDIMScheduler, expected a FlowMatchEulerDiscreteScheduler"):
        load_pipeline(folder, host=host)
    edit(folder / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(WeightsError, match=r"model_index\.json: found a FluxPipeline, expected an ErnieImagePipeline"):
        load_pipeline(folder, host=host)


def test_parts_that_do_not_fit_each_other_are_refused(pipeline_folder, tmp_path, host):
    folder = copied(pipeline_folder, tmp_path)
    tiny_reference(tiny_config(in_channels=8, out_channels=8)).save_pretrained(folder / "transformer")
    with pytest.raises(WeightsError, match="the transformer takes 8 latent channels, the codec gives 16"):
        load_pipeline(folder, host=host)
    tiny_reference(tiny_config(text_in_dim=24)).save_pretrained(folder / "transformer")
    with pytest.raises(WeightsError, match="the transformer takes text of width 24, the prompt encoder gives 32"):
        load_pipeline(folder, host=host)


def test_what_is_no_checkpoint_is_named(tmp_path, host):
    with pytest.raises(WeightsError, match="nowhere: expected a run, a checkpoint or a diffusers pipeline folder, found nothing"):
        load_pipeline(tmp_path / "nowhere", host=host)
    with pytest.raises(
        RunFolderError, match="holds no checkpoint; expected a run folder, a checkpoint folder or a diffusers pipeline folder"
    ):
        load_pipeline(tmp_path, host=host)


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the message where there is no CUDA device")
def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(ConfigError, match=r'device "cuda": torch .* sees no CUDA device here; use "cpu"'):
        usable_device("cuda")
    assert usable_device("auto") == torch.device("cpu")
