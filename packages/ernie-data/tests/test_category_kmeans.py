"""Hierarchical k-means, its sample and its names against their laws."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.api import DataError
from ernie_core.rng import Rng
from ernie_data.category.kmeans import grow_tree, kmeans, nearest, shares
from ernie_data.category.names import WordCounts, names_of, words
from ernie_data.category.sample import Reservoir, ranks


def blobs(seed, *, centres, rows, width=8, noise=0.05):
    rng = np.random.default_rng(seed)
    centre_KD = rng.standard_normal((centres, width))
    label_N = np.concatenate([np.arange(centres), rng.integers(centres, size=rows - centres)])
    return (centre_KD[label_N] + noise * rng.standard_normal((rows, width))).astype(np.float32), label_N


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.0, 1e-7, 1e-3, 1.0]))
def test_nearest_is_the_float64_minimum_whatever_the_batch(seed, rows, count, width, spread):
    rng = np.random.default_rng(seed)
    x_ND = (1 + spread * rng.standard_normal((rows, width))).astype(np.float32)
    c_KD = (1 + spread * rng.standard_normal((count, width))).astype(np.float32)
    squared_NK = ((x_ND.astype(np.float64)[:, None] - c_KD) ** 2).sum(2)
    label_N, squared_N = nearest(x_ND, c_KD)
    assert np.array_equal(label_N, squared_NK.argmin(1))
    assert np.allclose(squared_N, squared_NK.min(1), rtol=1e-12, atol=0)
    alone = [nearest(x_ND[n : n + 1], c_KD) for n in range(rows)]
    assert [(label[0], squared[0]) for label, squared in alone] == list(zip(label_N, squared_N))


def test_well_separated_groups_are_found():
    x_ND, truth_N = blobs(0, centres=30, rows=3000)
    _, label_N, squared_N = kmeans(x_ND, 30, rng=Rng(0).at("test", 0).generator(0), iterations=20)
    assert len(set(zip(label_N.tolist(), truth_N.tolist()))) == 30
    assert squared_N.mean() == pytest.approx(8 * 0.05**2, rel=0.1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 80), st.integers(1, 5), st.integers(1, 4))
def test_no_cluster_is_empty_and_each_row_is_in_its_nearest(seed, rows, count, distinct, width):
    rng = np.random.default_rng(seed)
    x_ND = rng.standard_normal((distinct, width)).astype(np.float32)[rng.integers(distinct, size=rows)]
    c_KD, label_N, squared_N = kmeans(x_ND, count, rng=Rng(seed).at("test", 0).generator(0), iterations=5)
    assert 1 <= len(c_KD) <= min(count, len(np.unique(x_ND, axis=0)))
    sizes = np.bincount(label_N, minlength=len(c_KD))
    assert (sizes > 0).all()
    assert (np.diff(sizes) <= 0).all()
    assert np.array_equal(label_N, nearest(x_ND, c_KD)[0])
    assert (squared_N >= 0).all()


def test_an_empty_cluster_moves_to_the_farthest_row():
    from ernie_data.category.kmeans import _means

    x_ND = np.array([[0.0], [1.0], [9.0]], np.float32)
    means_KD = _means(x_ND, np.zeros(3, np.int64), np.array([0.0, 1.0, 81.0]), np.array([[0.0], [50.0]], np.float32))
    assert means_KD.ravel().tolist() == pytest.approx([10 / 3, 9.0])


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_tree_has_the_leaves_asked_for_and_finds_the_groups(levels):
    x_ND, truth_N = blobs(1, centres=40, rows=4000, width=16)
    tree = grow_tree(x_ND, leaves=60, levels=levels, seed=0, iterations=20)
    assert tree.leaves == 60
    assert [len(c) for c in tree.centroids] == [round(60 ** (level / levels)) for level in range(1, levels + 1)]
    leaf_N, distance_N = tree.assign(x_ND)
    pure = [np.bincount(truth_N[leaf_N == leaf]).max() for leaf in np.unique(leaf_N)]
    assert sum(pure) >= (1.0 if levels == 1 else 0.9) * len(x_ND), "a level's borders may run through a group"
    assert distance_N.shape == (4000,)
    for parents_K, above in zip(tree.parents[1:], tree.centroids):
        assert np.array_equal(np.unique(parents_K), np.arange(len(above))), "every node has children"
        assert (np.diff(parents_K) >= 0).all()


def test_a_tree_is_a_function_of_rows_and_seed():
    x_ND, _ = blobs(2, centres=20, rows=500)
    trees = [grow_tree(x_ND, leaves=25, levels=2, seed=seed, iterations=5) for seed in (3, 3, 4)]
    assert all(np.array_equal(a, b) for a, b in zip(trees[0].centroids, trees[1].centroids))
    assert not all(np.array_equal(a, b) for a, b in zip(trees[0].centroids, trees[2].centroids))


def test_leaves_are_fewer_where_rows_do_not_differ():
    tree = grow_tree(np.repeat(np.eye(3, dtype=np.float32), 50, axis=0), leaves=20, levels=2, seed=0, iterations=5)
    assert tree.leaves == 3


def test_a_tree_refuses_what_it_cannot_use():
    with pytest.raises(DataError, match="there is no embedding to build a taxonomy from"):
        grow_tree(np.zeros((0, 4), np.float32), leaves=3, levels=1, seed=0, iterations=3)
    tree = grow_tree(np.eye(4, dtype=np.float32), leaves=2, levels=1, seed=0, iterations=3)
    with pytest.raises(DataError, match="embeddings have 5 numbers, and the taxonomy was built from 4"):
        tree.assign(np.zeros((1, 5), np.float32))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 7.0, 1e6]), st.integers(1, 9)), min_size=1, max_size=8), st.integers(0, 40))
def test_seats_are_given_whole_within_bounds_and_by_weight(some, extra):
    weights, most = [w for w, _ in some], [m for _, m in some]
    total = len(some) + extra
    seats = shares(weights, most, total)
    assert all(1 <= s <= m for s, m in zip(seats, most))
    room = sum(m if w > 0 else 1 for w, m in some)
    assert sum(seats) == min(total, room)
    for (w, m), s in zip(some, seats):
        for (other_w, _), other_s in zip(some, seats):
            if w > other_w and m >= s + 1:
                assert s >= other_s or other_s == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.lists(st.integers(1, 60), max_size=5), st.randoms(use_true_random=False))
def test_a_sample_depends_on_neither_order_nor_pieces(capacity, rows, cuts, random):
    keys = [f"k{i}" for i in range(rows)]
    lowest = sorted(range(rows), key=lambda n: int(ranks([keys[n]], 5)[0]))[:capacity]
    shuffled = list(range(rows))
    random.shuffle(shuffled)
    sample = Reservoir(capacity, 2)
    bounds = [0, *sorted(min(c, rows) for c in cuts), rows]
    for first, stop in pairwise(bounds):
        part = shuffled[first:stop]
        sample.add(ranks([keys[n] for n in part], 5), np.array([[n, n] for n in part], np.float32).reshape(-1, 2), part)
    rank_N, x_ND, tag_N = sample.take()
    assert tag_N.tolist() == lowest == x_ND[:, 0].tolist()
    assert sample.last == int(rank_N[-1])


def test_a_sample_is_another_with_another_seed_and_of_even_chances():
    keys = [f"k{i}" for i in range(4000)]
    assert ranks(keys[:3], 0).tolist() != ranks(keys[:3], 1).tolist()
    share = np.histogram(ranks(keys, 0) / 2**64, bins=10, range=(0, 1))[0]
    assert abs(share - 400).max() < 5 * 400**0.5
    assert Reservoir(3, 2).last == -1


def counted(captions):
    counts = WordCounts(len(captions))
    for leaf, texts in enumerate(captions):
        for text in texts:
            counts.add(leaf, [text])
    return counts


def test_names_are_the_words_that_set_a_category_apart_in_the_order_of_the_captions():
    captions = [
        ["a red circle on the left", "one red circle left"],
        ["a blue square, left"] * 2,
        ["a red square on the left"] * 2,
    ]
    named = names_of(counted(captions), np.arange(3), 3)
    assert [n.name for n in named] == ["red circle", "blue square", "red square"]
    assert "left" not in named[0].words[:2]


def test_a_name_has_one_word_where_no_second_tells_much():
    kinds = [("red", "circle"), ("red", "square"), ("red", "star"), ("blue", "circle"), ("blue", "square"), ("blue", "star")]
    counts = WordCounts(6)
    for leaf, (colour, shape) in enumerate(kinds):
        counts.add(leaf, [f"{shape}, {colour}", f"there is one {colour} {shape} here", f"draw a {colour} {shape}"])
    assert [n.name for n in names_of(counts, np.array([0, 0, 0, 1, 1, 1]), 2)] == ["red", "blue"]
    assert [n.name for n in names_of(counts, np.arange(6), 6)] == [f"{colour} {shape}" for colour, shape in kinds]


def test_names_are_unique_and_exist_without_captions():
    named = names_of(counted([["red circle"], ["red circle"], ["blue square"], [], ["green"]]), np.arange(5), 5)
    assert [n.name for n in named] == ["red circle", "red circle (2)", "blue square", "cluster-00003", "green"]
    assert named[3].words == ()


def test_a_parent_is_named_by_all_below_it():
    counts = counted([["red circle"], ["red square"], ["blue circle"], ["blue square"]])
    assert [n.words for n in names_of(counts, np.array([0, 0, 1, 1]), 2)] == [("red",), ("blue",)]
    assert names_of(counts, np.zeros(4, np.int64), 1)[0].name == "blue circle"


def test_words_of_texts():
    assert list(words("A Red_circle, don't 42 x 3D")) == ["red", "circle", "don", "3d"]
    assert list(words("红色圆形 on white")) == ["红色", "色圆", "圆形", "white"]
    assert list(words("花")) == ["花"]
    assert list(words("")) == []
