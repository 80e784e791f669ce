"""Raw sets with planted defects: what truth.jsonl says is what is there."""

import json
from collections import Counter

import msgspec
import numpy as np
import pytest
from PIL import Image

from ernie_core.api import App, ConfigError, DataError
from ernie_data.cli import main as data
from ernie_data.config import FolderConfig
from ernie_data.images import decode
from ernie_data.shapes.defects import COPIES, DAMAGES, damaged, plan_bias, plan_files, write_defective_set
from ernie_data.shapes.entries import DefectPlan
from ernie_data.shapes.judge import shows
from ernie_data.shapes.parse import parse_caption
from ernie_data.shapes.profile import PROFILES
from ernie_data.shapes.quality import quality_of
from ernie_data.shapes.reader import read_picture
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import draw_scene
from ernie_data.shapes.writer import encode_png
from ernie_data.sources.scan import UNREADABLE, scan_folder

SHARES = {"wrong_captions": 0.15, "missing_text": 0.5, "duplicates": 0.1, "near_duplicates": 0.1, "corrupt": 0.1, "low_quality": 0.1}
PLAN = DefectPlan(count=200, **SHARES)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("defects") / "set"
    assert write_defective_set(out, PLAN)
    truth = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    metadata = {(row := json.loads(line))["file_name"]: row for line in (out / "pictures/metadata.jsonl").read_text().splitlines()}
    return out, truth, metadata


def pixels_of(out, row):
    return np.asarray(Image.open(out / "pictures" / row["file_name"]).convert("RGB"))


def test_every_defect_has_its_share_and_every_file_a_line(written):
    out, truth, metadata = written
    files = sorted(p.relative_to(out / "pictures").as_posix() for p in (out / "pictures").rglob("*.*g"))
    assert sorted(r["file_name"] for r in truth) == sorted(metadata) == files
    counts = Counter(r["defect"] for r in truth)
    assert [counts[d] for d in ("wrong_caption", "duplicate", "near_duplicate", "corrupt", "low_quality")] == [30, 20, 20, 20, 20]
    signed = sum(r["defect"] in (None, "missing_text") and r["sign"] is not None for r in truth)
    assert counts["missing_text"] == round(0.5 * signed) > 0


def test_the_folder_source_finds_the_pictures_and_only_the_corrupt_ones_are_unreadable(written):
    out, truth, _ = written
    scan = scan_folder(FolderConfig(path=str(out / "pictures")))
    readable = {p.key for p in scan.pictures}
    assert set(scan.problems) <= {UNREADABLE}
    for row in truth:
        assert row["file_name"] in readable or row["defect"] == "corrupt"
        if row["defect"] == "corrupt":
            with pytest.raises(DataError):
                decode(out / "pictures" / row["file_name"], bucket=(64, 64), max_pixels=10**6)


def test_pictures_show_what_truth_says_and_captions_lie_where_it_says(written):
    out, truth, metadata = written
    for row in truth:
        if row["defect"] in ("corrupt", "low_quality"):
            continue
        reading = read_picture(pixels_of(out, row))
        assert {(o.shape, o.colour, o.cell) for o in reading.objects} == {(o["shape"], o["colour"], o["cell"]) for o in row["objects"]}
        assert [t.text for t in reading.texts] == ([row["sign"]["text"]] if row["sign"] else [])
        given = metadata[row["file_name"]]
        styles = {style: given[f"text_{style}"] for style in row["captions"]}
        assert given["text"] == styles["request"]
        assert (styles == row["captions"]) == (row["defect"] not in ("wrong_caption", "missing_text"))
        assert len({parse_caption(c) for c in styles.values()}) == 1
        if row["defect"] == "missing_text":
            assert not any('"' in c for c in styles.values())


def test_duplicates_have_equal_bytes_and_near_duplicates_do_not(written):
    out, truth, metadata = written
    by_name = {r["file_name"]: r for r in truth}
    for row in (r for r in truth if r["original"]):
        original = by_name[row["original"]]
        assert original["defect"] is None
        same = (out / "pictures" / row["file_name"]).read_bytes() == (out / "pictures" / original["file_name"]).read_bytes()
        assert same == (row["defect"] == "duplicate")
        assert {k: v for k, v in metadata[row["file_name"]].items() if k != "file_name"} == {
            k: v for k, v in metadata[original["file_name"]].items() if k != "file_name"
        }
    assert {r["detail"] for r in truth if r["defect"] == "near_duplicate"} == set(COPIES)
    sizes = {r["detail"]: pixels_of(out, r).shape[0] for r in truth if r["defect"] == "near_duplicate"}
    assert (sizes["smaller"], sizes["larger"], sizes["cropped"], sizes["jpeg 60"]) == (61, 67, 62, 64)


