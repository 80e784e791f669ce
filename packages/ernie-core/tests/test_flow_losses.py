"""Flow losses: reductions, weights, and that a weight and a density are interchangeable."""

import math

import pytest
import torch

from ernie_core.flow.entries import MinSnrConfig, MseConfig
from ernie_core.flow.losses import build_min_snr, build_mse, mean_over_density, min_snr_weight, mse
from ernie_core.flow.path import interpolate, signal_to_noise, velocity_target, x0_from_velocity
from ernie_core.flow.times import logit_normal, shift_sigma
from ernie_core.plugins.hookspecs import PureContext

CONTEXT = PureContext()


@pytest.fixture
def errors():
    generator = torch.Generator().manual_seed(5)
    velocity, target = torch.randn(2, 6, 4, 8, 8, generator=generator)
    return velocity, target, torch.linspace(0.05, 0.95, 6)


def test_mse_is_one_number_per_sample_and_its_mean_over_elements(errors):
    velocity, target, sigma_B = errors
    loss_B = build_mse(MseConfig(), CONTEXT)(velocity, target, sigma_B)
    assert loss_B.shape == (6,)
    torch.testing.assert_close(loss_B[2], ((velocity[2] - target[2]) ** 2).mean())


def test_a_large_picture_weighs_no_more_than_a_small_one(errors):
    velocity, target, sigma_B = errors
    small = mse(velocity[:, :, :4, :4], target[:, :, :4, :4], sigma_B)
    tiled = mse(velocity[:, :, :4, :4].repeat(1, 1, 3, 3), target[:, :, :4, :4].repeat(1, 1, 3, 3), sigma_B)
    torch.testing.assert_close(small, tiled)


def test_errors_are_taken_in_float32_whatever_the_model_computes_in(errors):
    velocity, target, sigma_B = (e.bfloat16() for e in errors)
    loss_B = mse(velocity, target, sigma_B)
    assert loss_B.dtype == torch.float32
    torch.testing.assert_close(loss_B, mse(velocity.double(), target.double(), sigma_B))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weight_is_clipped_snr_on_the_clean_sample(gamma):
    sigma = torch.linspace(0.01, 1, 200, dtype=torch.float64)
    on_x0 = signal_to_noise(sigma).clamp(max=gamma)
    torch.testing.assert_close(min_snr_weight(sigma, gamma), on_x0 * sigma**2)
    crossing = torch.tensor(1 / (1 + math.sqrt(gamma)), dtype=torch.float64)
    assert float(signal_to_noise(crossing)) == pytest.approx(gamma)
    assert float((1 - crossing) ** 2) == pytest.approx(float(gamma * crossing**2))


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.5, 0.7, 3.0)])
def test_min_snr_has_mean_one_under_the_runs_density(mean, std, shift):
    loss = build_min_snr(MinSnrConfig(mean=mean, std=std, shift=shift), CONTEXT)
    u = torch.rand(400_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigma_B = shift_sigma(logit_normal(u, mean=mean, std=std), shift)
    loss_B = loss(torch.ones(len(u), 1), torch.zeros(len(u), 1), sigma_B)
    assert float(loss_B.mean()) == pytest.approx(1.0, abs=5e-3)


def test_a_weight_under_one_density_equals_another_density_with_the_ratio_as_weight():
    """E_p[w l] = E_q[(p/q) w l], and a loss on x0 equals the velocity loss times sigma^2: same gradient in expectation, 2-D, 1e5 draws."""
    n = 100_000
    generator = torch.Generator().manual_seed(7)
    x0 = torch.tensor([[2.0, -1.0]]) + 0.3 * torch.randn(n, 2, generator=generator)
    noise = torch.randn(n, 2, generator=generator)
    u = (torch.arange(n, dtype=torch.float64) + 0.5)[torch.randperm(n, generator=generator)] / n

    def gradient(sigma_B, weight_B, on_x0):
        matrix = torch.tensor([[0.4, -0.2], [0.1, 0.7]], requires_grad=True)
        bias = torch.tensor([0.3, -0.5], requires_grad=True)
        x_t = interpolate(x0, noise, sigma_B)
        v = x_t @ matrix + bias
        prediction, target = (x0_from_velocity(x_t, v, sigma_B), x0) if on_x0 else (v, velocity_target(x0, noise))
        loss = (mse(prediction, target, sigma_B) * weight_B.float()).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (matrix, bias))])

    from_uniform = gradient(u, torch.ones(n, dtype=torch.float64), on_x0=False)
    sigma_B = logit_normal(u)
    log_odds = torch.logit(sigma_B)
    density_B = torch.exp(-(log_odds**2) / 2) / math.sqrt(2 * math.pi) / (sigma_B * (1 - sigma_B))
    from_logit_normal = gradient(sigma_B, 1 / density_B, on_x0=False)
    on_clean_sample = gradient(sigma_B, 1 / density_B / sigma_B**2, on_x0=True)
    assert float((from_logit_normal - from_uniform).norm() / from_uniform.norm()) < 0.03
    assert float((on_clean_sample - from_logit_normal).norm() / from_logit_normal.norm()) < 1e-3


def test_the_mean_over_a_density_is_its_integral():
    assert mean_over_density(lambda s: s**2, lambda u: u) == pytest.approx(1 / 3, abs=1e-8)
