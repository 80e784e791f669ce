"""Folders of pairs: what goes in comes out, what cannot be trained on is refused with counts, and no changed byte is used."""

import io as memory
import json
import subprocess
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFile

from ernie_align.pair_config import PairsConfig
from ernie_align.pairs.format import PairFolder
from ernie_align.pairs.pair import NewPicture, Reason
from ernie_align.pairs.pictures import decode, pixel_sum, png
from ernie_align.pairs.source import build
from ernie_align.pairs.writer import SCHEMA, TABLE, row_of, write_pairs
from ernie_core import io
from ernie_core.api import DataError, DataSourceContext, Stage, StorageError
from ernie_core.testing.mishaps import without_fsync

from .pair_makers import new_pair, pair_folder, picture


def encoded(pixels, kind, **options):
    buffer = memory.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def rewritten(folder, out, change):
    """The same folder with rows changed, as a careless program would write it: the manifest fits."""
    rows = PairFolder(folder).table.to_pylist()
    facts = io.read_manifest(folder)
    with io.commit_folder(out, facts={key: facts[key] for key in ("kind", "version", "seen", "pairs", "left_out", "about")}) as writer:
        for name in facts["files"]:
            if name.endswith(".tar"):
                writer.add_bytes(name, (folder / name).read_bytes())
        table = pa.Table.from_pylist(change(rows), SCHEMA)
        writer.add_file(TABLE, lambda path: pq.write_table(table, path))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with without_fsync():
        return pair_folder(tmp_path_factory.mktemp("pairs") / "set", [new_pair(n) for n in range(6)])


def test_what_goes_in_comes_out(tmp_path):
    pair = new_pair(3, style="long", agreement=0.75, source="a study", annotator="somebody", prompt="  a cat, 猫 ")
    pair = replace(pair, winner=replace(pair.winner, score=2.5, scores={"a": 1.0, "b": 4.0}), loser=replace(pair.loser, score=-1.5))
    found = PairFolder(pair_folder(tmp_path / "set", [new_pair(0), pair])).pair(1)
    assert (found.prompt, found.style, found.agreement, found.source, found.annotator) == (
        "  a cat, 猫 ",
        "long",
        0.75,
        "a study",
        "somebody",
    )
    assert found.margin == 4.0
    assert (found.winner.score, found.loser.score) == (2.5, -1.5)
    assert (found.winner.scores, found.loser.scores) == ({"a": 1.0, "b": 4.0}, {})
    assert (found.winner.width, found.winner.height) == (32, 32)
    assert found.winner.pixel_sha256 == pixel_sum(picture(6))


def test_pictures_are_read_back_byte_by_byte_and_tar_lists_them(folder):
    opened = PairFolder(folder)
    for row in range(6):
        pair = opened.pair(row)
        assert np.array_equal(decode(opened.bytes_of(pair.winner), "", max_pixels=10**6), picture(2 * row))
        assert np.array_equal(decode(opened.bytes_of(pair.loser), "", max_pixels=10**6), picture(2 * row + 1))
    with tarfile.open(folder / "pictures-00000.tar") as tar:
        assert len(tar.getnames()) == 12
        assert all(name.endswith(".png") for name in tar.getnames())
    listed = subprocess.run(["tar", "tf", folder / "pictures-00000.tar"], capture_output=True, check=True, text=True)
    assert len(listed.stdout.split()) == 12


def test_a_picture_in_several_pairs_is_stored_once_and_keeps_its_score_of_each(tmp_path):
    first = new_pair(0)
    second = replace(new_pair(1), winner=replace(first.winner, score=7.0))
    opened = PairFolder(pair_folder(tmp_path / "set", [first, second]))
    assert opened.pair(0).winner.offset == opened.pair(1).winner.offset
    assert (opened.pair(0).winner.score, opened.pair(1).winner.score) == (None, 7.0)
    with tarfile.open(tmp_path / "set" / "pictures-00000.tar") as tar:
        assert len(tar.getnames()) == 3


