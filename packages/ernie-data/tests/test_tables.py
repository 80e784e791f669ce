"""Tables: what goes in comes out, equal rows give equal bytes, and what does not fit is refused by name."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.api import DataError
from ernie_data.tables import content_sha256, encode_rows, read_rows, read_table

COLUMNS = {
    "key": "string",
    "count": "int",
    "score": "float",
    "good": "bool",
    "words": "strings",
    "vector": "floats",
    "captions": "map",
    "boxes": "json",
}
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
rows = st.lists(
    st.fixed_dictionaries(
        {"key": text},
        optional={
            "count": st.integers(-(2**63), 2**63 - 1),
            "score": finite,
            "good": st.booleans(),
            "words": st.lists(text, max_size=3),
            "vector": st.lists(finite, max_size=3),
            "captions": st.dictionaries(text, text, max_size=3),
            "boxes": st.recursive(st.none() | st.integers(0, 9) | text, lambda inner: st.lists(inner, max_size=2)).filter(
                lambda v: v is not None
            ),
        },
    ),
    max_size=5,
)


@given(rows)
def test_rows_come_back_as_they_were_and_equal_rows_give_equal_bytes(tmp_path_factory, given_rows):
    path = tmp_path_factory.mktemp("t") / "rows.parquet"
    data = encode_rows(given_rows, COLUMNS)
    path.write_bytes(data)
    assert read_rows(path) == given_rows
    assert encode_rows([dict(reversed(row.items())) for row in given_rows], COLUMNS) == data
    assert content_sha256(given_rows) == content_sha256([{**dict.fromkeys(COLUMNS), **row} for row in given_rows])


def test_a_table_without_rows_keeps_its_schema(tmp_path):
    (tmp_path / "t").write_bytes(encode_rows([], COLUMNS))
    assert read_rows(tmp_path / "t") == []
    assert read_table(tmp_path / "t").column_names == list(COLUMNS)


def test_vectors_may_be_arrays_and_only_the_columns_asked_for_are_read(tmp_path):
    row = {"key": "a", "vector": np.arange(3, dtype=np.float32), "count": 1}
    (tmp_path / "t").write_bytes(encode_rows([row], COLUMNS))
    assert read_rows(tmp_path / "t", ["key", "vector", "no such"]) == [{"key": "a", "vector": [0.0, 1.0, 2.0]}]
    assert content_sha256([row]) != content_sha256([{**row, "vector": np.ones(3, np.float32)}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"key": "a", "count": "one"}, r"'a': the column `count` must be int, found 'one'"),
        ({"key": "a", "count": 2**63}, r"'a': the column `count` must be int"),
        ({"key": "a", "score": float("nan")}, r"'a': the column `score` must be finite, found nan"),
        ({"key": "a", "other": 1}, r"'a': the column `other` was not declared; declared: key, count"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_key_and_column(row, message):
    with pytest.raises(DataError, match=message):
        encode_rows([{"key": "b"}, row], COLUMNS)


def test_a_type_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match=r"column `x`: there is no type 'number'; expected one of string, int"):
        encode_rows([], {"x": "number"})


def test_damaged_and_foreign_files_are_named(tmp_path):
    whole = encode_rows([{"key": "a", "count": 1}], COLUMNS)
    for name, data in {"empty": b"", "text": b"hello", "cut": whole[:-20], "body": whole[:4] + bytes(40) + whole[44:]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}: damaged \(.*; remove its folder and build again"):
            read_rows(tmp_path / name)
    pq.write_table(pa.table({"id": [1]}), tmp_path / "foreign")
    with pytest.raises(DataError, match=r"foreign: expected a column `key`, found id"):
        read_rows(tmp_path / "foreign")
    with pytest.raises(DataError, match=r"gone: cannot be read \(No such file"):
        read_rows(tmp_path / "gone")
