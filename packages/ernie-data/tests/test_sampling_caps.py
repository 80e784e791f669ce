"""Caps by water-filling: exact, conserving, and honest when they cannot be met; comparators; draws without replacement."""

import math
import re

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.api import ConfigError, DataError
from ernie_data.sampling.caps import apply_caps, water_fill
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.hierarchy import ClassTable, Law, class_table
from ernie_data.sampling.reservoir import weighted_order
from ernie_data.sampling.strategies import STRATEGIES, build_law


def by_turns(mass, capacity, total):
    """The definition: cut what is above its cap, scale the rest by one factor, until nothing is above."""
    filled, full = mass * total / mass.sum(), np.zeros(len(mass), bool)
    while (over := ~full & (filled > capacity * (1 + 1e-13))).any():
        full |= over
        filled[full] = capacity[full]
        open_ = ~full
        if not open_.any():
            break
        filled[open_] = mass[open_] * (total - capacity[full].sum()) / mass[open_].sum()
    return filled


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0.01, 1.0))
def test_water_filling_is_what_cutting_and_rescaling_by_turns_ends_at(groups, seed, tightness):
    rng = np.random.default_rng(seed)
    mass = rng.exponential(1, groups) ** 3 + 1e-12
    mass /= mass.sum()
    capacity = rng.exponential(1, groups) + 1e-6
    total = tightness * capacity.sum()
    filled = water_fill(mass[None], capacity[None], np.array([total]))[0]
    assert (filled <= capacity).all()
    assert abs(filled.sum() - total) <= 1e-12 * max(total, 1)
    np.testing.assert_allclose(filled, by_turns(mass, capacity, total), rtol=1e-9, atol=1e-12 * total)


@st.composite
def laws(draw):
    classes, bins = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(0, 30, (classes, bins))
    rows[0, 0] = max(rows[0, 0], 1)
    row = np.where((rows > 0) & (rng.random(rows.shape) < 0.9), rng.exponential(1, rows.shape) ** 4 + 1e-9, 0.0)
    row[0, 0] = 1.0
    return Law(rows, row / (rows * row).sum())


@settings(max_examples=200, deadline=None)
@given(laws(), st.floats(0.5, 20), st.floats(0.001, 1))
def test_caps_hold_exactly_and_no_mass_is_lost(law, max_repeats, share):
    pictures = int(law.rows_KJ[law.row_KJ > 0].sum())
    draws = math.floor(pictures * max_repeats * share)
    if draws < 1:
        return
    capped = apply_caps(law, draws=draws, max_repeats=max_repeats)
    assert (capped.row_KJ <= max_repeats / draws).all()
    assert abs((capped.row_KJ * capped.rows_KJ).sum() - 1) < 1e-12
    assert ((capped.row_KJ > 0) == (law.row_KJ > 0)).all()
    # Order is kept within a category, and categories with pictures below the cap keep their odds.
    for before, after in zip(law.row_KJ, capped.row_KJ):
        order = np.argsort(before)
        assert (np.diff(after[order]) >= -1e-12 * after.max()).all()
    below = np.flatnonzero(capped.class_K < law.rows_KJ.sum(1) * max_repeats / draws * (1 - 1e-9))
    whole = [c for c in below if (law.row_KJ[c][law.rows_KJ[c] > 0] > 0).all()]
    ratio = capped.class_K[whole] / law.class_K[whole]
    assert ratio.size == 0 or np.ptp(ratio) <= 1e-9 * ratio.max()


def test_a_law_below_its_caps_is_returned_as_it_is():
    law = Law(np.array([[4]]), np.array([[0.25]]))
    assert apply_caps(law, draws=16, max_repeats=4) is law
    assert apply_caps(law, draws=10**9, max_repeats=math.inf) is law


def test_the_most_draws_that_are_feasible_make_every_picture_alike():
    law = Law(np.array([[3, 2], [5, 0]]), np.array([[0.1, 0.2], [0.06, 0.0]]))
    capped = apply_caps(law, draws=40, max_repeats=4)
    np.testing.assert_allclose(capped.row_KJ[law.rows_KJ > 0], 0.1, rtol=1e-12)


