"""The two-level distribution against its laws, and the binned one against the unbinned."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.api import DataError
from ernie_data.sampling.hierarchy import (
    ClassTable,
    class_probabilities,
    class_table,
    effective_number,
    hierarchical,
    shrunk_quality,
    within_class,
)

DEFAULTS = {"alpha": 0.5, "tau_c": 2.0, "tau_i": 1.0, "uniform": 0.1, "kappa": 50.0, "floor": 1e-6}


def pictures(seed, *, classes=12, count=4000):
    rng = np.random.default_rng(seed)
    category = np.minimum(rng.zipf(1.5, count) - 1, classes - 1)
    score = rng.normal(rng.normal(5, 1, classes)[category], rng.uniform(0.1, 2, classes)[category])
    return category, score


@st.composite
def tables(draw):
    """Few or many pictures per category, empty categories, equal scores, outliers."""
    classes = draw(st.integers(1, 6))
    sizes = draw(st.lists(st.integers(0, 60), min_size=classes, max_size=classes).filter(any))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    category = np.repeat(np.arange(classes), sizes)
    spread = np.array(draw(st.lists(st.sampled_from([0.0, 1e-9, 1.0, 1e6]), min_size=classes, max_size=classes)))
    score = rng.standard_t(2, len(category)) * spread[category] + draw(st.floats(-10, 10))
    return category, score, classes, draw(st.integers(1, 64))


@settings(max_examples=150, deadline=None)
@given(
    tables(), st.floats(0, 1), st.floats(0.05, 10), st.floats(0.05, 10), st.floats(0, 1), st.floats(0, 1000), st.sampled_from([0, 1e-6, 1])
)
def test_probabilities_are_a_distribution_and_follow_the_score(some, alpha, tau_c, tau_i, uniform, kappa, floor):
    category, score, classes, bins = some
    table, _ = class_table(category, score, classes=classes, bins=bins)
    scale = max(float(np.ptp(table.mean_K)), 1.0)
    law = hierarchical(table, alpha=alpha, tau_c=tau_c * scale, tau_i=tau_i, uniform=uniform, kappa=kappa, floor=floor)
    assert (law.row_KJ >= 0).all()
    assert np.array_equal(law.row_KJ[table.rows_KJ == 0], np.zeros(np.count_nonzero(table.rows_KJ == 0)))
    assert abs((law.row_KJ * law.rows_KJ).sum() - 1) < 1e-12
    for rows_J, row_J in zip(table.rows_KJ, law.row_KJ):
        inside = row_J[rows_J > 0]
        assert (np.diff(inside) >= -1e-15 * inside[1:]).all()


def test_natural_power_and_infinite_temperatures_draw_every_picture_alike():
    category, score = pictures(0)
    table, _ = class_table(category, score, classes=12)
    law = hierarchical(table, **{**DEFAULTS, "alpha": 1.0, "tau_c": math.inf, "tau_i": math.inf})
    np.testing.assert_allclose(law.row_KJ[table.rows_KJ > 0], 1 / len(score), rtol=1e-12)


def test_power_zero_draws_categories_alike():
    category, score = pictures(1)
    table, _ = class_table(category, score, classes=14)  # two are empty
    law = hierarchical(table, **{**DEFAULTS, "alpha": 0.0, "tau_c": math.inf})
    filled = table.rows_K > 0
    np.testing.assert_allclose(law.class_K, filled / filled.sum(), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 3))
def test_a_better_category_and_a_better_picture_are_drawn_more(seed, more):
    rng = np.random.default_rng(seed)
    n, a = rng.integers(1, 1000, 8), rng.normal(0, 1, 8)
    before = class_probabilities(n, a, alpha=0.5, tau_c=2.0)
    a[3] += more
    after = class_probabilities(n, a, alpha=0.5, tau_c=2.0)
    assert after[3] > before[3]
    assert (np.delete(after, 3) < np.delete(before, 3)).all()
    z = np.sort(rng.normal(0, 1, (1, 20)))
    p = within_class(np.ones((1, 20)), z, tau_i=1.0, uniform=0.1)
    assert (np.diff(p[0])[np.diff(z[0]) > 1e-9] > 0).all()


def test_the_formula_on_paper():
    """Two categories of 4 and 1 pictures with means 6 and 2: A = 5.2, A_c = (4*6+50*5.2)/54 and (2+260)/51."""
    table, _ = class_table([0, 0, 0, 0, 1], [5.0, 5.0, 7.0, 7.0, 2.0], classes=2)
    law = hierarchical(table, **DEFAULTS)
    first, second = 2 * math.exp((284 / 54 - 5.2) / 2), math.exp((262 / 51 - 5.2) / 2)
    assert law.class_K[0] == pytest.approx(first / (first + second), rel=1e-12)
    good = 0.9 * math.e / (2 * math.e + 2 / math.e) + 0.1 / 4  # z = 1
    assert law.row_KJ[0, -1] == pytest.approx(good * law.class_K[0], rel=1e-12)
    assert law.row_KJ[1, 0] == pytest.approx(law.class_K[1], rel=1e-12)


def test_a_small_categorys_mean_is_shrunk_and_a_large_ones_is_not():
    quality = shrunk_quality([1, 10**6, 0], [10.0, 10.0, 0.0], 5.0, kappa=50)
    np.testing.assert_allclose(quality, [5 + 5 / 51, 10.0, 5.0], rtol=1e-4)
    np.testing.assert_array_equal(shrunk_quality([1, 0], [10.0, 0.0], 5.0, kappa=0), [10.0, 5.0])


@pytest.mark.parametrize("alpha", [1.0, 0.75, 0.5, 0.25, 0.0])
def test_splitting_a_category_multiplies_its_weight(alpha):
    n, a = np.array([800, 300, 50]), np.array([0.5, -0.2, 0.1])
    whole = class_probabilities(n, a, alpha=alpha, tau_c=2.0)
    split = class_probabilities([400, 400, 300, 50], [0.5, 0.5, -0.2, 0.1], alpha=alpha, tau_c=2.0)
    odds = (split[0] + split[1]) / split[2] / (whole[0] / whole[1])
    assert odds == pytest.approx(2 ** (1 - alpha), rel=1e-12)
    if alpha == 1:
        np.testing.assert_allclose([split[0] + split[1], *split[2:]], whole, rtol=1e-12)


def test_the_floor_keeps_the_least_category_in_sight():
    p = class_probabilities([10**9, 1], [0.0, -50.0], alpha=1.0, tau_c=1.0, floor=1e-6)
    assert p[1] / p[0] == pytest.approx(1e-6, rel=1e-12)
    assert class_probabilities([10**9, 0], [0.0, 0.0], alpha=0.0, tau_c=1.0, floor=1e-6)[1] == 0


@settings(max_examples=150, deadline=None)
@given(tables(), st.floats(0.2, 5), st.floats(0, 1))
def test_binning_changes_no_picture_by_more_than_promised(some, tau_i, uniform):
    category, score, classes, bins = some
    table, bin_N = class_table(category, score, classes=classes, bins=bins)
    binned = within_class(table.rows_KJ, table.z_KJ, tau_i=tau_i, uniform=uniform)
    for c in np.flatnonzero(table.rows_K):
        mine = category == c
        raw = score[mine]
        z = (raw - raw.mean()) / raw.std() if np.ptp(raw) > 0 else np.zeros(len(raw))
        exact = within_class(np.ones((1, len(z))), z[None], tau_i=tau_i, uniform=uniform)[0]
        width = np.ptp(z) / bins
        bound = width / tau_i + width**2 / (8 * tau_i**2)
        slack = 1e-6 if np.ptp(raw) < 1e-6 else 1e-9  # scores that differ in their last digits only
        assert np.abs(np.log(binned[c, bin_N[mine]] / exact)).max() <= bound * (1 + 1e-6) + slack


def test_one_picture_per_bin_is_exact():
    score = np.arange(64.0)
    table, _ = class_table(np.zeros(64, int), score, classes=1, bins=64)
    assert (table.rows_KJ == 1).all()
    z = (score - score.mean()) / score.std()
    exact = within_class(np.ones((1, 64)), z[None], tau_i=1.0, uniform=0.1)
    np.testing.assert_allclose(within_class(table.rows_KJ, table.z_KJ, tau_i=1.0, uniform=0.1), exact, rtol=1e-12)


def zipf_table():
    """10,000 categories, Zipf(1.3) up to 200,000 pictures, quality ~ N(5, 1): the reference table's input."""
    rng = np.random.default_rng(0)
    rows = np.minimum(rng.zipf(1.3, 10_000), 200_000)
    return rows, rng.normal(5, 1, 10_000)


@pytest.mark.parametrize(
    ("alpha", "effective", "repeats"), [(1, 413, 9.7), (0.75, 608, 129.6), (0.5, 1430, 1905.9), (0.25, 5419, 15024.4), (0, 8808, 44118.7)]
)
def test_the_reference_table_of_effective_categories_and_repeats(alpha, effective, repeats):
    rows, quality = zipf_table()
    assert round(rows.sum() / 1e6, 1) == 60.6
    p = class_probabilities(rows, quality - quality.mean(), alpha=alpha, tau_c=2.0, floor=0)
    assert round(effective_number(p)) == effective
    assert round((1e8 * p / rows).max(), 1) == repeats
    if alpha < 1:  # the default floor moves nothing here; at alpha = 1 it lifts a few singletons
        assert round(effective_number(class_probabilities(rows, quality - quality.mean(), alpha=alpha, tau_c=2.0, floor=1e-6))) == effective


def test_an_empty_table_is_an_error():
    table = ClassTable(np.zeros((3, 4), np.int64), np.zeros((3, 4)), np.zeros(3), np.zeros(3))
    with pytest.raises(DataError, match="there is no picture to sample from: every category is empty"):
        hierarchical(table, **DEFAULTS)
