"""`ernie data query`: right answers over all columns, and nothing beyond them."""

import csv
import io
import json
import shutil

import pytest

from ernie_core.api import App, ConfigError, DataError
from ernie_data.cli import main
from ernie_data.reading.arrow import StreamedDataset
from ernie_data.reading.dataset import open_dataset
from ernie_data.reading.query import query, views
from ernie_data.reading.query_command import distinct


@pytest.fixture(scope="module")
def dataset(told):
    return open_dataset(told)


def ask(dataset, sql):
    with query(dataset, sql, threads=1) as reader:
        return reader.read_all().to_pylist(maps_as_pydicts="strict")


def test_items_and_rejected_are_all_records(dataset):
    assert ask(dataset, "SELECT (SELECT count(*) FROM items) a, (SELECT count(*) FROM rejected) r") == [{"a": 20, "r": 5}]
    found = ask(dataset, "SELECT error, stage, count(*) n FROM rejected GROUP BY ALL ORDER BY n, error")
    assert found == [
        {"error": "not_a_picture", "stage": "decode", "n": 1},
        {"error": "duplicate", "stage": "duplicates", "n": 2},
        {"error": "not_selected", "stage": "select", "n": 2},
    ]


def test_columns_of_several_stages_meet_in_one_row(dataset):
    sql = "SELECT key, width, category, captions['text'] c, caption->>'n' n, ocr_text FROM items WHERE score > 0.3 AND width < 31 ORDER BY key"
    rows = ask(dataset, sql)
    assert [row["key"] for row in rows] == ["folder/pic 13.png", "folder/pic 14.png"]
    assert rows[0] == {"key": "folder/pic 13.png", "width": 29, "category": "common <b>", "c": "seen 13", "n": "13", "ocr_text": ["STOP"]}


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("category = 'rare'", 2),
        ("category IN ('rare', 'x') AND embedding IS NOT NULL", 2),
        ("score BETWEEN 0.25 AND 0.5 AND key LIKE '%pic 1%'", 10),
        ("captions['keywords'] IS NULL", 1),
        ("duplicates > 0", 1),
        ("len(ocr_text) > 0 OR caption_agreement < 1", 3),
        ("key > 'folder/pic 20' AND width = 36", 1),
    ],
)
def test_conditions_on_columns_that_are_not_returned(dataset, where, count):
    """Conditions reach the scan, which must read their columns too."""
    whole = ask(dataset, "SELECT * FROM items")
    assert ask(dataset, f"SELECT count(*) n FROM items WHERE {where}") == [{"n": count}]
    assert len(ask(dataset, f"SELECT bucket FROM items WHERE {where}")) == count
    assert len(whole) == 20


