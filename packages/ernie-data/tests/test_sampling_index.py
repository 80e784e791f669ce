"""The index on disk: sorted rows, records found again, the same bytes however the source is cut, damage named."""

import hashlib
import json
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.api import DataError, StorageError
from ernie_data.sampling.build import Chunk, build_index
from ernie_data.sampling.cells import NARROW, Cells
from ernie_data.sampling.hierarchy import class_table
from ernie_data.sampling.index import PAIR, Index, Tables

BUCKETS = ((512, 512), (640, 400), (400, 640))
CATEGORIES = ("cat", "dog", "empty", "tree")
SHARDS = ("a.tar", "b.tar")


def columns(count=400, *, seed=0):
    rng = np.random.default_rng(seed)
    category = np.array([0, 1, 3])[rng.integers(0, 3, count)]
    shard = np.sort(rng.integers(0, 2, count))
    return {
        "bucket_N": np.array([0, 2])[rng.integers(0, 2, count)],
        "category_N": category,
        "score_N": rng.normal(category, 1.0),
        "shard_N": shard,
        "position_N": np.arange(count),
        "offset_N": np.arange(count) * 512,
        "size_N": rng.integers(1, 512, count),
        "sha256_N32": np.frombuffer(b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(count)), np.uint8).reshape(count, 32),
    }


def chunked(columns, sizes=(400,)):
    edges = np.cumsum([0, *sizes])
    edges = [*edges[edges < len(columns["bucket_N"])], len(columns["bucket_N"])]  # chunks may be empty
    return lambda: (Chunk(**{name: column[a:b] for name, column in columns.items()}) for a, b in pairwise(edges))


def build(path, columns, sizes=(400,), **options):
    build_index(path, chunked(columns, sizes), buckets=BUCKETS, categories=CATEGORIES, shards=SHARDS, **{"bins": 8, **options})
    return path


def test_rows_are_sorted_by_bucket_category_and_bin_and_lead_to_their_records(tmp_path):
    source = columns()
    with Index(build(tmp_path / "index", source), verify="all") as index:
        found = index.records(np.arange(400))
        tables = index.tables
    assert (tables.buckets, tables.categories, tables.shards, index.rows) == (BUCKETS, CATEGORIES, SHARDS, 400)
    table, bin_N = class_table(source["category_N"], source["score_N"], classes=4, bins=8)
    np.testing.assert_array_equal(tables.classes.rows_KJ, table.rows_KJ)
    np.testing.assert_allclose(tables.classes.z_KJ, table.z_KJ, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(tables.classes.mean_K, table.mean_K, rtol=1e-12)
    np.testing.assert_allclose(tables.classes.std_K, table.std_K, rtol=1e-12)
    order = np.lexsort((np.arange(400), bin_N, source["category_N"], source["bucket_N"]))
    for name in ("shard", "position", "offset", "size"):
        np.testing.assert_array_equal(found[name], source[f"{name}_N"][order])
    assert b"".join(bytes(s) for s in found["sha256"]) == source["sha256_N32"][order].tobytes()
    # Arithmetic on pairs and cells gives each row's bucket, category and bin.
    count_PJ = np.diff(tables.cells.ends(np.arange(len(tables.cells))), axis=1, prepend=0)
    for name, column in (("bucket", source["bucket_N"]), ("category", source["category_N"])):
        np.testing.assert_array_equal(np.repeat(tables.pairs_P[name], count_PJ.sum(1)), column[order])
    np.testing.assert_array_equal(np.repeat(np.tile(np.arange(8), len(count_PJ)), count_PJ.ravel()), bin_N[order])
    np.testing.assert_array_equal(tables.pairs_P["first_row"], np.cumsum(count_PJ.sum(1)) - count_PJ.sum(1))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 150), max_size=6))
