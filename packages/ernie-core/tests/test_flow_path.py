"""The laws of section 1.2: one sign convention, checked from every side."""

import pytest
import torch

from ernie_core.flow.path import (
    interpolate,
    model_time,
    noise_from_velocity,
    score_from_velocity,
    signal_to_noise,
    velocity_from_x0,
    velocity_target,
    x0_from_velocity,
)


@pytest.fixture
def draws():
    generator = torch.Generator().manual_seed(3)
    x0, noise = torch.randn(2, 5, 4, 3, 3, generator=generator)
    return x0, noise, torch.tensor([0.02, 0.25, 0.5, 0.75, 0.99])


def test_the_ends_of_the_path_are_data_and_noise(draws):
    x0, noise, _ = draws
    assert torch.equal(interpolate(x0, noise, torch.zeros(5)), x0)
    assert torch.equal(interpolate(x0, noise, torch.ones(5)), noise)


def test_velocity_is_the_derivative_of_the_path(draws):
    x0, noise, sigma_B = (d.double() for d in draws)
    step = 1e-6
    slope = (interpolate(x0, noise, sigma_B + step) - interpolate(x0, noise, sigma_B - step)) / (2 * step)
    torch.testing.assert_close(slope, velocity_target(x0, noise), atol=1e-8, rtol=0)


def test_velocity_gives_back_data_and_noise(draws):
    x0, noise, sigma_B = draws
    x_t, v = interpolate(x0, noise, sigma_B), velocity_target(x0, noise)
    torch.testing.assert_close(x0_from_velocity(x_t, v, sigma_B), x0, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(noise_from_velocity(x_t, v, sigma_B), noise, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(x0_from_velocity(x_t, v, sigma_B) + sigma_B[:, None, None, None] * v, x_t, atol=1e-6, rtol=0)
    torch.testing.assert_close(velocity_from_x0(x_t, x0, sigma_B), v, atol=1e-4, rtol=0)


def test_score_is_that_of_the_gaussian_around_the_data(draws):
    x0, noise, sigma_B = (d.double() for d in draws)
    x_t = interpolate(x0, noise, sigma_B).requires_grad_()
    s = sigma_B[:, None, None, None]
    log_density = -((x_t - (1 - s) * x0) ** 2 / (2 * s**2)).sum()
    (expected,) = torch.autograd.grad(log_density, x_t)
    torch.testing.assert_close(score_from_velocity(x_t.detach(), velocity_target(x0, noise), sigma_B), expected)


def test_errors_of_velocity_data_and_noise_are_one_error_in_three_units(draws):
    x0, noise, sigma_B = (d.double() for d in draws)
    x_t, v = interpolate(x0, noise, sigma_B), velocity_target(x0, noise)
    wrong = v + 0.1 * torch.sin(7 * x_t)

    def error(a, b):
        return (a - b).square().flatten(1).sum(1)

    torch.testing.assert_close(error(wrong, v), error(x0_from_velocity(x_t, wrong, sigma_B), x0) / sigma_B**2)
    torch.testing.assert_close(error(wrong, v), error(noise_from_velocity(x_t, wrong, sigma_B), noise) / (1 - sigma_B) ** 2)


def test_signal_to_noise_falls_from_infinity_to_zero():
    assert torch.equal(signal_to_noise(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([torch.inf, 1.0, 0.0]))


def test_model_time_is_a_thousand_sigma_rounded_to_the_models_dtype():
    sigma_B = torch.tensor([0.96552, 0.869566, 0.833333, 0.642857])
    assert model_time(sigma_B, torch.bfloat16).tolist() == [964.0, 868.0, 832.0, 644.0]
    torch.testing.assert_close(model_time(sigma_B, torch.float32), 1000 * sigma_B)


def test_bfloat16_latents_are_interpolated_in_float32(draws):
    x0, noise, sigma_B = draws
    assert interpolate(x0.bfloat16(), noise, sigma_B).dtype == torch.float32