def test_a_view_may_be_used_several_times(dataset):
    sql = "SELECT count(*) n FROM items a JOIN items b ON a.category = b.category AND a.key < b.key"
    assert ask(dataset, sql) == [{"n": 18 * 17 // 2 + 1}]


def test_stages_and_units_tell_the_counts(dataset):
    rows = ask(dataset, "SELECT stage, entered, accepted, rejected, reasons FROM stages ORDER BY number")
    assert rows[1] == {"stage": "decode", "entered": 25, "accepted": 24, "rejected": 1, "reasons": {"not_a_picture": 1}}
    assert rows[-1]["accepted"] == 20
    assert ask(dataset, "SELECT stage, sum(entered) n FROM units WHERE stage = 'scan' GROUP BY ALL") == [{"stage": "scan", "n": 25}]
    assert ask(dataset, 'SELECT count(*) n FROM "duplicates" WHERE error IS NOT NULL AND detail IS NOT NULL') == [{"n": 2}]


def test_only_the_columns_that_a_query_uses_are_read(dataset):
    asked = []
    view = views(dataset)["items"]
    read = view._read
    view._read = lambda names: (asked.append(tuple(names)), read(names))[1]
    import duckdb

    with duckdb.connect() as connection:
        connection.register("items", view)
        connection.sql("SELECT score FROM items WHERE width > 3").fetchall()
    assert set(asked[0]) == {"score", "width"}


REFUSED = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM '{out}/*/*/rows.parquet'",
    "SELECT * FROM read_parquet('{out}/rejected.parquet')",
    "SELECT * FROM glob('{out}/*')",
    "SELECT * FROM read_parquet('https://example.org/a.parquet')",
    "COPY items TO '{written}'",
    "COPY (SELECT 1) TO '{written}' (FORMAT parquet)",
    "EXPORT DATABASE '{written}'",
    "ATTACH '{written}' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 8",
    "SET GLOBAL enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CREATE TABLE t AS SELECT 1",
    "DELETE FROM items",
    "CALL pragma_version()",
    "EXPLAIN SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY items TO '{written}'",
    "WITH x AS (INSERT INTO items VALUES (1) RETURNING *) SELECT * FROM x",
    "SELECT * FROM sql",
    "SELECT getenv('HOME')",
    "",
    ";",
    "SELECT",
    "SELECT nope FROM items",
    "SELECT CAST(key AS INTEGER) FROM items",
    "SELECT error('stop') FROM items",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_nothing_else_can_be_read_or_written(told, dataset, tmp_path, sql):
    before = sorted((p, p.stat().st_mtime_ns) for p in told.rglob("*"))
    written = tmp_path / "written"
    with pytest.raises(ConfigError, match=r"^SQL: ") as caught:
        ask(dataset, sql.format(out=told, written=written))
    assert caught.value.exit_code == 2
    assert not written.exists()
    assert sorted((p, p.stat().st_mtime_ns) for p in told.rglob("*")) == before


def test_an_error_names_the_views_and_their_columns(dataset):
    with pytest.raises(ConfigError) as caught:
        ask(dataset, "SELECT scor FROM items")
    message = str(caught.value)
    assert 'Referenced column "scor" not found' in message
    assert "\n  items: key, bytes," in message
    assert "caption_agreement" in message
    assert "Traceback" not in message


def test_a_damaged_table_is_named_and_not_taken_for_a_wrong_query(told, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(told, out)
    table = next((out / "judge").iterdir()) / "rows.parquet"
    data = bytearray(table.read_bytes())
    data[: len(data) // 2] = bytes(len(data) // 2)
    table.write_bytes(data)
    with pytest.raises(DataError, match=r"rows\.parquet: damaged .*remove its folder and build again"):
        ask(open_dataset(out), "SELECT sum(score) FROM items")


def test_a_query_that_needs_more_memory_than_it_may_have_fails_with_a_line(dataset):
    sql = "SELECT count(DISTINCT r || 'some more text') FROM range(20000000) t(r)"
    with pytest.raises(ConfigError, match="Out of Memory"), query(dataset, sql, memory_mib=64, threads=1) as reader:
        reader.read_all()


def test_large_results_stream(dataset):
    with query(dataset, "SELECT r, repeat('x', 1000) FROM range(10000000) t(r)", memory_mib=128, threads=1) as reader:
        assert len(next(iter(reader))) <= 2048


def run(capsys, *arguments):
    assert main(["query", *map(str, arguments)], App()) == 0
    return capsys.readouterr().out


def test_the_table_is_short_and_says_so(told, capsys):
    out = run(capsys, told, "SELECT key, captions FROM items ORDER BY key", "--limit", "2")
    lines = out.splitlines()
    assert lines[0].split() == ["key", "captions"]
    assert lines[2].startswith("folder/pic 02.png")
    assert lines[-1] == "(2 rows; there are more: --limit N, --csv or --json)"
    assert run(capsys, told, "SELECT 1 AS one WHERE false").splitlines()[-1] == "(0 rows)"


def test_control_characters_do_not_reach_the_terminal(told, capsys):
    assert "\x1b" not in run(capsys, told, "SELECT chr(27) || '[31mred' AS c, 'two' || chr(10) || 'lines' AS d")


def test_json_is_one_object_per_row(told, capsys):
    out = run(
        capsys, told, "SELECT key, key, captions, 'nan'::DOUBLE AS x, DATE '2020-01-02' AS d FROM items ORDER BY key LIMIT 1", "--json"
    )
    assert json.loads(out) == {
        "key": "folder/pic 02.png",
        "key_2": "folder/pic 02.png",
        "captions": {"text": "seen 2", "keywords": "<i>"},
        "x": None,
        "d": "2020-01-02",
    }
    assert len(run(capsys, told, "SELECT key FROM items", "--json").splitlines()) == 20


def test_embeddings_are_lists_of_numbers(told, capsys):
    sql = "SELECT embedding, CASE WHEN width > 30 THEN embedding END AS some FROM items WHERE width IN (29, 39) ORDER BY key"
    rows = [json.loads(line) for line in run(capsys, told, sql, "--json").splitlines()]
    assert rows == [{"embedding": [13.0, 1.0], "some": None}, {"embedding": [23.0, 1.0], "some": [23.0, 1.0]}]


def test_csv_can_be_read_again(told, capsys):
    rows = list(csv.reader(io.StringIO(run(capsys, told, "SELECT key, source_captions['text'] AS c FROM items WHERE width = 29", "--csv"))))
    assert rows == [["key", "c"], ["folder/pic 13.png", 'a sign that says "STOP"']]


def test_names_are_told_apart():
    assert distinct(["a", "a", "a_2", "b", "a"]) == ["a", "a_2", "a_2_2", "b", "a_3"]


def test_stages_with_the_names_of_views_get_others(dataset):
    assert {"items", "rejected", "stages", "units", "scan", "select"} <= views(dataset).keys()
    assert isinstance(views(dataset)["judge"], StreamedDataset)


def test_a_reader_that_stops_reading_is_no_fault_of_the_query(dataset):
    with pytest.raises(BrokenPipeError), query(dataset, "SELECT key FROM items", threads=1):
        raise BrokenPipeError
