"""Draws: the right distribution, the same on any number of ranks, and found at once at any step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ernie_core.api import DataError
from ernie_data.sampling.cells import Cells
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.hierarchy import ClassTable, Law, class_table
from ernie_data.sampling.index import PAIR, Tables
from ernie_data.sampling.sampler import BLOCK_STEPS, Sampler, row_probabilities
from ernie_data.sampling.strategies import STRATEGIES, build_law

BATCH = 64


def tables(*, rows=3000, classes=40, buckets=3, bins=16, seed=0):
    """In memory what the builder writes; bucket number 1 and some categories are empty."""
    rng = np.random.default_rng(seed)
    category = np.minimum(rng.zipf(1.4, rows) - 1, classes - 3)
    score = rng.normal(rng.normal(5, 1, classes)[category], 1.0)
    bucket = np.minimum(rng.integers(0, 2 * buckets, rows), buckets - 1)
    bucket[bucket == 1] = 0
    table, bin_N = class_table(category, score, classes=classes, bins=bins)
    count_QJ = np.bincount((bucket * classes + category) * bins + bin_N, minlength=buckets * classes * bins).reshape(-1, bins)
    q = np.flatnonzero(count_QJ.sum(1))
    pairs = np.zeros(len(q), PAIR)
    pairs["bucket"], pairs["category"] = q // classes, q % classes
    pairs["first_row"] = np.cumsum(count_QJ[q].sum(1)) - count_QJ[q].sum(1)
    sizes = tuple((16 * (b + 1), 16) for b in range(buckets))
    names = tuple(f"c{i}" for i in range(classes))
    return Tables(sizes, names, ("s",), table, pairs, Cells.pack(np.cumsum(count_QJ[q], 1)))


def bucket_of_rows(some):
    return np.repeat(some.pairs_P["bucket"], some.cells.ends(np.arange(len(some.cells)))[:, -1])


@pytest.mark.parametrize(
    "config",
    [SamplingConfig(), SamplingConfig(draws=9000, max_repeats=4.0), *(SamplingConfig(strategy=s, min_score=5.0) for s in STRATEGIES)],
    ids=lambda c: f"{c.strategy}-{c.draws}",
)
def test_a_million_draws_have_the_laws_distribution(config):
    some = tables(buckets=1)
    law = build_law(some.classes, config)
    sampler = Sampler(some, law, seed=1)
    steps, batch = 100, 10_000
    found = np.bincount(np.concatenate([sampler.rows(s, start=0, stop=batch) for s in range(steps)]), minlength=some.rows)
    p = row_probabilities(some, law)
    assert abs(p.sum() - 1) < 1e-12
    assert not found[p == 0].any()
    live = p > 0
    assert stats.chisquare(found[live], p[live] / p[live].sum() * steps * batch).pvalue > 0.001


@pytest.mark.slow
def test_a_hundred_million_draws_have_the_laws_distribution():
    some = tables(rows=20_000, classes=300, bins=64, buckets=1)
    law = build_law(some.classes, SamplingConfig(draws=60_000, max_repeats=4.0))
    sampler = Sampler(some, law, seed=3)
    found = np.zeros(some.rows)
    for step in range(1000):
        found += np.bincount(sampler.rows(step, start=0, stop=100_000), minlength=some.rows)
    p = row_probabilities(some, law)
    assert stats.chisquare(found, p / p.sum() * 1e8).pvalue > 0.001


def test_with_buckets_every_bucket_has_its_mass_and_rows_inside_have_the_laws_odds():
    some = tables(rows=800, classes=10)
    law = build_law(some.classes, SamplingConfig())
    sampler = Sampler(some, law, seed=2)
    p, bucket = row_probabilities(some, law), bucket_of_rows(some)
    mass = np.bincount(bucket, weights=p, minlength=3)
    np.testing.assert_allclose(sampler.bucket_B, mass, rtol=1e-12)
    steps = 8 * BLOCK_STEPS
    found = np.bincount([sampler.bucket(s) for s in range(steps)], minlength=3)
    assert np.abs(found - mass * steps).max() < 8  # golden-ratio sequence; independent draws would be off by about 45
    counts = np.zeros(some.rows)
    for step in range(2000):
        rows = sampler.rows(step, start=0, stop=BATCH)
        assert (bucket[rows] == sampler.bucket(step)).all()
        counts += np.bincount(rows, minlength=some.rows)
    for b in (0, 2):
        inside = (bucket == b) & (p > 0)
        expected = p[inside] / p[inside].sum() * counts[inside].sum()
        assert stats.chisquare(counts[inside], expected).pvalue > 0.001


def test_the_steps_of_a_bucket_are_not_in_a_regular_order():
    sampler = Sampler(tables(), build_law(tables().classes, SamplingConfig()), seed=2)
    buckets = np.array([sampler.bucket(s) for s in range(BLOCK_STEPS)])
    share = (buckets == 0).mean()
    again = [float(((buckets[lag:] == 0) & (buckets[:-lag] == 0)).mean()) for lag in range(1, 30)]
    assert np.abs(np.array(again) - share**2).max() < 0.06


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**12), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**63 - 1))
def test_the_union_over_ranks_is_the_single_stream(step, ranks, seed):
    some = tables(rows=300, classes=6)
    law = build_law(some.classes, SamplingConfig())
    whole = Sampler(some, law, seed=seed).rows(step, start=0, stop=BATCH)
    each = BATCH // ranks
    parts = [Sampler(some, law, seed=seed).rows(step, start=r * each, stop=(r + 1) * each) for r in range(ranks)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_resuming_at_any_step_gives_what_an_undisturbed_run_gives():
    some = tables()
    law = build_law(some.classes, SamplingConfig(draws=8000))
    sampler = Sampler(some, law, seed=7)
    stream = [sampler.rows(s, start=0, stop=BATCH) for s in range(60)]
    for start in (0, 1, 17, 59):
        again = Sampler(some, law, seed=7)
        for step in range(start, 60):
            assert np.array_equal(again.rows(step, start=0, stop=BATCH), stream[step])
    assert not np.array_equal(Sampler(some, law, seed=8).rows(0, start=0, stop=BATCH), stream[0])
    assert not np.array_equal(Sampler(some, law, seed=7, stream="other").rows(0, start=0, stop=BATCH), stream[0])


def test_a_batch_larger_than_a_portion_is_cut_without_a_seam():
    some = tables()
    sampler = Sampler(some, build_law(some.classes, SamplingConfig()), seed=7)
    whole = sampler.rows(3, start=0, stop=5000)
    assert np.array_equal(np.concatenate([sampler.rows(3, start=a, stop=a + 1000) for a in range(0, 5000, 1000)]), whole)


def test_redraws_stay_in_the_bucket_and_are_the_same_after_a_restart():
    some = tables()
    sampler = Sampler(some, build_law(some.classes, SamplingConfig()), seed=7)
    bucket = bucket_of_rows(some)
    drawn = {(i, a): sampler.redraw(5, i, attempt=a) for i in range(8) for a in range(1, 9)}
    assert {int(bucket[row]) for row in drawn.values()} == {sampler.bucket(5)}
    assert len(set(drawn.values())) > 20
    again = Sampler(some, build_law(some.classes, SamplingConfig()), seed=7)
    assert {key: again.redraw(5, key[0], attempt=key[1]) for key in drawn} == drawn


def test_a_bucket_without_mass_is_never_drawn():
    some = tables(rows=500, classes=6)
    # Take one category out of bucket 0, and draw only that one.
    keep = ~((some.pairs_P["bucket"] == 0) & (some.pairs_P["category"] == 0))
    ends = some.cells.ends(np.flatnonzero(keep))
    count = np.diff(ends, axis=1, prepend=0)
    pairs = some.pairs_P[keep].copy()
    pairs["first_row"] = np.cumsum(count.sum(1)) - count.sum(1)
    rows_KJ = np.zeros_like(some.classes.rows_KJ)
    np.add.at(rows_KJ, pairs["category"], count)
    classes = ClassTable(rows_KJ, some.classes.z_KJ, some.classes.mean_K, some.classes.std_K)
    cut = Tables(some.buckets, some.categories, some.shards, classes, pairs, Cells.pack(ends))
    row_KJ = np.zeros(rows_KJ.shape)
    row_KJ[0] = np.where(rows_KJ[0] > 0, 1 / rows_KJ[0].sum(), 0)
    sampler = Sampler(cut, Law(rows_KJ, row_KJ), seed=0)
    assert {sampler.bucket(s) for s in range(3000)} == {2}
    assert sampler.bucket_B.tolist() == [0, 0, 1]


def test_a_law_of_another_index_is_refused():
    some, other = tables(), tables(seed=1)
    with pytest.raises(DataError, match="the distribution was made for another index; make it from this one's table"):
        Sampler(some, build_law(other.classes, SamplingConfig()), seed=0)
