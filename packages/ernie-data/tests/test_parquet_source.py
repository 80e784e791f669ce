"""Parquet as a source: the layouts that are about, what is refused row by row, and schemas that hold no pictures."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ernie_core.api import DataError, Selection
from ernie_data.engine.build import build_dataset
from ernie_data.recipe import ParquetInput, Recipe, RunOptions
from ernie_data.sources.listing import list_sources
from ernie_data.sources.place import read_place
from ernie_data.tables import read_rows


def png(value: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(data, format="PNG")
    return data.getvalue()


def write(path, columns: dict, rows_per_group: int = 4) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)


def build(tmp_path, **options) -> tuple[dict, dict]:
    recipe = Recipe(
        sources=(Selection("parquet", ParquetInput(path=str(tmp_path / "raw"), **options)),), unit_rows=4, run=RunOptions(workers=2)
    )
    about = build_dataset(recipe, tmp_path / "out")
    rows = {row["key"]: row for folder in (tmp_path / "out" / "scan").iterdir() for row in read_rows(folder / "rows.parquet")}
    return about, rows


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def test_bytes_with_captions_by_style_in_several_groups(raw, tmp_path):
    write(raw / "a.parquet", {"image": [png(i) for i in range(10)], "text": [f"n {i}" for i in range(10)], "text_keywords": ["k"] * 10})
    about, rows = build(tmp_path)
    assert (about["records"], about["accepted"]) == (10, 10)
    assert rows["parquet/a.parquet/000000007"]["captions"] == {"text": "n 7", "keywords": "k"}
    places = list_sources([ParquetInput(path=str(raw))]).places
    assert [read_place(place, expected_sha256=None) for place in reversed(places)] == [png(i) for i in reversed(range(10))]


def test_structs_of_bytes_and_path_as_the_datasets_library_writes_them(raw, tmp_path):
    write(
        raw / "train.parquet",
        {"image": [{"bytes": png(1), "path": "x.png"}, None, {"bytes": None, "path": "y"}], "caption": ["one", None, "three"]},
    )
    about, rows = build(tmp_path)
    assert (about["records"], about["accepted"], about["rejected"]) == (3, 1, 2)
    assert rows["parquet/train.parquet/000000000"]["captions"] == {"text": "one"}
    assert {row["error"] for row in read_rows(tmp_path / "out" / "rejected.parquet")} == {"no_picture"}


def test_paths_are_files_beside_the_table_and_nothing_else(raw, tmp_path):
    (raw / "in").mkdir()
    (raw / "in" / "a.png").write_bytes(png(3))
    (raw / "link.png").symlink_to("/etc/hostname")
    names = ["in/a.png", "/etc/hostname", "../secret.png", "gone.png", "link.png", None]
    write(raw / "list.parquet", {"file_name": names, "prompt": ["p"] * 6})
    about, _ = build(tmp_path)
    assert (about["accepted"], about["rejected"]) == (1, 5)
    assert [row["error"] for row in read_rows(tmp_path / "out" / "rejected.parquet")] == [
        *("name_refused", "name_refused", "missing_file", "link_outside", "no_picture")
    ]


def test_captions_that_cannot_be_used_cost_no_picture(raw, tmp_path):
    texts = ["", "x" * 20_000, "a\x00b", "fine"]
    write(raw / "a.parquet", {"jpg": [png(i) for i in range(4)], "caption": texts})
    about, rows = build(tmp_path)
    assert about["accepted"] == 4
    assert about["captions_not_used"] == 2
    assert "control character" in rows["parquet/a.parquet/000000002"]["caption_error"]


def test_a_column_may_be_named_and_other_schemas_are_described(raw, tmp_path):
    write(raw / "a.parquet", {"id": [1, 2], "blob": [png(1), png(2)], "words": ["a", "b"]})
    with pytest.raises(
        DataError, match=r"no column of pictures\. Found: id \(int64\), blob \(binary\), words \(string\)\. Expected bytes in one of image,"
    ):
        list_sources([ParquetInput(path=str(raw))])
    with pytest.raises(DataError, match=r"`image = 'id'`: expected a column of bytes"):
        list_sources([ParquetInput(path=str(raw), image="id")])
    with pytest.raises(DataError, match=r"`captions`: expected columns of text, found none called 'caption'"):
        list_sources([ParquetInput(path=str(raw), image="blob", captions=("caption",))])
    about, rows = build(tmp_path, image="blob", captions=("words",))
    assert about["accepted"] == 2
    assert rows["parquet/a.parquet/000000001"]["captions"] == {"words": "b"}


def test_files_that_are_no_parquet_and_empty_ones(raw, tmp_path):
    (raw / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        list_sources([ParquetInput(path=str(raw))])
    write(raw / "a.parquet", {"image": pa.array([], pa.binary())})
    with pytest.raises(DataError, match=r"nothing found \(source `parquet`\); expected Parquet files with rows"):
        list_sources([ParquetInput(path=str(raw))])


def test_the_rows_of_a_damaged_row_group_are_refused_and_a_repaired_file_goes_on(raw, tmp_path):
    columns = {"image": [png(i) for i in range(12)]}
    write(raw / "a.parquet", columns)
    whole = (raw / "a.parquet").read_bytes()
    chunk = pq.ParquetFile(raw / "a.parquet").metadata.row_group(1).column(0)
    at = chunk.dictionary_page_offset or chunk.data_page_offset
    (raw / "a.parquet").write_bytes(whole[:at] + b"\xff" * 40 + whole[at + 40 :])
    about, _ = build(tmp_path)
    assert (about["accepted"], about["rejected"]) == (8, 4)
    rejected = read_rows(tmp_path / "out" / "rejected.parquet")
    assert {row["error"] for row in rejected} == {"unreadable"}
    assert all("row group 1 is damaged" in row["detail"] for row in rejected)
    write(raw / "a.parquet", columns)
    assert build(tmp_path)[0]["accepted"] == 12


def test_text_that_is_not_utf8_or_too_long_costs_the_caption_and_a_name_the_record(raw):
    offsets = np.array([0, 4, 7, 20_007, 20_007], np.int32).tobytes()
    texts = pa.Array.from_buffers(pa.string(), 4, [None, pa.py_buffer(offsets), pa.py_buffer(b"fineab\xff" + b"x" * 20_000)])
    write(raw / "a.parquet", {"image": [png(i) for i in range(4)], "text": texts})
    write(raw / "b.parquet", {"path": texts})
    places = list_sources([ParquetInput(path=str(raw))]).places
    assert [place.captions for place in places[:4]] == [{"text": "fine"}, {}, {}, {"text": ""}]
    assert "not UTF-8" in places[1].caption_error
    assert "20000 bytes is too long" in places[2].caption_error
    assert [place.error for place in places[4:]] == ["missing_file", "name_refused", "name_refused", "no_picture"]


def test_a_text_that_stands_in_every_row_is_held_once(raw):
    long = "x" * 1_000_000  # 20,000 times: 20 GB, in a file of 20 kB
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), [long])
    pq.write_table(pa.table({"image": pa.array([b""] * 20_000), "text": column}), raw / "a.parquet", compression="zstd", store_schema=False)
    places = list_sources([ParquetInput(path=str(raw))]).places
    assert len(places) == 20_000
    assert all("1000000 bytes is too long" in place.caption_error for place in places)


def test_damaged_pages_dangling_links_and_links_in_a_circle_are_named(raw):
    write(raw / "a.parquet", {"image": [png(1)] * 100, "text": [f"caption {i}" for i in range(100)]}, rows_per_group=100)
    chunk = pq.ParquetFile(raw / "a.parquet").metadata.row_group(0).column(1)
    data = bytearray((raw / "a.parquet").read_bytes())
    data[chunk.dictionary_page_offset : chunk.dictionary_page_offset + 8] = b"\xff" * 8
    (raw / "a.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet: damaged"):
        list_sources([ParquetInput(path=str(raw))])
    (raw / "a.parquet").unlink()
    (raw / "a.parquet").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read \(No such file"):
        list_sources([ParquetInput(path=str(raw))])
    (raw / "a.parquet").unlink()
    (raw / "x.png").symlink_to("y.png")
    (raw / "y.png").symlink_to("x.png")
    write(raw / "a.parquet", {"path": ["x.png"]})
    assert [place.error for place in list_sources([ParquetInput(path=str(raw))]).places] == ["unreadable"]


def test_row_groups_that_no_worker_can_hold_are_told_before_any_work(raw):
    noise = np.random.default_rng(0).bytes(1 << 20)
    pq.write_table(
        pa.table({"image": [{"bytes": noise + bytes([i]), "path": ""} for i in range(3)]}), raw / "a.parquet", use_dictionary=False
    )
    with pytest.raises(DataError, match=r"row group 0 has 3 MiB of pictures.*max_group_mib = 2.*row_group_size"):
        list_sources([ParquetInput(path=str(raw), max_group_mib=2)])
    assert len(list_sources([ParquetInput(path=str(raw), max_group_mib=4)]).places) == 3
