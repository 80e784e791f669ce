"""Importing votes: rows that can be used come in, every other is counted under why."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ernie_align.pairs.format import PairFolder
from ernie_align.pairs.pair import Reason
from ernie_align.pairs.pictures import decode, png
from ernie_core.cli.main import main

from .pair_makers import picture


@pytest.fixture
def ernie(capsys):
    def run(*arguments):
        code = main(["align", "pairs", *map(str, arguments)])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def vote(number, label_0, label_1, **changes):
    row = {
        "caption": f"caption {number}",
        "jpg_0": png(picture(2 * number)),
        "jpg_1": png(picture(2 * number + 1)),
        "label_0": label_0,
        "label_1": label_1,
        "image_0_uid": f"u{2 * number}",
        "image_1_uid": f"u{2 * number + 1}",
        "best_image_uid": {1.0: f"u{2 * number}", 0.0: f"u{2 * number + 1}"}.get(label_0, "tie"),
        "has_label": True,
        "user_id": 7,
    }
    return {**row, **changes}


def parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_pick_a_pic_rows_become_pairs_and_the_rest_is_counted(ernie, tmp_path):
    rows = [
        vote(0, 1.0, 0.0),
        vote(1, 0.0, 1.0),
        vote(2, 0.5, 0.5),
        vote(3, 1.0, 0.0, has_label=False),
        vote(4, None, None),
        vote(5, 1.0, 1.0),
        vote(6, 0.0, 1.0, best_image_uid="u12"),
        vote(7, 1.0, 0.0, image_1_uid="u14"),
        vote(8, 1.0, 0.0, jpg_1=None),
        vote(9, 1.0, 0.0, jpg_1=b"no picture"),
        vote(10, 1.0, 0.0, caption=None),
        vote(11, 1.0, 0.0, jpg_1=png(picture(0, size_px=(32, 16)))),
        vote(12, 1.0, 0.0, jpg_1=png(picture(24))),
        vote(13, 0.3, 0.7),
    ]
    given = parquet(tmp_path / "votes.parquet", rows)
    code, out, err = ernie("import", given, "--layout", "pickapic", "--out", tmp_path / "pairs", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["seen"], told["pairs"]) == (14, 2)
    counts = {reason: fact["count"] for reason, fact in told["left_out"].items()}
    assert counts == {
        Reason.TIE: 1,
        Reason.NO_LABEL: 2,
        Reason.BAD_LABEL: 3,
        Reason.SAME_FILE: 2,
        Reason.MISSING_PICTURE: 1,
        Reason.UNREADABLE: 1,
        Reason.EMPTY_PROMPT: 1,
        Reason.DIFFERENT_SHAPES: 1,
    }
    assert told["seen"] == told["pairs"] + sum(counts.values())
    folder = PairFolder(tmp_path / "pairs")
    for row, (winner, loser) in enumerate(((0, 1), (3, 2))):
        pair = folder.pair(row)
        assert np.array_equal(decode(folder.bytes_of(pair.winner), "", max_pixels=10**6), picture(winner))
        assert np.array_equal(decode(folder.bytes_of(pair.loser), "", max_pixels=10**6), picture(loser))
        assert (pair.prompt, pair.margin, pair.annotator) == (f"caption {row}", 1.0, "pick-a-pic")
        assert pair.source == f"votes.parquet row {row}"


def test_a_folder_of_parquet_files_is_read_in_the_order_of_names(ernie, tmp_path):
    (tmp_path / "votes").mkdir()
    parquet(tmp_path / "votes" / "b.parquet", [vote(1, 1.0, 0.0)])
    parquet(tmp_path / "votes" / "a.parquet", [vote(0, 1.0, 0.0)])
    code, _, err = ernie("import", tmp_path / "votes", "--layout", "pickapic", "--out", tmp_path / "pairs", "--annotator", "a panel")
    assert code == 0, err
    folder = PairFolder(tmp_path / "pairs")
    assert [folder.pair(row).prompt for row in range(2)] == ["caption 0", "caption 1"]
    assert folder.pair(0).annotator == "a panel"


def test_jsonl_votes_name_files_beside_them(ernie, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(4):
        Image.fromarray(picture(number)).save(tmp_path / "pictures" / f"{number}.png")
    Image.fromarray(picture(0)).save(tmp_path / "outside.png")
    good = {"prompt": "a cat", "winner": "pictures/0.png", "loser": "pictures/1.png"}
    lines = [
        json.dumps({**good, "annotator": "ada", "margin": 2.5, "agreement": 0.8, "style": "short", "source": "round 1"}),
        json.dumps(good),
        "",
        "{torn",
        "[1]",
        json.dumps({**good, "prompt": ""}),
        json.dumps({**good, "prompt": None}),
        json.dumps({**good, "loser": "pictures/9.png"}),
        json.dumps({**good, "loser": "../pictures.png"}),
        json.dumps({**good, "loser": str(tmp_path.parent / "x.png")}),
        json.dumps({**good, "loser": 3}),
        json.dumps({**good, "loser": "pictures/0.png"}),
        '{"prompt": "a", "winner": "pictures/0.png", "loser": "pictures/1.png", "margin": NaN}',
        json.dumps({**good, "margin": -1}),
        json.dumps({**good, "margin": "much"}),
        json.dumps({**good, "agreement": 3}),
        json.dumps({**good, "annotator": 5}),
        json.dumps({**good, "loser": "votes.jsonl"}),
    ]
    (tmp_path / "votes.jsonl").write_text("\n".join(lines))
    code, out, err = ernie("import", tmp_path / "votes.jsonl", "--layout", "jsonl", "--out", tmp_path / "pairs", "--json")
    assert code == 0, err
    told = json.loads(out)
    counts = {reason: fact["count"] for reason, fact in told["left_out"].items()}
    assert counts == {
        Reason.BAD_ROW: 4,
        Reason.EMPTY_PROMPT: 2,
        Reason.MISSING_PICTURE: 4,
        Reason.SAME_FILE: 1,
        Reason.BAD_MARGIN: 3,
        Reason.UNREADABLE: 1,
    }
    assert (told["seen"], told["pairs"]) == (17, 2)
    first, second = (PairFolder(tmp_path / "pairs").pair(row) for row in range(2))
    assert (first.annotator, first.margin, first.agreement, first.style, first.source) == ("ada", 2.5, 0.8, "short", "round 1")
    assert (second.annotator, second.margin, second.agreement, second.source) == ("votes", 1.0, None, "votes.jsonl:2")


HOSTILE = {
    "an integer that no float holds": ({"margin": 10**400}, Reason.BAD_MARGIN),
    "an agreement that no float holds": ({"agreement": 10**400}, Reason.BAD_ROW),
    "half a surrogate pair as prompt": ({"prompt": "a \ud800 cat"}, Reason.BAD_ROW),
    "half a surrogate pair as annotator": ({"annotator": "\udc00"}, Reason.BAD_ROW),
    "half a surrogate pair as file": ({"winner": "\ud800.png"}, Reason.MISSING_PICTURE),
    "half a surrogate pair as folder": ({"winner": "../\ud800.png"}, Reason.MISSING_PICTURE),
    "a name that is too long": ({"winner": "x" * 300 + ".png"}, Reason.MISSING_PICTURE),
    "a link to itself": ({"winner": "loop"}, Reason.MISSING_PICTURE),
    "a folder": ({"winner": "."}, Reason.MISSING_PICTURE),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_line_costs_that_line_and_never_the_import(ernie, tmp_path, case):
    change, reason = HOSTILE[case]
    for number in range(2):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "loop").symlink_to("loop")
    good = {"prompt": "a cat", "winner": "0.png", "loser": "1.png"}
    (tmp_path / "votes.jsonl").write_text(f"{json.dumps({**good, **change})}\n{json.dumps(good)}\n")
    code, out, err = ernie("import", tmp_path / "votes.jsonl", "--layout", "jsonl", "--out", tmp_path / "pairs", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["pairs"] == 1
    assert {name: fact["count"] for name, fact in told["left_out"].items()} == {reason: 1}


def test_a_caption_that_is_no_text_is_a_damaged_file(ernie, tmp_path):
    rows = pa.Table.from_pylist([vote(0, 1.0, 0.0)])
    offsets = pa.py_buffer(np.array([0, 2], np.int32).tobytes())
    caption = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff\xfe")])
    pq.write_table(rows.set_column(0, "caption", caption), tmp_path / "votes.parquet")
    code, _, err = ernie("import", tmp_path / "votes.parquet", "--layout", "pickapic", "--out", tmp_path / "pairs")
    assert code == 2
    assert "votes.parquet: not a Parquet file that can be read, at row 0" in err


def test_people_read_the_counts_too(ernie, tmp_path):
    given = parquet(tmp_path / "votes.parquet", [vote(0, 1.0, 0.0), vote(1, 0.5, 0.5)])
    code, out, _ = ernie("import", given, "--layout", "pickapic", "--out", tmp_path / "pairs")
    assert code == 0
    assert "1 pairs of 2 seen" in out
    assert "left out 1 x tie, such as votes.parquet row 1: both labels are .5" in out


WRONG = {
    "no file": (lambda p: p / "absent.parquet", "pickapic", "absent.parquet: not a Parquet file"),
    "no list": (lambda p: p / "absent.jsonl", "jsonl", "absent.jsonl: cannot be read"),
    "empty folder": (lambda p: p, "pickapic", "a folder without Parquet files"),
    "columns": (lambda p: parquet(p / "x.parquet", [{"caption": "a", "jpg_0": b""}]), "pickapic", "no columns jpg_1, label_0, label_1"),
    "ties alone": (lambda p: parquet(p / "x.parquet", [vote(0, 0.5, 0.5)]), "pickapic", "no pair can be used, nothing was written"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_with_exit_code_2(ernie, tmp_path, case):
    make, layout, message = WRONG[case]
    code, _, err = ernie("import", make(tmp_path), "--layout", layout, "--out", tmp_path / "pairs")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "pairs").exists()


def test_a_damaged_parquet_file_is_refused_whole(ernie, tmp_path):
    given = parquet(tmp_path / "votes.parquet", [vote(n, 1.0, 0.0) for n in range(4)])
    data = given.read_bytes()
    given.write_bytes(data[: len(data) // 2])
    code, _, err = ernie("import", given, "--layout", "pickapic", "--out", tmp_path / "pairs")
    assert code == 2
    assert "votes.parquet: not a Parquet file that can be read, at row 0" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["votes.parquet"]


def test_what_exists_is_not_overwritten(ernie, tmp_path):
    given = parquet(tmp_path / "votes.parquet", [vote(0, 1.0, 0.0)])
    assert ernie("import", given, "--layout", "pickapic", "--out", tmp_path / "pairs")[0] == 0
    code, _, err = ernie("import", given, "--layout", "pickapic", "--out", tmp_path / "pairs")
    assert code == 2
    assert "exists already" in err