def test_shards_are_cut_at_their_size_and_rows_come_in_groups(tmp_path):
    with write_pairs(tmp_path / "set", shard_bytes=10_000, rows_per_group=2) as writer:
        for number in range(5):
            writer.add(new_pair(number))
    opened = PairFolder(tmp_path / "set")
    assert len({opened.pair(row).winner.shard for row in range(5)}) > 1
    for row in range(5):
        opened.bytes_of(opened.pair(row).loser)
    assert io.verify_folder(tmp_path / "set") is None


def test_equal_pairs_give_equal_bytes_and_another_pair_another_identity(tmp_path, folder):
    again = pair_folder(tmp_path / "again", [new_pair(n) for n in range(6)])
    fewer = pair_folder(tmp_path / "fewer", [new_pair(n) for n in range(5)])
    assert PairFolder(again).identity == PairFolder(folder).identity != PairFolder(fewer).identity


LARGE = encoded(np.zeros((1100, 1000, 3), np.uint8), "PNG")
UNUSABLE = {
    Reason.EMPTY_PROMPT: {"prompt": " \n"},
    Reason.BAD_MARGIN: {"margin": float("nan")},
    Reason.SAME_FILE: {"loser": new_pair(0).winner},
    Reason.SAME_PIXELS: {"loser": NewPicture(encoded(picture(0), "PNG", compress_level=1), "other file")},
    Reason.DIFFERENT_SHAPES: {"loser": NewPicture(png(picture(1, size_px=(32, 36))), "taller")},
    Reason.UNREADABLE: {"loser": NewPicture(png(picture(1))[:-200], "cut off")},
    Reason.TOO_LARGE: {"loser": NewPicture(LARGE, "large")},
    Reason.WRONG_SIGN: {
        "winner": replace(new_pair(0).winner, score=1.0),
        "loser": replace(new_pair(0).loser, score=1.5),
    },
}


@pytest.mark.parametrize("reason", UNUSABLE)
def test_what_cannot_be_trained_on_is_left_out_and_counted(tmp_path, reason):
    with write_pairs(tmp_path / "set", max_pixels=1_000_000) as writer:
        assert not writer.add(new_pair(0, **UNUSABLE[reason]))
        assert writer.add(new_pair(5))
    facts = PairFolder(tmp_path / "set").facts
    assert (facts["seen"], facts["pairs"]) == (2, 1)
    assert facts["left_out"][str(reason)]["count"] == 1
    assert facts["left_out"][str(reason)]["examples"]


@pytest.mark.parametrize("margin", [-0.5, float("inf"), float("-inf")])
def test_margins_are_numbers_of_the_right_sign(tmp_path, margin):
    with write_pairs(tmp_path / "set") as writer:
        assert not writer.add(new_pair(0, margin=margin))
        writer.add(new_pair(1, margin=0.0))
    assert PairFolder(tmp_path / "set").facts["left_out"][str(Reason.BAD_MARGIN)]["count"] == 1


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing of a picture", encoded(np.zeros((4, 4), np.uint16), "PNG"), encoded(np.zeros((4, 4, 3), np.uint8), "BMP")],
    ids=["empty", "noise", "16 bits", "a format that is not accepted"],
)
def test_other_files_are_no_pictures(data):
    with pytest.raises(DataError, match=r"some file: "):
        decode(data, "some file", max_pixels=10**6)


def test_damaged_pictures_never_pass_as_whole_ones(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="LOAD_TRUNCATED_IMAGES is set in this process: damaged pictures would pass as whole ones"):
        decode(png(picture(0)), "some file", max_pixels=10**6)


def test_pictures_are_turned_and_laid_on_white():
    turned = Image.fromarray(picture(0, size_px=(20, 10)))
    exif = turned.getexif()
    exif[0x0112] = 6
    buffer = memory.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    assert decode(buffer.getvalue(), "", max_pixels=1000).shape == (20, 10, 3)
    clear = encoded(np.zeros((2, 2, 4), np.uint8), "PNG")
    assert decode(clear, "", max_pixels=1000).min() == 255


