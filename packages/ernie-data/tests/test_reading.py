"""A build's output as a dataset: what is accepted, what is not, in which order, from finished and unfinished builds; and `ernie data inspect` of it."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ernie_core.api import App, ConfigError, DataError
from ernie_data.cli import main
from ernie_data.engine.piece import piece_table
from ernie_data.reading.dataset import is_build, open_dataset
from ernie_data.reading.trail import trail_of
from ernie_data.tables import encode_rows, schema_of

KEY_5 = "folder/pic 05.png"


def test_a_finished_build_gives_every_record_once_in_the_order_of_its_keys(told):
    dataset = open_dataset(told)
    assert dataset.finished
    assert [stage.name for stage in dataset.stages] == ["scan", "decode", "size", "judge", "duplicates", "caption", "select"]
    keys = [row["key"] for row in dataset.rows(["key"], which="all")]
    assert keys == sorted(keys)
    assert len(keys) == dataset.records == 25
    accepted = [row["key"] for row in dataset.rows(["key"])]
    rejected = [row["key"] for row in dataset.rows(["key"], which="rejected")]
    assert sorted(accepted + rejected) == keys
    assert len(rejected) == 5  # not a picture, two duplicates, two of low score
    assert len(dataset.pieces) > 1


def test_rows_join_the_columns_of_all_stages_and_the_last_value_counts(told):
    rows = {row["key"]: row for row in open_dataset(told).rows()}
    five = rows[KEY_5]
    assert five["width"] == 21
    assert five["score"] == 5 / 40
    assert five["captions"] == {"text": "seen 5", "keywords": "<i>"}
    assert five["source_captions"]["text"].startswith("caption 5")
    assert five["caption"] == {"subject": "x", "n": 5}
    assert five["embedding"] == [5.0, 1.0]
    assert "error" not in five
    assert rows["folder/pic 11.png"]["captions"] == {"text": "caption 11 <script>alert(1)</script>"}, (
        "the caption stage gave none: the source's stands"
    )


def test_columns_are_chosen_by_name_and_unknown_ones_are_named(told):
    dataset = open_dataset(told)
    table = dataset.table(["score", "key"])
    assert table.column_names == ["score", "key"]
    assert len(table) == 20
    with pytest.raises(DataError, match="no stage gives a column `scores`; there are: key, error, detail, stage, bytes"):
        list(dataset.tables(["scores"]))


def test_pictures_are_read_by_key(told):
    dataset = open_dataset(told)
    stored = dict(dataset.pictures([KEY_5, "folder/pic 07.png", "folder/bad 24.png", "folder/none.png"]))
    assert set(stored) == {KEY_5, "folder/pic 07.png"}, "a refused picture that was stored is found, others are left out"
    assert stored[KEY_5].startswith(b"\x89PNG")


@pytest.mark.parametrize("stages", [1, 3, 5])
def test_an_unfinished_build_is_read_as_far_as_it_is(build_told, told, tmp_path, stages):
    build_told(tmp_path / "out", stages=stages)
    shutil.copy(told / "plan.json", tmp_path / "out" / "plan.json")  # the plan of the whole chain, the work of a part of it
    dataset = open_dataset(tmp_path / "out")
    assert not dataset.finished
    assert {len(units) for units in dataset.pieces} == {stages}
    assert [row["key"] for row in dataset.rows(["key"], which="all")] == [
        row["key"] for row in open_dataset(told).rows(["key"], which="all")
    ]
    assert trail_of(dataset, KEY_5).verdict().startswith("waiting for ")


def test_a_build_that_lost_a_unit_is_not_read_as_whole(told, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(told, out)
    unit = next((out / "size").iterdir())
    shutil.rmtree(unit)
    with pytest.raises(
        DataError, match=rf"dataset.json names the unit {unit.name}, which is not there or incomplete; run `ernie data build` again"
    ):
        open_dataset(out)


def test_what_is_no_build_is_refused(tmp_path):
    assert not is_build(tmp_path)
    with pytest.raises(DataError, match=r"no build output \(no plan.json\); expected a folder made by `ernie data build`"):
        open_dataset(tmp_path)
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(DataError, match="expected an object, found list"):
        open_dataset(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan\.json: cannot be read"):
        open_dataset(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(DataError, match="not the description of a build"):
        open_dataset(tmp_path)


def test_tables_with_other_keys_do_not_belong_together(tmp_path):
    (tmp_path / "a.parquet").write_bytes(encode_rows([{"key": "a"}, {"key": "b"}], {"key": "string"}))
    (tmp_path / "b.parquet").write_bytes(encode_rows([{"key": "a"}, {"key": "c"}], {"key": "string"}))
    with pytest.raises(DataError, match=r"b\.parquet: its keys are not those of .*a\.parquet: the two do not belong together"):
        piece_table([tmp_path / "a.parquet", tmp_path / "b.parquet"], schema_of({"key": "string"}))


def test_a_column_with_another_type_in_an_earlier_stage_counts_from_the_later(tmp_path):
    (tmp_path / "a.parquet").write_bytes(encode_rows([{"key": "a", "x": "one"}], {"key": "string", "x": "string"}))
    pq.write_table(pa.table({"key": ["a"], "x": pa.array([2.0])}), tmp_path / "b.parquet")
    table = piece_table([tmp_path / "a.parquet", tmp_path / "b.parquet"], schema_of({"key": "string", "x": "float"}))
    assert table.to_pylist() == [{"key": "a", "x": 2.0}]


# ---- ernie data inspect ----


def test_inspect_lists_stages_and_units(told, capsys):
    assert main(["inspect", str(told)], App()) == 0
    out = capsys.readouterr().out
    assert "told: finished, 25 records in" in out
    assert "24 in, 22 accepted, duplicate 2" in out
    assert main(["inspect", str(told), "--json"], App()) == 0
    report = json.loads(capsys.readouterr().out)
    decode = report["stages"][1]
    assert (decode["entered"], decode["accepted"], decode["rejected"]) == (25, 24, {"not_a_picture": 1})
    assert sum(unit["entered"] for unit in decode["units"]) == 25
    assert all(unit["bytes"] > 0 for unit in decode["units"])


def test_inspect_prints_everything_known_of_a_record_and_saves_its_picture(told, tmp_path, capsys):
    assert main(["inspect", str(told), "--key", "folder/pic 07.png", "--save", str(tmp_path / "seven.png")], App()) == 0
    out = capsys.readouterr().out
    assert out.startswith("folder/pic 07.png: refused by duplicates: duplicate (near of folder/pic 05.png, distance 0.07)\n")
    assert f"a duplicate of: {KEY_5}\n" in out
    assert "caption: not asked" in out
    assert "pictures.tar" in out
    assert Image.open(tmp_path / "seven.png").size == (23, 16)
    assert main(["inspect", str(told), "--key", KEY_5, "--json"], App()) == 0
    trail = json.loads(capsys.readouterr().out)
    assert trail["winner"] is None
    assert trail["steps"][3]["columns"]["category"] == "common <b>"


def test_inspect_of_a_record_without_a_stored_picture(told, tmp_path):
    with pytest.raises(DataError, match=r"no picture of it was stored, so .*x\.png was not written"):
        main(["inspect", str(told), "--key", "folder/bad 24.png", "--save", str(tmp_path / "x.png")], App())
    assert not (tmp_path / "x.png").exists()


def test_inspect_prints_the_rows_of_a_unit(told, capsys):
    unit = open_dataset(told).pieces[0][1]
    assert main(["inspect", str(told), "--unit", unit.name], App()) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == unit.receipt.entered
    assert rows[0]["key"] == "folder/bad 24.png"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--key", "folder/pic 5.png"], DataError, r"there is no record 'folder/pic 5.png'; did you mean 'folder/pic \d\d.png'\?"),
        (["--key", "?"], DataError, "there is no record '\\?'; `ernie data query"),
        (["--unit", "x"], DataError, "there is no unit 'x'; `ernie data inspect .* --json` lists all"),
        (["--save", "x.png"], ConfigError, "--save saves the picture of one record: name it with --key"),
    ],
)
def test_inspect_says_what_is_wrong(told, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        main(["inspect", str(told), *arguments], App())
    assert caught.value.exit_code == 2


def test_inspect_asked_about_a_record_of_a_raw_folder_says_that_it_is_no_build(tmp_path):
    with pytest.raises(DataError, match="no build output"):
        main(["inspect", str(tmp_path), "--key", "a"], App())
