"""Draws are a pure function of (seed, stream, step, index)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.rng import Rng

GOLDEN_NORMAL = [-0.3834202289581299, -0.7475165724754333, 0.15003174543380737]
GOLDEN_INTEGER = 505
GOLDEN_UNIFORM = 0.6584665179252625

KEY = st.tuples(st.integers(-(2**70), 2**70), st.sampled_from(["noise", "sigma", "x"]), st.integers(0, 2**40), st.integers(0, 2**40))


@given(KEY, KEY)
def test_the_same_key_gives_the_same_numbers_and_another_key_others(a, b):
    def draw(key):
        seed, stream, step, index = key
        return Rng(seed).at(stream, step).normal(index, (4,))

    assert np.array_equal(draw(a), draw(a))
    assert np.array_equal(draw(a), draw(b)) == (a == b)


def test_numbers_are_pinned_across_platforms_and_numpy_versions():
    draws = Rng(7).at("noise", 3)
    np.testing.assert_array_equal(draws.normal(2, (3,)), np.array(GOLDEN_NORMAL, np.float32))
    assert draws.integer(5, 1000) == GOLDEN_INTEGER
    assert float(draws.uniform(1)) == pytest.approx(GOLDEN_UNIFORM, abs=0)


def test_normals_have_unit_moments_and_indices_are_uncorrelated():
    rows = np.stack([Rng(0).at("noise", 0).normal(i, (2048,)) for i in range(64)])
    assert abs(rows.mean()) < 4 / np.sqrt(rows.size)
    assert abs(rows.std() - 1) < 4 / np.sqrt(2 * rows.size)
    correlations = np.corrcoef(rows) - np.eye(64)
    assert np.abs(correlations).max() < 6 / np.sqrt(2048)


@given(st.integers(0, 1000), st.integers(1, 64))
def test_stratified_uniforms_fill_each_stratum_once_whoever_draws_them(step, total):
    draws = Rng(1).at("sigma", step)
    u = draws.stratified(range(total), total)
    gaps = np.diff(np.sort(np.append(u, u.min() + 1)))
    np.testing.assert_allclose(gaps, 1 / total, atol=1e-9)
    halves = np.concatenate([draws.stratified(range(total // 2), total), draws.stratified(range(total // 2, total), total)])
    np.testing.assert_array_equal(u, halves)


def test_stratified_uniforms_are_uniform_for_each_index():
    u = np.array([Rng(3).at("sigma", step).stratified([5], 8)[0] for step in range(4000)])
    observed, _ = np.histogram(u, bins=10, range=(0, 1))
    chi_square = ((observed - 400) ** 2 / 400).sum()
    assert chi_square < 27.9  # p = .001 with 9 degrees of freedom


def test_a_step_rng_is_the_same_source():
    np.testing.assert_array_equal(Rng(4).step(9).at("noise").normal(0, (5,)), Rng(4).at("noise", 9).normal(0, (5,)))
