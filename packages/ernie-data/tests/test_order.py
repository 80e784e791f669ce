"""Laws of the order of records."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_data.order import BLOCK_STEPS, EpochOrder

BUCKETS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def order_of(counts, *, seed=0, size_px=64):
    rows, start = {}, 0
    for i, count in enumerate(counts):
        rows[(16 * (i + 1), 16)] = range(start, start + count)
        start += count
    return EpochOrder(rows, seed=seed, size_px=size_px)


@settings(max_examples=40, deadline=None)
@given(BUCKETS, st.integers(0, 5000), st.integers(1, 40), st.integers(0, 3))
def test_a_batch_is_a_pure_function_of_seed_and_step(counts, step, global_batch, seed):
    fresh, used = order_of(counts, seed=seed), order_of(counts, seed=seed)
    for other in (step + 1, 0, step // 2):
        used.batch(other, global_batch)
    a, b = fresh.batch(step, global_batch), used.batch(step, global_batch)
    assert a[0] == b[0]
    assert np.array_equal(a[1], b[1])
    assert len(a[1]) == global_batch


@settings(max_examples=25, deadline=None)
@given(BUCKETS, st.integers(1, 40), st.integers(0, 3))
def test_each_bucket_shows_every_record_once_per_epoch(counts, global_batch, seed):
    order = order_of(counts, seed=seed)
    streams: dict = {}
    for step in range(120):
        bucket, rows = order.batch(step, global_batch)
        streams.setdefault(bucket, []).extend(rows.tolist())
    for bucket, rows in streams.items():
        members = set(order.rows[order.buckets.index(bucket)].tolist())
        for start in range(0, len(rows) - len(members) + 1, len(members)):
            assert set(rows[start : start + len(members)]) == members, "an epoch repeats or misses a record"


def test_streams_go_on_without_a_seam_where_one_block_of_steps_ends():
    order = order_of([7, 29, 3])
    streams: dict = {}
    for step in range(BLOCK_STEPS - 40, BLOCK_STEPS + 40):
        bucket, rows = order.batch(step, 5)
        streams.setdefault(bucket, []).append(rows)
    for step in (0, BLOCK_STEPS, 3 * BLOCK_STEPS):
        for bucket in range(3):
            before = sum(int(np.count_nonzero(order._block_slots(b) == bucket)) for b in range(step // BLOCK_STEPS))
            assert order._drawn_before(step // BLOCK_STEPS, bucket) == before
    assert all(len(s) > 1 for s in streams.values())


@settings(max_examples=15, deadline=None)
@given(BUCKETS, st.integers(0, 3))
def test_buckets_take_turns_in_proportion_to_their_records(counts, seed):
    order = order_of(counts, seed=seed)
    drawn = Counter(order.batch(step, 4)[0] for step in range(2 * BLOCK_STEPS))
    for bucket, count in zip(order.buckets, counts):
        expected = 2 * BLOCK_STEPS * count / sum(counts)
        assert abs(drawn[bucket] - expected) <= 2


def test_even_a_bucket_of_one_record_in_ten_thousand_is_seen_at_its_rate():
    order = order_of([10_000, 1])
    counts = sum(np.bincount(order._block_slots(b), minlength=2) for b in range(100))
    assert abs(counts[1] - 100 * BLOCK_STEPS / 10_001) <= 1
    assert order._drawn_before(100, 1) == counts[1]


def test_eight_records_fill_a_batch_of_thirty_two_evenly():
    _, rows = order_of([8]).batch(3, 32)
    assert Counter(rows.tolist()) == dict.fromkeys(range(8), 4)


def test_epochs_seeds_and_stages_have_different_orders():
    order = order_of([50])
    epochs = [tuple(order.batch(step, 50)[1]) for step in range(4)]
    assert len(set(epochs)) == 4
    assert tuple(order_of([50], seed=1).batch(0, 50)[1]) != epochs[0]
    assert tuple(order_of([50], size_px=128).batch(0, 50)[1]) != epochs[0]


def test_every_order_is_equally_likely():
    # Chi-square of the position of record 0 over 2,000 epochs of 5 records; 18.5 is the .999 quantile with 4 degrees of freedom.
    order = order_of([5])
    places = Counter(int(np.flatnonzero(order.batch(step, 5)[1] == 0)[0]) for step in range(2000))
    assert sum((places[p] - 400) ** 2 / 400 for p in range(5)) < 18.5


def test_slices_of_ranks_together_are_the_global_batch():
    order = order_of([20, 33])
    for step in range(10):
        _, rows = order.batch(step, 12)
        for world in (1, 2, 3, 4):
            again = [order_of([20, 33]).batch(step, 12)[1][r * 12 // world : (r + 1) * 12 // world] for r in range(world)]
            assert np.array_equal(np.concatenate(again), rows)


def test_a_step_far_away_is_found_at_once():
    order = order_of([1000, 10])
    bucket, rows = order.batch(50_000_000, 8)
    assert bucket in order.buckets
    assert len(rows) == 8
