"""Precision and recall of planted defects: counted by hand on small sets, and laws on random ones."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.api import DataError
from ernie_data.report.truth import Planted, copies_found, flagged, matched_names, read_truth

SET = [
    Planted("a", "", ""),
    Planted("b", "", ""),
    Planted("a2", "duplicate", "a"),
    Planted("a3", "near_duplicate", "a"),
    Planted("c", "corrupt", ""),
]


def test_alarms_are_hits_false_alarms_and_misses():
    planted = [Planted("a", "corrupt", ""), Planted("b", "corrupt", ""), Planted("c", "", ""), Planted("d", "corrupt", "")]
    found = flagged("corrupt", planted, {"a", "c"}, asked={"a", "b", "c"})
    assert (found.hits, found.false_alarms, found.misses) == (1, 1, 1), "d never came so far"
    assert found.precision.value == found.recall.value == 0.5
    assert found.precision.low == pytest.approx(0.0945, abs=1e-4)  # Wilson (1927) for 1 of 2


def test_without_trials_there_is_no_share():
    found = flagged("corrupt", SET, (), asked={"a"})
    assert found.precision is None
    assert found.recall is None


@pytest.mark.parametrize(
    ("removed", "counts"),
    [
        ({"a2", "a3"}, (2, 0, 0)),
        ({"a", "a2"}, (2, 0, 0)),  # any one of the three may stay
        ({"a", "a2", "a3"}, (2, 1, 0)),  # none stayed
        ({"a3"}, (1, 0, 1)),
        ({"b"}, (0, 1, 2)),
        (set(), (0, 0, 2)),
    ],
)
def test_of_a_picture_and_its_copies_all_but_one_should_go(removed, counts):
    found = copies_found(SET, removed, asked={"a", "b", "a2", "a3"}, pixels={})
    assert (found.hits, found.false_alarms, found.misses) == counts


def test_equal_pixels_are_copies_though_nobody_planted_them():
    found = copies_found(SET, {"b"}, asked={"a", "b"}, pixels={"a": "x", "b": "x"})
    assert (found.hits, found.false_alarms, found.misses) == (1, 0, 0)


def test_what_was_refused_before_is_in_no_group():
    found = copies_found(SET, {"a2"}, asked={"a", "a2"}, pixels={})
    assert (found.hits, found.false_alarms, found.misses) == (1, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_copies_sum_to_what_was_removed_and_to_what_should_be(files):
    """Law: hits + false alarms = removed; hits + misses = files minus groups."""
    planted = [Planted(f"o{g}", "", "") for g in range(6)] + [Planted(f"c{i}", "duplicate", f"o{g}") for i, (g, _) in enumerate(files)]
    removed = {f"c{i}" for i, (_, gone) in enumerate(files) if gone}
    found = copies_found(planted, removed, asked=[p.name for p in planted], pixels={})
    assert found.hits + found.false_alarms == len(removed)
    assert found.hits + found.misses == len(files)
    assert found.false_alarms == 0, "the originals stay"


def test_a_truth_file_is_read(tmp_path):
    path = tmp_path / "truth.jsonl"
    rows = [
        {"file_name": "0/a.png", "defect": None, "original": None, "more": 1},
        {"file_name": "b", "defect": "duplicate", "original": "0/a.png"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_truth(path) == [Planted("0/a.png", "", ""), Planted("b", "duplicate", "0/a.png")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected one line per file"),
        ('{"file_name": "a", "defect": null}\n[1]\n', r"truth\.jsonl:2: expected an object with file_name and defect"),
        ('{"defect": null}\n', r"truth\.jsonl:1: expected an object with file_name and defect \(KeyError"),
        ("{\n", r"truth\.jsonl:1: expected an object"),
        ('{"file_name": 3, "defect": null}\n', "file_name, defect and original must be text"),
    ],
)
def test_a_wrong_truth_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "truth.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_truth(path)


def test_a_missing_truth_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        read_truth(tmp_path / "none.jsonl")


def test_names_are_keys_without_their_source():
    assert matched_names(["folder/a", "folder/x", "other/b"], SET, Path("t")) == {"folder/a": "a", "other/b": "b"}
    with pytest.raises(DataError, match=r"t: none of its files \('a', ...\) is a record of this build; is it the truth of another set\?"):
        matched_names(["folder/x"], SET, Path("t"))
