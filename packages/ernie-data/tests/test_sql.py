"""A locked database reaches the tables it was given and nothing else."""

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ernie_data.sql import locked_connection, sql_message

ROWS = pa.table({"key": ["a", "b", "c"], "score": [1.0, None, 3.0]})
outside = pa.table({"secret": [1]})


@pytest.fixture
def database():
    with locked_connection({"rows": ROWS}) as connection:
        yield connection


def test_it_answers_about_its_tables(database):
    assert database.execute("SELECT key FROM rows WHERE score > 0 ORDER BY key").fetchall() == [("a",), ("c",)]


def test_files_of_a_dataset_are_read_through_the_registered_table_only(tmp_path):
    for n in range(2):
        pq.write_table(ROWS, tmp_path / f"{n}.parquet")
    with locked_connection({"rows": ds.dataset([str(p) for p in tmp_path.iterdir()])}) as connection:
        assert connection.execute("SELECT count(*), sum(score) FROM rows").fetchall() == [(6, 8.0)]
        with pytest.raises(duckdb.Error):
            connection.execute(f"SELECT * FROM read_parquet('{tmp_path}/0.parquet')")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "COPY rows TO '{folder}/out.csv'",
        "EXPORT DATABASE '{folder}/out'",
        "ATTACH '{folder}/out.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_parquet('https://example.invalid/a.parquet')",
        "SELECT * FROM outside",
        "SELECT getenv('HOME')",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET temp_directory = '{folder}'",
        "RESET memory_limit",
    ],
)
def test_nothing_else_can_be_reached(database, tmp_path, query):
    with pytest.raises(duckdb.Error):
        database.execute(query.format(folder=tmp_path)).fetchall()
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_needs_more_memory_than_it_may_have_fails(tmp_path):
    with locked_connection({"rows": ROWS}, memory_mib=16) as connection, pytest.raises(duckdb.Error, match=r"(?i)memory"):
        connection.execute("SELECT list(range) FROM range(10000000)").fetchall()


def test_messages_are_one_line(database):
    with pytest.raises(duckdb.Error) as error:
        database.execute("SELECT scor FROM rows")
    message = sql_message(error.value)
    assert "scor" in message
    assert "\n" not in message
    assert "LINE" not in message