def test_the_bytes_do_not_depend_on_how_the_source_is_cut(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("cut")
    source = columns(300)
    source["score_N"] *= 1e3 / 7  # sums that round
    manifests = [
        json.loads((build(folder / name, source, cut) / "manifest.json").read_bytes()) for name, cut in (("a", (300,)), ("b", sizes))
    ]
    assert manifests[0] == manifests[1]


def test_records_come_in_the_order_asked_for_and_repeat(tmp_path):
    with Index(build(tmp_path / "index", columns())) as index:
        every = index.records(np.arange(400))
        rows = np.array([399, 0, 17, 17, 203])
        assert (index.records(rows) == every[rows]).all()
        assert len(index.records(np.array([], np.int64))) == 0
        with pytest.raises(DataError, match="row 400 does not exist; rows are 0 to 399"):
            index.records(np.array([3, 400]))
        with pytest.raises(DataError, match="row -1 does not exist"):
            index.records(np.array([-1]))


def test_a_record_that_was_never_written_is_an_error(tmp_path):
    path = build(tmp_path / "index", columns())
    with (path / "records.bin").open("r+b") as file:
        file.seek(52 * 7)
        file.write(bytes(52))
    with Index(path) as index, pytest.raises(DataError, match=r"records\.bin: row 7 has no record; build the index again"):
        index.records(np.array([6, 7]))
    with pytest.raises(DataError, match=r"records\.bin: sha256 differs from the manifest"):
        Index(path, verify="all")


WRONG = [
    ("bucket_N", 3, r"row 5: bucket is 3, expected 0 to 2"),
    ("category_N", -1, r"row 5: category is -1, expected 0 to 3"),
    ("shard_N", 2, r"row 5: shard is 2, expected 0 to 1"),
    ("size_N", 0, r"row 5: size is 0, expected 1 to 4294967295"),
    ("size_N", 2**32, r"row 5: size is 4294967296, expected 1 to 4294967295"),
    ("offset_N", -4, r"row 5: offset is -4, expected 0 to"),
    ("position_N", -1, r"row 5: position is -1, expected 0 to"),
    ("score_N", np.nan, r"row 5: score is nan; every row needs a finite score, so score it or leave it out"),
    ("score_N", np.inf, r"row 5: score is inf"),
]


@pytest.mark.parametrize(("column", "value", "message"), WRONG)
def test_values_out_of_range_are_refused_with_their_row(tmp_path, column, value, message):
    source = columns(20)
    source[column] = source[column].copy()
    source[column][5] = value
    with pytest.raises(DataError, match=message):
        build(tmp_path / "index", source, (3, 17))
    assert list(tmp_path.iterdir()) == []


def test_sources_that_are_empty_uneven_or_change_are_refused(tmp_path):
    with pytest.raises(DataError, match="there are no rows to index"):
        build(tmp_path / "index", columns(0))
    uneven = {**columns(20), "size_N": np.ones(19, np.int64)}
    with pytest.raises(DataError, match="columns of one chunk differ in length"):
        build(tmp_path / "index", uneven)
    good = columns(20)
    short = {name: column[:19] for name, column in good.items()}
    changes = [
        ((good, short), "the source gave 20 rows when read first and 19 when read again"),
        ((good, good, short), "the source gave 20 rows when it was read first and 19 when read again"),
        (({**good, "score_N": np.ones(20)}, {**good, "score_N": np.full(20, 2.0)}), "gave other scores when it was read again"),
        ((good, good, {**good, "bucket_N": np.zeros(20, np.int64)}), "gave other rows when it was read again"),
    ]
    for turns, message in changes:
        passes = iter(turns)
        with pytest.raises(DataError, match=message):
            build_index(tmp_path / "index", lambda p=passes: chunked(next(p))(), buckets=BUCKETS, categories=CATEGORIES, shards=SHARDS)
    assert list(tmp_path.iterdir()) == []


def test_names_that_do_not_fit_on_a_line_and_finished_folders_are_refused(tmp_path):
    for name in ("two\nlines", "", " blank ", "line\u2028separator"):
        with pytest.raises(DataError, match="names of categories and shards are one line of text without blanks at its ends"):
            build_index(tmp_path / "index", chunked(columns(9)), buckets=BUCKETS, categories=(*CATEGORIES[:3], name), shards=SHARDS)
    build(tmp_path / "index", columns())
    with pytest.raises(StorageError, match="already exists"):
        build(tmp_path / "index", columns())


def test_any_flipped_bit_in_a_table_is_found_when_the_index_is_opened(tmp_path):
    path = build(tmp_path / "index", columns())
    rng = np.random.default_rng(0)
    for name in ("index.json", "categories.txt", "shards.txt", "classes.bin", "bins.bin", "pairs.bin", "narrow.bin"):
        good = (path / name).read_bytes()
        for at in rng.integers(0, len(good), 8):
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(8))
            (path / name).write_bytes(bad)
            with pytest.raises(
                DataError, match=rf"{re.escape(name)}: sha256 differs from the manifest \(expected .*\)\. Build the index again\."
            ):
                Index(path)
        (path / name).write_bytes(good)
    Index(path, verify="all").close()