def test_low_quality_can_be_seen_in_the_pixels(written):
    out, truth, _ = written
    low = [quality_of(pixels_of(out, r)) for r in truth if r["defect"] == "low_quality"]
    sound = [quality_of(pixels_of(out, r)) for r in truth if r["defect"] is None]
    assert np.median(low) < 5 < 9 < np.median(sound)
    assert all(r["quality"] <= 0.5 for r in truth if r["defect"] == "low_quality")


def test_the_same_plan_is_kept_and_another_refused(written):
    out, _, _ = written
    assert not write_defective_set(out, PLAN)
    with pytest.raises(DataError, match=r"holds a ShapeBench set with seed = 0 \(asked for: 1\)"):
        write_defective_set(out, msgspec.structs.replace(PLAN, seed=1))


def test_no_decoder_accepts_a_damaged_file(tmp_path):
    pixels = render([draw_scene(PROFILES["bench"], seed=0, split="all", index=i) for i in range(4)], 32)
    for kind in DAMAGES:
        for index in range(192 if kind == "header bit" else 10):
            path = tmp_path / "a.png"
            path.write_bytes(damaged(encode_png(pixels[index % 4]), kind, index=index))
            with pytest.raises(DataError):
                decode(path, bucket=(32, 32), max_pixels=10**6)


def test_a_wrong_caption_is_never_true_by_chance():
    files = plan_files(DefectPlan(count=300, wrong_captions=0.5))
    wrong = [f for f in files if f.defect == "wrong_caption"]
    assert len(wrong) == 150
    assert not any(shows(f.scene, parse_caption(f.captions["request"])) for f in wrong)
    with pytest.raises(ConfigError, match="no other scene's captions are wrong"):
        plan_files(DefectPlan(count=1, wrong_captions=1.0))


def test_zipf_and_over_representation_shape_the_categories():
    plan = DefectPlan(profile="quick", count=1500, size_px=24, zipf=1.2, over_represented=0.3, over_colour="blue", over_shape="cross")
    counts = Counter(f.scene.triples()[0][:2] for f in plan_files(plan))
    weights = plan_bias(plan, PROFILES["quick"]).pairs
    assert sum(weights.values()) == pytest.approx(1)
    assert counts["cross", "blue"] / 1500 == pytest.approx(weights["cross", "blue"], abs=0.05)
    assert weights["cross", "blue"] > 0.3
    for pair, weight in weights.items():
        assert counts[pair] / 1500 == pytest.approx(weight, abs=0.05)
    assert plan_bias(DefectPlan(), PROFILES["bench"]) is None
    with pytest.raises(ConfigError, match="over_represented: profile quick has no black cross"):
        plan_bias(DefectPlan(profile="quick", over_represented=0.1, over_colour="black", over_shape="cross"), PROFILES["quick"])


def test_rare_counts_are_rare():
    drawn = Counter(len(f.scene.objects) for f in plan_files(DefectPlan(count=1500, counts_zipf=2.0)) if f.scene.kind == "counting")
    assert drawn[2] > 2 * drawn[3] > 2 * drawn[5]


def test_shares_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"sum to 1\.2; they must leave 1 or less"):
        DefectPlan(corrupt=0.6, duplicates=0.6)
    with pytest.raises(ValueError, match="leaves no sound picture to duplicate"):
        DefectPlan(corrupt=0.5, duplicates=0.5)


def test_the_command_writes_a_planned_set(tmp_path, capsys):
    (tmp_path / "plan.toml").write_text("count = 20\nsize_px = 32\ncorrupt = 0.1\n")
    assert data(["shapes", "--out", str(tmp_path / "set"), "--defects", str(tmp_path / "plan.toml")], App()) == 0
    assert "wrote 20 files of 32 px, profile bench: corrupt 2, sound 18" in capsys.readouterr().out
    (tmp_path / "plan.toml").write_text("count = 20\ncorupt = 0.1\n")
    with pytest.raises(ConfigError, match="corupt"):
        data(["shapes", "--out", str(tmp_path / "other"), "--defects", str(tmp_path / "plan.toml")], App())
