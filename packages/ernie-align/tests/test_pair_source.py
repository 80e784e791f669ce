"""The data source `pairs`."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_align.pair_config import PairsConfig
from ernie_align.pairs.buckets import bucket_of
from ernie_align.pairs.order import PairOrder
from ernie_align.pairs.source import build
from ernie_core.api import ConfigError, DataError, DataSourceContext, PluginHost, RecordRef, Stage, from_plain
from ernie_core.testing.data import DataSourceContract
from ernie_core.testing.mishaps import without_fsync

from .pair_makers import new_pair, pair_folder, picture

STAGE = Stage(size_px=32, steps=10, batch_size=4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Nine square pairs, and four wide ones."""
    root = tmp_path_factory.mktemp("folders")
    with without_fsync():
        square = pair_folder(root / "square", [new_pair(n) for n in range(9)])
        wide = pair_folder(root / "wide", [new_pair(n, size_px=(64, 32)) for n in range(20, 24)])
    return str(square), str(wide)


def source(*paths, seed=0, multiple=4, stages=(), **options):
    paths = tuple(map(str, paths))
    return build(PairsConfig(path=paths[0] if len(paths) == 1 else paths, **options), DataSourceContext(seed, multiple, stages=stages))


def some(source, steps=40, stage=STAGE):
    return [ref for step in range(steps) for ref in source.batch(step, global_batch=stage.batch_size, stage=stage)]


class TestContract(DataSourceContract):
    entry = "pairs"
    size_multiple_px = 4
    stage = STAGE

    @pytest.fixture(autouse=True)
    def _of_both_folders(self, folders, monkeypatch):
        monkeypatch.setattr(TestContract, "options", {"path": folders})


def test_both_pictures_come_with_their_pair(folders):
    both = source(*folders)
    for record in both.fetch(some(both, steps=12)):
        number = record.pair_id if record.pair_id < 9 else record.pair_id + 11
        assert record.pixels.shape == record.lose_pixels.shape
        assert record.captions == {"prompt": f"prompt {number}"}
        assert record.margin == number + 1
        assert record.annotator == "tester"
        assert record.pixels_id != record.lose_pixels_id
        if record.pair_id < 9:
            assert np.array_equal(record.pixels, picture(2 * number))
            assert np.array_equal(record.lose_pixels, picture(2 * number + 1))


def test_a_style_names_the_caption(tmp_path):
    one = source(pair_folder(tmp_path / "set", [new_pair(0, style="short")]))
    assert one.fetch(some(one, steps=1))[0].captions == {"short": "prompt 0"}


def test_an_epoch_sees_every_pair_once(folders):
    square = source(folders[0])
    rows = [ref.row for ref in some(square, steps=9)]  # 36 = 4 epochs of 9
    assert all(sorted(rows[first : first + 9]) == list(range(9)) for first in range(0, 36, 9))


def test_least_margins_leave_out_and_keep_the_pair_ids(folders):
    strict = source(*folders, min_margin=8.0)
    assert len(strict) == 6  # pairs 7, 8 and 20 to 23
    assert {record.pair_id for record in strict.fetch(some(strict))} == {7, 8, 9, 10, 11, 12}
    assert len(source(folders[0], min_margin=9.0)) == 1
    with pytest.raises(DataError, match=r"min_margin = 9.5: none of the 9 pairs of .*square has such a margin; the largest is 9"):
        source(folders[0], min_margin=9.5)


def test_the_identity_is_the_content_in_its_order(folders, tmp_path):
    elsewhere = pair_folder(tmp_path / "elsewhere", [new_pair(n) for n in range(9)])
    assert source(folders[0]).identity() == source(elsewhere).identity()
    assert len({source(*paths).identity() for paths in (folders, folders[::-1], folders[:1], folders[1:])}) == 4


def test_one_folder_twice_is_refused(folders):
    with pytest.raises(ConfigError, match=r"names .*square more than once"):
        source(folders[0], folders[0] + "/../square")


def test_changed_folders_are_noticed(folders):
    square = source(folders[0])
    for ref in (RecordRef("square/3", 2, (32, 32)), RecordRef("square/9", 9, (32, 32)), RecordRef("square/0", -9, (32, 32))):
        with pytest.raises(DataError, match="the folders have changed"):
            square.fetch([ref])


def test_large_pictures_are_refused_by_their_header(tmp_path):
    large = source(pair_folder(tmp_path / "set", [new_pair(0, size_px=(1500, 800))]), max_megapixels=1)
    with pytest.raises(DataError, match="1500 x 800 px is more than the limit of 1 megapixels; refused before decoding"):
        large.fetch(some(large, steps=1))


def test_stages_that_no_pair_fits_are_refused_at_the_start(folders):
    with pytest.raises(ConfigError, match=r"stage size_px = 40: no size for pairs of 32 x 32 px .* try size_px = 32 or 64"):
        source(folders[0], multiple=32, stages=(Stage(size_px=40, steps=1, batch_size=1),))


def test_a_config_may_name_one_folder_or_several(folders):
    host = PluginHost.discover()
    for path in (folders[0], list(folders)):
        config = from_plain({"path": path}, host, struct=PairsConfig)
        assert len(build(config, DataSourceContext(0, 4))) in (9, 13)
    with pytest.raises(ConfigError):
        from_plain({"path": []}, host, struct=PairsConfig)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    global_batch=st.integers(1, 9),
    step=st.integers(0, 200_000),
    seed=st.integers(0, 5),
)
def test_batches_are_pure_and_epochs_are_permutations(sizes, global_batch, step, seed):
    rows, first = {}, 0
    for number, size in enumerate(sizes):
        rows[number + 1, 1] = range(first, first + size)
        first += size
    one, other = (PairOrder(rows, seed=seed, size_px=64) for _ in range(2))
    other.batch(step + 17, global_batch)
    bucket, batch = one.batch(step, global_batch)
    again = other.batch(step, global_batch)
    assert (bucket, batch.tolist()) == (again[0], again[1].tolist())
    assert set(batch.tolist()) <= set(rows[bucket])
    counts = Counter(row for s in range(60) for row in one.batch(s, global_batch)[1].tolist())
    for bucket_rows in rows.values():
        seen = [counts[row] for row in bucket_rows]
        assert max(seen) - min(seen) <= 1


def test_buckets_have_their_share_of_the_steps():
    order = PairOrder({(1, 1): range(70), (2, 1): range(70, 100)}, seed=3, size_px=64)
    taken = np.cumsum([order.batch(step, 1)[0] == (1, 1) for step in range(500)])
    assert np.abs(taken - 0.7 * np.arange(1, 501)).max() < 3


@settings(max_examples=200, deadline=None)
@given(width=st.integers(16, 4096), height=st.integers(16, 4096), size=st.integers(16, 64), multiple=st.sampled_from([8, 16]))
def test_buckets_keep_shape_and_area(width, height, size, multiple):
    size_px = size * 16
    bucket = bucket_of(width, height, size_px=size_px, multiple_px=multiple)
    assert bucket[0] % multiple == bucket[1] % multiple == 0
    assert 0.75 <= bucket[0] * bucket[1] / size_px**2 <= 1.25
    aspect = min(max(width / height, 0.25), 4.0)
    assert abs(np.log(bucket[0] / bucket[1] / aspect)) < 0.13
    if width == height:
        assert bucket == (size_px, size_px)
