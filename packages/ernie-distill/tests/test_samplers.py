"""The sampler ``renoise``: its contract, its formula, what it draws, and ``ernie sample`` with it."""

import numpy as np
import pytest
import torch
from PIL import Image

from ernie_core.api import PluginHost
from ernie_core.cli.main import main
from ernie_core.sampling.schedule import inference_sigmas
from ernie_core.testing.contracts import SamplerContract
from ernie_core.testing.tiny import tiny_pipeline
from ernie_distill.samplers import renoise


class TestRenoise(SamplerContract):
    entry = "renoise"
    order = 1
    stochastic = True

    def host(self):
        return PluginHost.discover(disable=["align", "data"])


def test_each_step_goes_to_the_clean_sample_and_back_up_with_fresh_noise():
    x, first, second = torch.randn(3, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noises = [first, second]
    found = renoise(lambda x, sigma: torch.sin(x) * sigma, x, (1.0, 0.6, 0.3, 0.0), noise_fn=noises.__getitem__)
    expected = x
    for sigma, after, noise in ((1.0, 0.6, first), (0.6, 0.3, second)):
        expected = (1 - after) * (expected - sigma * torch.sin(expected) * sigma) + after * noise
    expected = expected - 0.3 * torch.sin(expected) * 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_noise_is_asked_for_only_where_a_step_ends_in_noise():
    asked = []

    def noise_fn(index):
        asked.append(index)
        return torch.zeros(1, 1, 2, 2)

    renoise(lambda x, sigma: x, torch.ones(1, 1, 2, 2), inference_sigmas(4, 3.0), noise_fn=noise_fn)
    assert asked == [0, 1, 2]
    assert torch.equal(renoise(lambda x, sigma: x, torch.ones(1, 1, 2, 2), (1.0, 0.0)), torch.zeros(1, 1, 2, 2))


def test_without_noise_it_says_what_is_missing():
    with pytest.raises(ValueError, match="sampler renoise draws fresh noise at every step and was given none: pass noise_fn"):
        renoise(lambda x, sigma: x, torch.ones(1, 1, 2, 2), inference_sigmas(2, 3.0))


@pytest.mark.battery
def test_ernie_sample_draws_for_each_picture_by_its_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ERNIE_DISABLE_PLUGINS", "align,data")
    folder = tmp_path / "pipeline"
    tiny_pipeline().save_pretrained(folder)

    def sampled(name, *options):
        command = ["sample", "--checkpoint", folder, "--prompt", "red", "--steps", 3, "--guidance", 1, "--size", "32x32", "--device", "cpu"]
        code = main([str(part) for part in [*command, "--out", tmp_path / name, *options]])
        assert code == 0, capsys.readouterr().err
        return [np.asarray(Image.open(file)).astype(int) for file in sorted(tmp_path.glob(name.replace(".png", "*.png")))]

    both = sampled("both.png", "--sampler", "renoise", "--count", 2, "--batch", 1)
    together = sampled("together.png", "--sampler", "renoise", "--count", 2)
    (second,) = sampled("second.png", "--sampler", "renoise", "--seed", 1)
    (euler,) = sampled("euler.png", "--seed", 1)
    assert np.abs(both[1] - second).max() <= 1
    assert np.abs(np.stack(both) - np.stack(together)).max() <= 1
    assert np.abs(both[0] - both[1]).max() > 5
    assert np.abs(euler - second).max() > 5
