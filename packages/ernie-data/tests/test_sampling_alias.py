"""Alias tables draw exactly what they were built from."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from ernie_core.api import DataError
from ernie_data.sampling.alias import AliasTable

WEIGHT = st.one_of(st.just(0.0), st.just(1.0), st.floats(1e-12, 1e12), st.floats(0.9, 1.1))


@settings(max_examples=300, deadline=None)
@given(st.lists(WEIGHT, min_size=1, max_size=50).filter(any))
@example([1.0] * 7)
@example([1.0, 3.0, 1.0, 1.0, 1.0, 0.0, 0.0])
@example([1.0, 1.0, 0.5, 1.5])
@example([0.1] * 10)
def test_a_table_has_the_probabilities_of_its_weights(weights):
    table = AliasTable.build(weights)
    weight = np.array(weights)
    np.testing.assert_allclose(table.probabilities(), weight / weight.sum(), rtol=1e-9, atol=1e-15 * len(weights))
    assert (table.keep_N >= 0).all()
    assert (table.keep_N <= 1).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(WEIGHT, min_size=1, max_size=20).filter(any), st.integers(0, 1000))
def test_an_outcome_of_weight_zero_is_never_drawn(weights, seed):
    u = np.random.default_rng(seed).random((500, 2))
    u[0] = 0.0, 0.0
    u[1] = np.nextafter(1, 0), np.nextafter(1, 0)
    drawn = AliasTable.build(weights).draw(u[:, 0], u[:, 1])
    assert (np.array(weights)[drawn] > 0).all()


def test_large_tables_stay_exact():
    # Measured: 1e-17 with extended precision, 7e-13 without.
    weight = np.minimum(np.random.default_rng(0).zipf(1.3, 200_000), 10**7).astype(float)
    p = weight / weight.sum()
    assert np.abs(AliasTable.build(weight).probabilities() - p).max() < 1e-12
    # Subnormal and huge weights are scaled before they are added.
    np.testing.assert_allclose(AliasTable.build([1e308, 1e308, 1e308]).probabilities(), 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(AliasTable.build([1e-310, 3e-310]).probabilities(), [0.25, 0.75], rtol=1e-9)


def test_draws_have_the_tables_distribution():
    rng = np.random.default_rng(1)
    weight = rng.exponential(1, 300) ** 2
    table = AliasTable.build(weight)
    u = rng.random((1_000_000, 2))
    found = np.bincount(table.draw(u[:, 0], u[:, 1]), minlength=300)
    expected = weight / weight.sum() * 1_000_000
    keep = expected >= 5
    assert stats.chisquare(np.append(found[keep], found[~keep].sum()), np.append(expected[keep], expected[~keep].sum())).pvalue > 0.001


def test_wrong_weights_are_named():
    with pytest.raises(DataError, match=r"weight 1 of 3 is -2\.0: expected finite numbers >= 0"):
        AliasTable.build([1.0, -2.0, 3.0])
    with pytest.raises(DataError, match="weight 0 of 1 is nan"):
        AliasTable.build([math.nan])
    with pytest.raises(DataError, match="none of 2 weights is positive: there is nothing to draw"):
        AliasTable.build([0.0, 0.0])
    with pytest.raises(DataError, match="none of 0 weights is positive"):
        AliasTable.build([])
