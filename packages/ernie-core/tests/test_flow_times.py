"""Densities as inverse distribution functions, the identities of the shift, and the shift by tokens."""

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.errors import ConfigError
from ernie_core.flow import times
from ernie_core.flow.entries import LogitNormalConfig, ModeConfig, ShiftedLogitNormalConfig, TokenShiftConfig, UniformConfig
from ernie_core.plugins.hookspecs import PureContext
from ernie_core.rng import Rng

scipy_stats = pytest.importorskip("scipy.stats", reason="scipy gives the reference distributions")
CONTEXT = PureContext()
SHIFTS = st.floats(0.1, 10)
UNIFORMS = torch.linspace(0, 1, 2001, dtype=torch.float64)


def stratified(n, steps=8):
    rng = Rng(11)
    return torch.from_numpy(np.concatenate([rng.at("times", step).stratified(range(n), n) for step in range(steps)]))


@given(sigma=st.floats(0, 1), k=SHIFTS, m=SHIFTS)
def test_shifts_multiply_and_invert(sigma, k, m):
    assert times.shift_sigma(times.shift_sigma(sigma, k), 1 / k) == pytest.approx(sigma, abs=1e-12)
    assert times.shift_sigma(times.shift_sigma(sigma, k), m) == pytest.approx(times.shift_sigma(sigma, k * m), abs=1e-12)


@given(sigma=st.floats(1e-6, 1 - 1e-6), k=SHIFTS)
def test_a_shift_adds_its_logarithm_to_the_logit(sigma, k):
    def logit(s):
        return math.log(s) - math.log1p(-s)

    assert logit(times.shift_sigma(sigma, k)) == pytest.approx(logit(sigma) + math.log(k), abs=1e-6)


@given(k=SHIFTS, std=st.floats(0.3, 3))
def test_the_median_of_a_shifted_logit_normal_is_k_over_one_plus_k(k, std):
    density = times.build_shifted_logit_normal(ShiftedLogitNormalConfig(shift=k, std=std), CONTEXT)
    assert float(density(torch.tensor([0.5], dtype=torch.float64))) == pytest.approx(k / (1 + k), abs=1e-12)


@given(k=SHIFTS, mean=st.floats(-2, 2), std=st.floats(0.3, 3))
def test_a_shifted_logit_normal_is_one_with_another_mean(k, mean, std):
    shifted = times.build_shifted_logit_normal(ShiftedLogitNormalConfig(shift=k, std=std, mean=mean), CONTEXT)
    moved = times.build_logit_normal(LogitNormalConfig(std=std, mean=mean + math.log(k)), CONTEXT)
    torch.testing.assert_close(shifted(UNIFORMS), moved(UNIFORMS), atol=1e-12, rtol=0)


DENSITIES = {
    "uniform": times.build_uniform(UniformConfig(), CONTEXT),
    "logit-normal": times.build_logit_normal(LogitNormalConfig(mean=0.3, std=0.8), CONTEXT),
    "mode": times.build_mode(ModeConfig(), CONTEXT),
    "mode-lowest": times.build_mode(ModeConfig(scale=-1.0), CONTEXT),
    "mode-highest": times.build_mode(ModeConfig(scale=times.MODE_MAX), CONTEXT),
    "shifted-logit-normal": times.build_shifted_logit_normal(ShiftedLogitNormalConfig(shift=3.0), CONTEXT),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_rises_monotonically_inside_the_unit_interval(name):
    sigma = DENSITIES[name](UNIFORMS)
    assert sigma.isfinite().all()
    assert (sigma >= 0).all()
    assert (sigma <= 1).all()
    assert (sigma.diff() >= 0).all()
    assert (sigma[1:-1].diff() > 0).all()


REFERENCES = {
    "uniform": lambda s: s,
    "logit-normal": lambda s: scipy_stats.norm.cdf((np.log(s) - np.log1p(-s) - 0.3) / 0.8),
    "shifted-logit-normal": lambda s: scipy_stats.norm.cdf(np.log(s) - np.log1p(-s) - math.log(3)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_stratified_uniforms_give_the_density(name):
    sigma = DENSITIES[name](stratified(512)).numpy()
    assert scipy_stats.kstest(sigma, REFERENCES[name]).pvalue > 0.01
    first_step = sigma[:512]
    gap = np.abs(np.sort(REFERENCES[name](first_step)) - (np.arange(512) + 0.5) / 512).max()
    assert gap <= 0.5 / 512 + 1e-9  # one draw per stratum: far more even than independent draws
    assert scipy_stats.kstest(DENSITIES[name](stratified(512) ** 1.1).numpy(), REFERENCES[name]).pvalue < 0.01


def test_mode_sampling_follows_its_formula_and_is_symmetric_about_a_half():
    u = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = 1 - u - 1.29 * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
    torch.testing.assert_close(times.mode(1 - u), expected)
    torch.testing.assert_close(times.mode(u) + times.mode(1 - u), torch.ones_like(u))


@pytest.mark.parametrize("scale", [-1.01, 1.76])
def test_mode_scales_that_are_not_monotone_are_refused(scale):
    with pytest.raises(msgspec.ValidationError, match="scale"):
        msgspec.convert({"scale": scale}, ModeConfig)
    sigma = times.mode(UNIFORMS, scale=scale * 1.2)
    assert (sigma[1:-1].diff() <= 0).any()


@pytest.mark.parametrize(("tokens", "shift"), [(256, 1.0), (1024, 1.5), (4096, 3.0)])
def test_rule_a_follows_the_square_root_of_tokens_down_to_its_floor(tokens, shift):
    assert times.shift_for_tokens(TokenShiftConfig(), tokens) == pytest.approx(shift)
    if tokens == 256:
        assert times.shift_for_tokens(TokenShiftConfig(floor=0.0), tokens) == pytest.approx(0.75)


@pytest.mark.parametrize(("tokens", "shift"), [(256, 1.65), (1024, 1.88), (4096, 3.16)])
def test_rule_b_is_exponential_in_tokens(tokens, shift):
    assert times.shift_for_tokens(TokenShiftConfig(rule="exponential"), tokens) == pytest.approx(shift, abs=0.005)


def test_no_rule_means_no_shift_and_no_tokens_an_error():
    assert times.shift_for_tokens(TokenShiftConfig(rule="none"), 4096) == 1.0
    with pytest.raises(ConfigError, match="shift for 0 image tokens: expected at least 1"):
        times.shift_for_tokens(TokenShiftConfig(), 0)