def test_caps_that_cannot_be_met_say_what_is_feasible():
    law = Law(np.array([[3, 2], [5, 7]]), np.array([[0.1, 0.2], [0.06, 0.0]]))  # the last 7 are never drawn
    message = (
        "max_repeats = 4 over 41 draws needs at least 11 pictures, and 10 can be drawn: at most 40 draws are feasible. Lower draws, raise "
        "max_repeats to 4.1 or more, or add pictures."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        apply_caps(law, draws=41, max_repeats=4)
    with pytest.raises(ConfigError) as refused:
        apply_caps(Law(np.array([[7]]), np.array([[1 / 7]])), draws=1000, max_repeats=4)
    advice = float(re.search(r"max_repeats to ([\d.]+)", str(refused.value))[1])
    apply_caps(Law(np.array([[7]]), np.array([[1 / 7]])), draws=1000, max_repeats=advice)


def test_caps_at_full_size_hold():
    rng = np.random.default_rng(0)
    rows_K = np.minimum(rng.zipf(1.3, 10_000), 200_000)
    rows_KJ = rng.multinomial(rows_K, np.full(64, 1 / 64))
    table = ClassTable(rows_KJ, np.tile(np.linspace(-3, 3, 64), (10_000, 1)), rng.normal(5, 1, 10_000), np.ones(10_000))
    law = build_law(table, SamplingConfig(draws=10**8, max_repeats=4))
    assert (law.row_KJ <= 4 / 10**8).all()
    assert abs((law.row_KJ * rows_KJ).sum() - 1) < 1e-12
    free = build_law(table, SamplingConfig())
    assert 10**8 * free.row_KJ.max() > 100


def small():
    rng = np.random.default_rng(3)
    category = rng.integers(0, 5, 500) ** 2 % 5
    return class_table(category, rng.normal(category, 1.0), classes=6)[0]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_a_distribution_with_and_without_caps(name):
    table = small()
    config = SamplingConfig(strategy=name, min_score=2.0)
    law = build_law(table, config)
    assert abs((law.row_KJ * law.rows_KJ).sum() - 1) < 1e-12
    capped = build_law(table, msgspec.structs.replace(config, draws=600, max_repeats=8))
    assert (capped.row_KJ <= 8 / 600).all()
    assert abs((capped.row_KJ * capped.rows_KJ).sum() - 1) < 1e-12


def test_comparators_are_what_their_names_say():
    table = small()
    live = table.rows_KJ > 0
    np.testing.assert_allclose(build_law(table, SamplingConfig(strategy="uniform-image")).row_KJ[live], 1 / 500, rtol=1e-12)
    balanced = build_law(table, SamplingConfig(strategy="class-balanced")).class_K
    np.testing.assert_allclose(balanced[table.rows_K > 0], 1 / np.count_nonzero(table.rows_K), rtol=1e-12)
    kept = build_law(table, SamplingConfig(strategy="hard-threshold", min_score=2.0)).row_KJ
    assert ((kept > 0) == (live & (table.raw_KJ >= 2.0))).all()
    assert np.ptp(kept[kept > 0]) == 0


def test_wrong_strategies_are_refused_with_the_nearest_name():
    table = small()
    with pytest.raises(
        ConfigError, match=re.escape('`strategy`: nothing is called "class-balance"; did you mean "class-balanced"? Known: hier')
    ):
        build_law(table, SamplingConfig(strategy="class-balance"))
    with pytest.raises(DataError, match=r"`min_score` = 100 keeps no picture: the best score bin has a mean of .*\. Lower `min_score`\."):
        build_law(table, SamplingConfig(strategy="hard-threshold", min_score=100))


def test_draws_without_replacement_take_each_once_and_the_first_in_proportion():
    rng = np.random.default_rng(5)
    weight = np.array([1.0, 2.0, 0.0, 5.0])
    first = np.zeros(4)
    for _ in range(20_000):
        order = weighted_order(weight, rng.random(4), count=3)
        assert sorted(order) == [0, 1, 3]
        first[order[0]] += 1
    expected = 20_000 * weight[[0, 1, 3]] / 8
    assert np.sum((first[[0, 1, 3]] - expected) ** 2 / expected) < 13.8  # chi-square, 2 degrees of freedom, p = .001
    tiny = weighted_order([1e-9, 1e-9, 2e-9], [0.5, 0.6, 0.99], count=2)  # u^(1/w) would be 0 for all
    assert tiny.tolist() == [0, 1]


def test_draws_without_replacement_refuse_what_cannot_be():
    with pytest.raises(DataError, match="3 are to be drawn without replacement, and 2 have a positive weight"):
        weighted_order([1.0, 0.0, 2.0], [0.1, 0.2, 0.3], count=3)
    with pytest.raises(DataError, match="weights must be finite numbers >= 0"):
        weighted_order([1.0, math.nan], [0.1, 0.2], count=1)