def test_nothing_is_written_when_no_pair_can_be_used(tmp_path):
    with (
        pytest.raises(DataError, match=r"no pair can be used, nothing was written\. 1 seen, 0 used, left out: 1 x missing or empty prompt"),
        write_pairs(tmp_path / "set") as writer,
    ):
        writer.add(new_pair(0, prompt=""))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_folder_is_never_overwritten(folder):
    with pytest.raises(StorageError, match="already exists"), write_pairs(folder) as writer:
        writer.add(new_pair(0))


def first_row(**changes):
    def change(rows):
        return [{**rows[0], **changes}, *rows[1:]]

    return change


def first_side(side, **changes):
    def change(rows):
        return [{**rows[0], side: {**rows[0][side], **changes}}, *rows[1:]]

    return change


WRONG_ROWS = {
    "no prompt": (first_row(prompt=None), "1 x missing or empty prompt .rows 0."),
    "blank prompt": (first_row(prompt="  "), "1 x missing or empty prompt"),
    "nan margin": (first_row(margin=float("nan")), "1 x margin negative or not a number"),
    "no margin": (first_row(margin=None), "1 x margin negative or not a number"),
    "negative margin": (first_row(margin=-1.0), "1 x margin negative or not a number"),
    "shapes": (first_side("loser", height=16), "1 x winner and loser of different shapes"),
    "table's own shape": (first_row(width=16), "1 x winner and loser of different shapes"),
    "same file": (lambda rows: [{**r, "loser": r["winner"]} for r in rows], r"6 x winner equal to loser .rows 0, 1, 2, 3, 4, \.\.\.."),
    "beyond the shard": (first_side("loser", offset=1 << 40), "1 x picture outside of its shard"),
    "before the shard": (first_side("winner", offset=-5), "1 x picture outside of its shard"),
    "an end that overflows": (first_side("winner", offset=(1 << 63) - 5), "1 x picture outside of its shard"),
    "a size that overflows": (first_side("loser", size=(1 << 63) - 5), "1 x picture outside of its shard"),
    "a file that is no shard": (first_side("winner", shard="../../secret"), "1 x picture outside of its shard"),
}


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_wrong_rows_are_refused_at_opening_with_counts(tmp_path, folder, case):
    change, message = WRONG_ROWS[case]
    with pytest.raises(DataError, match=f"of 6 pairs cannot be used: .*{message}"):
        PairFolder(rewritten(folder, tmp_path / "wrong", change))


def test_equal_pixels_and_wrong_signs_are_refused_at_opening_too(tmp_path, folder):
    def change(rows):
        pixels = rows[0]["winner"]["pixel_sha256"]
        same = {**rows[0], "loser": {**rows[0]["loser"], "pixel_sha256": pixels}}
        wrong = {**rows[1], "winner": {**rows[1]["winner"], "score": 1.0}, "loser": {**rows[1]["loser"], "score": 2.0}}
        return [same, wrong, *rows[2:]]

    message = r"1 x winner and loser of identical pixels \(rows 0\); 1 x score of the winner not above the loser's \(rows 1\)"
    with pytest.raises(DataError, match=message):
        PairFolder(rewritten(folder, tmp_path / "wrong", change))


@pytest.mark.parametrize("scores", ["{torn", "[1]", '{"a": null}', '{"a": "much"}'])
def test_scores_that_are_no_numbers_are_told_with_their_row(tmp_path, folder, scores):
    opened = PairFolder(rewritten(folder, tmp_path / "wrong", first_side("loser", scores=scores)))
    assert opened.pair(1).loser.scores == {}
    with pytest.raises(DataError, match=r"pairs\.parquet row 0: loser: scores are .*; expected a JSON object of numbers"):
        opened.pair(0)


