"""The index as the last units of a build: named by content, the same bytes after kills, old ones removed, rows and pictures found by position."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import PurePath

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ernie_core import io
from ernie_core.api import ConfigError, DataError, Selection
from ernie_data.buckets import bucket_sizes, nearest_bucket
from ernie_data.engine.build import build_dataset
from ernie_data.engine.store import Store, read_manifest
from ernie_data.loading.aspects import nearest_buckets
from ernie_data.loading.opened import find_indexes
from ernie_data.loading.rows import RowFacts, RowStore, write_rows
from ernie_data.recipe import FolderInput, IndexOptions, Recipe, RunOptions
from ernie_data.sampling.index import Index
from ernie_data.stages.entries import DecodeConfig, SizeConfig
from ernie_data.tables import read_rows

INDEX = IndexOptions(category="format", score="aspect", scores=("megapixels",), size_px=(16, 32), multiple_px=4, bins=4)
CONFIG = """
unit_rows = 8
[index]
category = "format"
score = "aspect"
size_px = [16, 32]
multiple_px = 4
bins = 4
[[sources]]
use = "folder"
path = "raw"
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "raw"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        path = folder / f"{i:02d}.{('png', 'bmp', 'webp')[i % 3]}"
        Image.fromarray(rng.integers(0, 256, (20 + 8 * (i % 4), 20 + 8 * (i % 3), 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"number {i}")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def recipe(raw, index=INDEX, unit_rows=8):
    stages = (Selection("decode", DecodeConfig()), Selection("size", SizeConfig(size_px=32, multiple_px=4)))
    return Recipe(
        sources=(Selection("folder", FolderInput(path=str(raw))),),
        stages=stages,
        unit_rows=unit_rows,
        index=index,
        run=RunOptions(workers=1),
    )


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    build_dataset(recipe(raw), out)
    return out


def tree(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_accepted_record_is_one_row_that_leads_to_its_picture_and_text(built, raw):
    indexes = find_indexes(built)
    assert sorted(indexes.sizes) == [16, 32]
    decode = {r["key"]: r for folder in (built / "decode").iterdir() for r in read_rows(folder / "rows.parquet") if "error" not in r}
    size = {r["key"]: r for folder in (built / "size").iterdir() for r in read_rows(folder / "rows.parquet")}
    for size_px, folder in indexes.sizes.items():
        with Index(folder, verify="all") as index, RowStore(indexes.rows) as rows:
            found = index.records(np.arange(index.rows))
            facts = rows.read(found["shard"].tolist(), found["position"].tolist())
            tables = index.tables
            bucket_N = np.repeat(tables.pairs_P["bucket"], tables.cells.ends(np.arange(len(tables.cells)))[:, -1])
            category_N = np.repeat(tables.pairs_P["category"], tables.cells.ends(np.arange(len(tables.cells)))[:, -1])
        assert len(facts) == len(rows) == 40
        assert sorted(f.key for f in facts) == sorted(decode)
        sizes = bucket_sizes(size_px, multiple_px=4, max_aspect=3.0)
        for entry, fact, bucket, category in zip(found, facts, bucket_N, category_N):
            row = decode[fact.key]
            shard = built / tables.shards[entry["shard"]]
            with shard.open("rb") as file:
                file.seek(int(entry["offset"]))
                data = file.read(int(entry["size"]))
            assert hashlib.sha256(data).hexdigest() == fact.sha256 == bytes(entry["sha256"]).hex()
            assert data == (raw / fact.key.removeprefix("folder/")).read_bytes()
            assert fact.captions == {"text": f"number {int(PurePath(fact.key).stem)}"}
            assert tables.categories[category] == fact.category == row["format"]
            assert fact.scores == {"aspect": size[fact.key]["aspect"], "megapixels": size[fact.key]["megapixels"]}
            assert tables.buckets[bucket] == nearest_bucket(row["width"], row["height"], sizes)
    assert rows.about.categories == {"BMP": 13, "PNG": 14, "WEBP": 13}
    assert rows.about.styles == {"text": 40}


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=50),
    st.sampled_from([64, 256, 512]),
    st.sampled_from([16, 32]),
)
def test_many_pictures_get_the_buckets_that_each_would_get(sizes_N, size_px, multiple_px):
    sizes = bucket_sizes(size_px, multiple_px=multiple_px, max_aspect=3.0)
    widths, heights = zip(*sizes_N)
    assert [sizes[b] for b in nearest_buckets(widths, heights, sizes)] == [nearest_bucket(w, h, sizes) for w, h in sizes_N]


def test_indexes_are_units_of_the_manifest_and_a_second_build_writes_nothing(built, raw):
    units = {line.receipt.unit: line.stage for line in read_manifest(built / "manifest.jsonl")}
    about = json.loads((built / "dataset.json").read_text())["index"]
    assert units[about["rows"]] == "rows"
    assert [units[unit] for unit in about["sizes"].values()] == ["index", "index"]
    store = Store(built)
    store.load()
    assert store.damaged() == []
    stamps = {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.name != "lock"}
    build_dataset(recipe(raw), built)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*") if path.name != "lock"} == stamps


def test_an_added_size_leaves_the_others_and_a_changed_option_removes_the_old(raw, tmp_path):
    out = tmp_path / "out"
    first = build_dataset(recipe(raw, msgspec.structs.replace(INDEX, size_px=(16,))), out)["index"]
    second = build_dataset(recipe(raw, INDEX), out)["index"]
    assert second["rows"] == first["rows"]
    assert second["sizes"]["16"] == first["sizes"]["16"]
    third = build_dataset(recipe(raw, msgspec.structs.replace(INDEX, score="megapixels")), out)["index"]
    assert not {third["rows"], *third["sizes"].values()} & {second["rows"], *second["sizes"].values()}
    assert {p.name for p in (out / "index").iterdir()} == set(third["sizes"].values())
    build_dataset(recipe(raw, None), out)
    assert not (out / "index").exists()
    assert not (out / "rows").exists()


def test_damage_to_an_index_is_found_and_repaired(raw, built, tmp_path):
    out = tmp_path / "out"
    build_dataset(recipe(raw), out)
    (victim,) = (out / "rows").glob("*/rows.bin")
    data = bytearray(victim.read_bytes())
    data[10] ^= 1
    victim.write_bytes(data)
    about = build_dataset(recipe(raw), out, verify=True)
    assert len(about["repaired"]) == 1
    assert "rows.bin: sha256 differs" in about["repaired"][0]
    assert victim.read_bytes() == next((built / "rows").glob("*/rows.bin")).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"category": "kind"}, r'index\.category: no stage gives a column `kind`; .* leave it out with index\.category = ""'),
        ({"score": "quality"}, r"index\.score: no stage gives a column `quality`"),
        ({"scores": ("format",)}, r"index\.scores: the column `format` is string, expected float or int"),
        ({"category": "aspect"}, r"index\.category: the column `aspect` is float, expected string"),
    ],
)
def test_columns_that_no_stage_gives_are_named_before_any_work(raw, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build_dataset(recipe(raw, msgspec.structs.replace(INDEX, **options)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_without_a_caption_ends_the_build_by_name_unless_that_is_wanted(raw, tmp_path):
    lonely = tmp_path / "raw"
    lonely.mkdir()
    Image.new("RGB", (16, 16)).save(lonely / "a.png")
    with pytest.raises(DataError, match=r"'folder/a.png' has no caption.*index\.allow_empty = true"):
        build_dataset(recipe(lonely), tmp_path / "out")
    about = build_dataset(recipe(lonely, msgspec.structs.replace(INDEX, allow_empty=True)), tmp_path / "out")
    with RowStore(tmp_path / "out" / "rows" / about["index"]["rows"]) as rows:
        assert rows.read([0], [0])[0].captions == {"text": ""}


def test_a_build_from_which_nothing_is_left_says_so(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="no record passed all stages"):
        build_dataset(recipe(tmp_path / "raw"), tmp_path / "out")


def test_one_category_and_equal_scores_need_no_columns(raw, tmp_path):
    about = build_dataset(recipe(raw, IndexOptions(category="", score="", size_px=(32,), multiple_px=4)), tmp_path / "out")
    with Index(tmp_path / "out" / "index" / about["index"]["sizes"]["32"]) as index:
        assert index.tables.categories == ("all",)
        assert index.rows == 40


def test_a_folder_without_an_index_says_what_is_missing(tmp_path, raw):
    with pytest.raises(DataError, match=r"dataset\.json: No such file.*expected the output folder of a finished"):
        find_indexes(tmp_path)
    build_dataset(recipe(raw, None), tmp_path / "out")
    with pytest.raises(DataError, match=r"this build has no index\. Add an \[index\] table"):
        find_indexes(tmp_path / "out")


# ---- texts ----


def pieces():
    return [
        [RowFacts(f"k{p}/{i}", "00" * 32, {"text": "é" * (i + p)}, "c", {"score": i / 3}) for i in range(n)]
        for p, n in enumerate((3, 0, 5))
    ]


@pytest.fixture
def store(tmp_path):
    with io.commit_folder(tmp_path / "rows") as folder:
        write_rows(folder, iter(pieces()))
    with RowStore(tmp_path / "rows") as store:
        yield store


def test_rows_are_read_by_piece_and_position(store):
    assert len(store) == 8
    for p, piece in enumerate(pieces()):
        assert store.read([p] * len(piece), range(len(piece))) == piece
    for place in ((1, 0), (3, 0), (-1, 0), (0, 3), (0, -1)):
        with pytest.raises(DataError, match=r"there is no record"):
            store.read([place[0]], [place[1]])


def outcome(store, piece, position):
    try:
        return store.read([piece], [position])[0]
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("name", ["rows.bin", "places.bin"])
def test_no_flipped_bit_of_a_row_goes_unseen(store, name):
    path = store.path / name
    sound = path.read_bytes()
    for at in range(0, len(sound), 7):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        refused = 0
        for p, piece in enumerate(pieces()):
            for i, row in enumerate(piece):
                found = outcome(store, p, i)
                assert found == row or "is damaged" in str(found)
                refused += found != row
        assert refused == 1
    path.write_bytes(sound[:-1])
    with pytest.raises(DataError, match=rf"{name}: \d+ bytes, the manifest says"):
        RowStore(store.path)


# ---- kills ----


@pytest.mark.battery
def test_kills_while_the_index_is_written_leave_no_trace(raw, tmp_path):
    config = tmp_path / "build.toml"
    config.write_text(
        CONFIG.replace('"raw"', f'"{raw}"') + '[[stages]]\nuse = "decode"\n[[stages]]\nuse = "size"\nsize_px = 32\nmultiple_px = 4\n'
    )

    def start(out):
        command = [sys.executable, "-m", "ernie_core.cli.main", "data", "build", str(config), "--out", str(out), "--workers", "1"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})

    whole = start(tmp_path / "whole")
    assert whole.wait(120) == 0, whole.stderr.read()
    killed = 0
    out = tmp_path / "killed"
    for folder in ("rows", "index"):
        process = start(out)
        while not (out / folder).exists() and process.poll() is None:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stderr.close()
    last = start(out)
    assert last.wait(120) == 0, last.stderr.read()
    assert killed >= 1
    assert tree(out) == tree(tmp_path / "whole")
    assert not list(out.rglob(".tmp-*"))
