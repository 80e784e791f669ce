"""Laws of units, cuts, tables and receipts, and the progress line."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.api import DataError
from ernie_data.build_command import progress_line
from ernie_data.engine.build import Progress
from ernie_data.engine.store import Receipt, Store, read_manifest
from ernie_data.engine.unit import WorkUnit, chained, cut
from ernie_data.tables import encode_rows, joined, read_rows

UNIT = WorkUnit("decode", "in", "config", "code")


@pytest.mark.parametrize("change", [{"stage": "x"}, {"input": "x"}, {"config": "x"}, {"code": "x"}])
def test_each_determinant_changes_the_name(change):
    assert WorkUnit(**{**vars(UNIT), **change}).name != UNIT.name
    assert WorkUnit(**vars(UNIT)).name == UNIT.name
    assert len(UNIT.name) == 32


def test_the_hash_of_inputs_is_of_their_content():
    assert chained([{"rows": {"sha256": "a", "bytes": 1}}]) == chained([{"rows": {"sha256": "a", "bytes": 1}}])
    assert chained([{"rows": {"sha256": "a"}}]) != chained([{"rows": {"sha256": "b"}}])
    assert chained([{"rows": {"sha256": "a"}}]) != chained([{"rows": {"sha256": "a"}}, {"rows": {"sha256": "a"}}])


@given(st.sets(st.text(min_size=1, max_size=8), max_size=120), st.integers(1, 20))
def test_cuts_keep_everything_in_order_within_their_bounds(keys, rows):
    pieces = cut(sorted(keys), lambda key: key, rows=rows)
    assert [key for piece in pieces for key in piece] == sorted(keys)
    assert all(len(piece) <= 2 * rows for piece in pieces)
    assert all(len(piece) >= max(1, rows // 2) for piece in pieces[:-1])


def test_cuts_come_back_after_an_insertion():
    keys = [f"{i:05d}" for i in range(5000)]
    before = {tuple(piece) for piece in cut(keys, lambda key: key, rows=50)}
    for new in ("", "00000a", "02500a", "04999a"):
        after = {tuple(piece) for piece in cut(sorted([*keys, new]), lambda key: key, rows=50)}
        assert 1 <= len(after - before) <= 6, new


def test_a_receipt_whose_counts_do_not_sum_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unit u: 3 records in, but 1 \+ 1 out"):
        Receipt("u", "c", 3, 1, {"damaged": 1}, {})
    line = {
        "stage": "s",
        "input": "i",
        "config": "c",
        "code": "1",
        "receipt": {"unit": "u", "content": "c", "entered": 3, "accepted": 1, "rejected": {}, "files": {}},
    }
    (tmp_path / "manifest.jsonl").write_bytes(msgspec.json.encode(line) + b"\n")
    assert list(read_manifest(tmp_path / "manifest.jsonl")) == []


def test_a_receipt_of_another_unit_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"unit \w{32} of stage decode: the receipt is that of other"):
        Store(tmp_path).record(UNIT, Receipt("other", "c", 0, 0, {}, {}))


def test_a_line_whose_name_does_not_follow_from_its_contents_is_not_taken(tmp_path):
    store = Store(tmp_path)
    store.record(UNIT, Receipt(UNIT.name, "c", 0, 0, {}, {}))
    (tmp_path / "decode" / UNIT.name).mkdir(parents=True)
    store.load()
    assert list(store.lines) == [UNIT.name]
    text = (tmp_path / "manifest.jsonl").read_text()
    (tmp_path / "manifest.jsonl").write_text(text.replace('"input":"in"', '"input":"it"'))
    store.load()
    assert store.lines == {}


def test_tables_side_by_side_must_have_the_same_keys(tmp_path):
    for name, keys in (("a", "xyz"), ("b", "xyz"), ("c", "xzy"), ("d", "xy")):
        (tmp_path / name).write_bytes(encode_rows([{"key": key, name: 1} for key in keys], {"key": "string", name: "int"}))
    tables = {name: (tmp_path / name, read_rows(tmp_path / name)) for name in "abcd"}
    assert joined([tables["a"], tables["b"]])[1] == {"key": "y", "a": 1, "b": 1}
    with pytest.raises(DataError, match=r"c: row 2 has the key 'z', but .*a has 'y' there: the two do not belong together"):
        joined([tables["a"], tables["c"]])
    with pytest.raises(DataError, match=r"d: 2 rows, but .*a has 3: the two do not belong together"):
        joined([tables["a"], tables["d"]])


def test_the_progress_line_tells_rate_and_time_left():
    progress = Progress(("scan", "decode"), rows=1000, units=10)
    assert progress_line(progress, 1.0) == "scan 0/10, decode 0/10 units; 0 of 1000 records through"
    progress.units_done, progress.rows_done, progress.rows_reused = [5, 3], [500, 300], [200, 0]
    progress.rejected["damaged"] += 4
    progress.deaths = 1
    line = progress_line(progress, 10.0)
    assert line == "scan 5/10, decode 3/10 units; 300 of 1000 records through; 30 records/s, about 20 s left; 4 rejected; 1 worker deaths"