def test_a_changed_byte_of_a_picture_is_never_used(tmp_path, folder):
    copy = rewritten(folder, tmp_path / "copy", lambda rows: rows)
    opened = PairFolder(copy)
    loser = opened.pair(2).loser
    shard = copy / loser.shard
    data = bytearray(shard.read_bytes())
    data[loser.offset + loser.size // 2] ^= 1
    shard.write_bytes(data)
    opened.bytes_of(opened.pair(2).winner)
    with pytest.raises(DataError, match=r"pictures-00000.tar at \d+: the picture is not what was stored \(expected sha256 "):
        opened.bytes_of(loser)


def cut(folder):
    shard = folder / "pictures-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1])


def flip_table(folder):
    data = bytearray((folder / TABLE).read_bytes())
    data[50] ^= 1
    (folder / TABLE).write_bytes(data)


def other_kind(folder):
    (folder / "manifest.json").write_text(json.dumps({"kind": "something", "version": 1, "files": {}}))


def manifest_with(change):
    def damage(folder):
        facts = json.loads((folder / "manifest.json").read_bytes())
        change(facts["files"])
        (folder / "manifest.json").write_text(json.dumps(facts))

    return damage


def outside(name):
    return manifest_with(lambda files: files.update({name: files["pictures-00000.tar"]})), "expected files of this folder alone"


DAMAGE = {
    "a shard above the folder": outside("../other/pictures-00000.tar"),
    "a shard anywhere": outside("/tmp/pictures-00000.tar"),
    "no sum of the table": (manifest_with(lambda files: files[TABLE].pop("sha256")), f"{TABLE} lacks its bytes or its sha256"),
    "no size of a shard": (manifest_with(lambda files: files.update({"pictures-00000.tar": None})), "lacks its bytes or its sha256"),
    "cut shard": (cut, r"pictures-00000.tar: \d+ bytes, the manifest says"),
    "no shard": (lambda f: (f / "pictures-00000.tar").unlink(), "pictures-00000.tar: missing"),
    "table": (flip_table, "sha256 differs from the manifest"),
    "another table": (manifest_with(lambda files: files.pop(TABLE)), f"names no {TABLE}"),
    "no table": (lambda f: (f / TABLE).unlink(), "cannot be read"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "a folder without manifest.json"),
    "torn manifest": (lambda f: (f / "manifest.json").write_text("{"), "not the manifest of a folder of pairs"),
    "another kind": (other_kind, "found something in version 1, expected preference pairs"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_folders_are_refused(tmp_path, folder, case):
    copy = rewritten(folder, tmp_path / "copy", lambda rows: rows)
    damage, message = DAMAGE[case]
    damage(copy)
    with pytest.raises(DataError, match=message):
        PairFolder(copy)


def test_a_path_that_is_no_folder_is_told(tmp_path):
    with pytest.raises(DataError, match="no such folder; expected a folder that `ernie align pairs import`"):
        PairFolder(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a file; expected a folder"):
        PairFolder(tmp_path / "file")


def test_a_table_without_its_columns_is_refused(tmp_path, folder):
    with io.commit_folder(tmp_path / "wrong", facts={"kind": "preference pairs", "version": 1}) as writer:
        writer.add_file(TABLE, lambda path: pq.write_table(pa.table({"prompt": ["a"]}), path))
    with pytest.raises(DataError, match="expected the columns style"):
        PairFolder(tmp_path / "wrong")


def test_a_table_without_rows_and_pictures_of_another_size_than_it_says_are_refused(tmp_path, folder):
    with pytest.raises(DataError, match="holds no pairs"):
        PairFolder(rewritten(folder, tmp_path / "empty", lambda rows: []))

    def taller(rows):
        sides = {side: {**rows[0][side], "height": 64} for side in ("winner", "loser")}
        return [{**rows[0], **sides, "height": 64}]

    source = build(PairsConfig(path=str(rewritten(folder, tmp_path / "taller", taller))), DataSourceContext(0, 4))
    stage = Stage(size_px=32, steps=1, batch_size=1)
    with pytest.raises(DataError, match=r"32 x 32 px, the table says 32 x 64; write the folder again"):
        source.fetch(source.batch(0, global_batch=1, stage=stage))


def test_a_row_holds_every_column(folder):
    assert set(row_of(PairFolder(folder).pair(0))) == set(SCHEMA.names)