def test_what_is_no_index_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: not a sampling index"):
        Index(tmp_path / "nowhere")
    path = build(tmp_path / "index", columns())
    records = (path / "records.bin").read_bytes()
    (path / "records.bin").write_bytes(records[:-1])
    with pytest.raises(DataError, match=r"records\.bin: 20799 bytes, the manifest says 20800"):
        Index(path)
    (path / "records.bin").unlink()
    with pytest.raises(DataError, match=r"records\.bin: missing\. Build the index again\."):
        Index(path)
    (path / "manifest.json").write_text('{"files": 3}')
    with pytest.raises(DataError, match=r"manifest\.json: damaged"):
        Index(path)


def test_an_index_of_another_version_says_so(tmp_path):
    path = build(tmp_path / "index", columns())
    facts = json.loads((path / "index.json").read_bytes())
    newer = json.dumps({**facts, "version": 2}).encode()
    (path / "index.json").write_bytes(newer)
    manifest = json.loads((path / "manifest.json").read_bytes())
    manifest["files"]["index.json"] = {"bytes": len(newer), "sha256": hashlib.sha256(newer).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="format 'ernie-sampling-index' version 2; this program reads 'ernie-sampling-index' version 1"):
        Index(path)


def test_the_number_of_rows_is_that_of_the_last_pair():
    table, _ = class_table([0, 0], [1.0, 2.0], classes=1, bins=2)
    tables = Tables(((8, 8),), ("c",), ("s",), table, np.array([(0, 0, 0), (1, 0, 1)], PAIR), Cells.pack(np.array([[1, 1], [0, 1]])))
    assert tables.rows == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([1, 7, NARROW, NARROW + 1, 2**32 - 1]), min_size=1, max_size=8), st.integers(0, 100))
def test_pairs_of_every_size_keep_their_counts(sizes, seed):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, np.array(sizes)[:, None], (len(sizes), 5), endpoint=True), axis=1)
    ends[:, -1] = sizes
    cells = Cells.pack(ends)
    assert len(cells.wide_YJ) == sum(size > NARROW for size in sizes)
    rows = rng.integers(0, len(sizes), 20)
    np.testing.assert_array_equal(cells.ends(rows), ends[rows])
    again = Cells.of(cells.narrow_XJ, cells.wide_YJ, sizes)
    np.testing.assert_array_equal(again.ends(np.arange(len(sizes))), ends)


def test_large_and_small_pairs_go_through_the_file(tmp_path):
    count = NARROW + 500
    source = columns(count)
    source["category_N"] = np.where(np.arange(count) < 100, 3, 0)
    source["bucket_N"] = np.zeros(count, np.int64)
    with Index(build(tmp_path / "index", source, (count,))) as index:
        assert (len(index.tables.cells.narrow_XJ), len(index.tables.cells.wide_YJ)) == (1, 1)
        assert index.tables.rows == index.rows == count
        assert index.tables.cells.ends([0, 1])[:, -1].tolist() == [count - 100, 100]
        assert sorted(index.records(np.arange(count - 100, count))["position"]) == list(range(100))
