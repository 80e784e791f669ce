"""The flux2 codec against the released pipeline's own latent convention."""

import json
import shutil

import pytest
import torch

from ernie_core.errors import DataError, WeightsError
from ernie_core.latent.entries import Flux2Config
from ernie_core.latent.flux2 import build_flux2
from ernie_core.plugins.hookspecs import CodecContext

CONTEXT = CodecContext(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def codec(pipeline_folder):
    return build_flux2(Flux2Config(path=str(pipeline_folder)), CONTEXT)


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def packed(pipeline, latents):
    return pipeline._patchify_latents(latents)


def statistics(vae, eps):
    return vae.bn.running_mean.view(1, -1, 1, 1), torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + eps)


@torch.no_grad()
def test_encoding_is_the_released_convention(codec, pipeline, pixels):
    posterior = pipeline.vae.encode(pixels).latent_dist
    mean, std = statistics(pipeline.vae, 1e-5)
    torch.testing.assert_close(codec.encode(pixels), (packed(pipeline, posterior.mode()) - mean) / std, atol=1e-5, rtol=0)
    noise = torch.randn(2, codec.channels, 8, 12, generator=torch.Generator().manual_seed(1))
    drawn = posterior.mean + posterior.std * pipeline._unpatchify_latents(noise)
    torch.testing.assert_close(codec.encode(pixels, noise_BCHW=noise), (packed(pipeline, drawn) - mean) / std, atol=1e-5, rtol=0)
    assert codec.channels == 16
    assert codec.pixels_per_token == pipeline.vae_scale_factor


@torch.no_grad()
def test_decoding_is_the_released_convention(codec, pipeline):
    latents = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(2))
    mean, std = statistics(pipeline.vae, 1e-5)
    expected = pipeline.vae.decode(pipeline._unpatchify_latents(latents * std + mean)).sample
    torch.testing.assert_close(codec.decode(latents), expected, atol=1e-5, rtol=0)


def test_normalisation_inverts_and_uses_the_trained_eps(codec, pipeline_folder, pipeline):
    assert pipeline.vae.config.batch_norm_eps == 1e-4  # what the config file says, and what must not be used
    assert codec.eps == 1e-5
    z = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close((z * codec.std_C11 + codec.mean_C11 - codec.mean_C11) / codec.std_C11, z, atol=1e-6, rtol=0)
    other = build_flux2(Flux2Config(path=str(pipeline_folder / "vae"), eps=1e-4), CONTEXT)
    assert not torch.equal(other.std_C11, codec.std_C11)
    torch.testing.assert_close(other.std_C11**2 - codec.std_C11**2, torch.full_like(codec.std_C11, 9e-5), atol=1e-6, rtol=0)


def test_statistics_stay_float32_when_the_autoencoder_is_bfloat16(pipeline_folder, codec, pipeline, pixels):
    half = build_flux2(Flux2Config(path=str(pipeline_folder)), CodecContext(torch.device("cpu"), torch.bfloat16))
    assert half.vae.dtype == torch.bfloat16
    assert torch.equal(half.mean_C11, codec.mean_C11)
    assert torch.equal(half.std_C11, codec.std_C11)
    assert half.encode(pixels).dtype == torch.float32
    assert float((half.encode(pixels) - codec.encode(pixels)).abs().max()) < 0.1


def test_the_batch_norm_module_never_runs(codec, pixels):
    def refuse(*arguments):
        raise AssertionError("vae.bn was called")

    before = codec.vae.bn.running_mean.clone()
    handle = codec.vae.bn.register_forward_pre_hook(refuse)
    codec.decode(codec.encode(pixels))
    codec.decode(codec.encode(pixels, noise_BCHW=torch.randn(2, 16, 8, 12)))
    handle.remove()
    assert torch.equal(codec.vae.bn.running_mean, before)
    assert not codec.vae.training


def test_posterior_noise_is_asked_for_unless_the_mode_was_chosen(codec, pipeline_folder):
    assert codec.posterior_noise
    assert not build_flux2(Flux2Config(path=str(pipeline_folder), posterior="mode"), CONTEXT).posterior_noise


def test_sizes_that_do_not_divide_are_refused(codec):
    with pytest.raises(DataError, match="picture size 48x30: width and height must be multiples of 4 pixels; the nearest is 48x32"):
        codec.encode(torch.zeros(1, 3, 30, 48))


@pytest.fixture
def vae_copy(pipeline_folder, tmp_path):
    return shutil.copytree(pipeline_folder / "vae", tmp_path / "vae")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def build(folder):
    return build_flux2(Flux2Config(path=str(folder)), CONTEXT)


def test_damaged_and_foreign_folders_are_named(vae_copy, tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere: found neither config\.json nor vae/config\.json"):
        build(tmp_path / "nowhere")
    weights = vae_copy / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.safetensors: not a complete safetensors file"):
        build(vae_copy)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(WeightsError, match=r"found only diffusion_pytorch_model\.bin; pickles can run code and are never read"):
        build(vae_copy)
    weights.write_bytes(whole)
    edit(vae_copy / "config.json", latent_channels=8)
    with pytest.raises(WeightsError, match=r"tensors do not fit the model:\n(.*\n)*  bn\.running_mean: found \[16\], expected \[32\]"):
        build(vae_copy)
    edit(vae_copy / "config.json", _class_name="AutoencoderKL")
    with pytest.raises(WeightsError, match="found a AutoencoderKL, expected an AutoencoderKLFlux2"):
        build(vae_copy)


def test_statistics_that_are_not_usable_are_refused(vae_copy):
    from safetensors.torch import load_file, save_file

    file = vae_copy / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["bn.running_var"][3] = -1
    save_file(state, file)
    with pytest.raises(WeightsError, match=r"bn\.running_mean and bn\.running_var must be finite"):
        build(vae_copy)
