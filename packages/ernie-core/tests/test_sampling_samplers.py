"""Samplers on flows whose solution is known in closed form."""

import itertools
import math

import pytest
import torch

from ernie_core.plugins.hookspecs import PureContext
from ernie_core.sampling import samplers
from ernie_core.sampling.entries import Ab2Config, EulerConfig, HeunConfig
from ernie_core.sampling.schedule import inference_sigmas

BUILT = {
    "euler": samplers.build_euler(EulerConfig(), PureContext()),
    "heun": samplers.build_heun(HeunConfig(), PureContext()),
    "ab2": samplers.build_ab2(Ab2Config(), PureContext()),
}
MEAN, STD = 1.5, 0.4


def gaussian_velocity(x, sigma):
    """The exact velocity when data are normal with MEAN and STD: x_t is normal, so E[noise - x0 | x_t] is linear in x_t."""
    variance = (1 - sigma) ** 2 * STD**2 + sigma**2
    return -MEAN + (sigma - (1 - sigma) * STD**2) / variance * (x - (1 - sigma) * MEAN)


def error(sampler, steps, shift):
    """Distance from the exact solution: the flow carries noise z to MEAN + STD z."""
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, None, None]
    x = sampler(gaussian_velocity, z, inference_sigmas(steps, shift))
    return float((x - (MEAN + STD * z)).abs().max())


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("name", "low", "high"), [("euler", 0.9, 1.1), ("heun", 1.8, 2.6), ("ab2", 1.8, 2.6)])
def test_observed_order_on_a_closed_form_flow(name, low, high, shift):
    steps = (64, 128, 256)
    errors = [error(BUILT[name], n, shift) for n in steps]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert low <= min(orders), (errors, orders)
    assert max(orders) <= high, (errors, orders)


@pytest.mark.parametrize("name", ["heun", "ab2"])
def test_second_order_samplers_beat_euler_at_equal_model_calls(name):
    calls = 32
    steps = calls // 2 if name == "heun" else calls
    assert error(BUILT[name], steps, 3.0) < error(BUILT["euler"], calls, 3.0) / 2


@pytest.mark.parametrize("name", BUILT)
def test_a_constant_velocity_is_integrated_exactly(name):
    noise, x0 = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = BUILT[name](lambda x, sigma: noise - x0, noise, inference_sigmas(8, 3.0))
    torch.testing.assert_close(x, x0, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("name", "calls"), [("euler", 8), ("heun", 16), ("ab2", 8)])
def test_model_calls_and_progress(name, calls):
    seen, reached = [], []

    def velocity(x, sigma):
        seen.append(sigma)
        return -x

    sigmas = inference_sigmas(8, 3.0)
    BUILT[name](velocity, torch.ones(1, 1, 2, 2), sigmas, on_step=lambda index, sigma, x: reached.append((index, sigma)))
    assert len(seen) == calls
    assert min(seen) > 0  # sigma = 0 is never asked for
    assert reached == [(i, s) for i, s in enumerate(sigmas[1:])]


@pytest.mark.parametrize("shift", [3.0, 4.0])
def test_euler_in_bfloat16_is_diffusers_scheduler_bit_for_bit(shift):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 0.0, 9)[:-1])
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    weights = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2)).bfloat16()

    def velocity(x, sigma):
        return torch.sin(x * weights) + sigma * x

    expected = start
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.tolist()):
        expected = scheduler.step(velocity(expected, sigma), t, expected).prev_sample
    ours = samplers.euler(velocity, start, inference_sigmas(8, shift))
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, expected)


def test_a_float32_state_avoids_the_rounding_of_a_bfloat16_model():
    noise, x0 = torch.randn(2, 4, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    v = (noise - x0).bfloat16()
    exact = noise - v.float()

    def rms(x):
        return float((x.float() - exact).square().mean().sqrt())

    sigmas = inference_sigmas(50, 3.0)
    in_float32 = samplers.euler(lambda x, sigma: v, noise, sigmas)
    in_bfloat16 = samplers.euler(lambda x, sigma: v, noise.bfloat16(), sigmas)
    assert in_float32.dtype == torch.float32
    assert rms(in_float32) < 1e-5
    assert 2e-3 < rms(in_bfloat16) < 5e-2
