"""The data source `shapes`, and sets written to disk."""

import json

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import ConfigError, DataError, DataSourceContext, Stage, recheck
from ernie_core.testing.data import DataSourceContract
from ernie_data.config import FolderConfig, ShapesConfig
from ernie_data.shapes.profile import PROFILES, Triple
from ernie_data.shapes.scene import draw_scene
from ernie_data.shapes.verify import judge, look
from ernie_data.shapes.writer import write_set
from ernie_data.sources.folder import build as build_folder
from ernie_data.sources.shapes import build, categories

QUICK = PROFILES["quick"]
STAGE = Stage(size_px=24, steps=10, batch_size=16)


class TestShapesIsADataSource(DataSourceContract):
    entry = "shapes"
    size_multiple_px = 4
    stage = STAGE

    def make(self, *, seed: int = 0):
        return build(ShapesConfig(count=500), DataSourceContext(seed=seed, size_multiple_px=4))


def test_pictures_show_what_their_captions_say_and_never_a_held_out_triple():
    source = build(ShapesConfig(), DataSourceContext(seed=0, size_multiple_px=2))
    held = set(QUICK.held_out())
    for step in range(10):
        for record in source.fetch(source.batch(step, global_batch=16, stage=STAGE)):
            (seen,) = look(record.pixels[None], QUICK)[0]
            triple = Triple(seen.shape, seen.colour, seen.cell)
            assert triple not in held
            assert set(record.captions) == {"keywords", "request", "instruction", "composition"}
            assert all(
                set((*triple[:2], *triple.cell.split())) <= set(c.strip(".?").replace(",", "").replace(";", "").split())
                for c in record.captions.values()
            )


def test_validation_scenes_are_others_than_training_scenes():
    context = DataSourceContext(seed=0, size_multiple_px=2)
    sources = [build(ShapesConfig(split=split), context) for split in ("train", "validation")]
    pictures = [{r.pixels.tobytes() for r in s.fetch(s.batch(0, global_batch=64, stage=STAGE))} for s in sources]
    assert not pictures[0] & pictures[1]


def test_styles_can_be_chosen_and_are_checked():
    source = build(ShapesConfig(styles=("keywords",)), DataSourceContext(seed=0, size_multiple_px=2))
    assert all(set(r.captions) == {"keywords"} for r in source.fetch(source.batch(0, global_batch=8, stage=STAGE)))
    with pytest.raises(ConfigError, match="ShapesConfig"):
        recheck(ShapesConfig(styles=("poem",)))


def test_a_stage_size_the_codec_cannot_take_is_refused():
    source = build(ShapesConfig(), DataSourceContext(seed=0, size_multiple_px=16))
    with pytest.raises(ConfigError, match=r"stage size_px = 24: ShapeBench pictures are square, so it must be a multiple of 16"):
        source.batch(0, global_batch=8, stage=STAGE)


def test_a_written_set_is_read_back_as_a_folder_and_judged_right(tmp_path):
    assert write_set(tmp_path / "set", QUICK, count=40, size_px=32, seed=1, split="train")
    source = build_folder(FolderConfig(path=str(tmp_path / "set")), DataSourceContext(seed=0, size_multiple_px=4))
    assert len(source) == 40
    rows = {r["file_name"]: r for r in map(json.loads, (tmp_path / "set" / "metadata.jsonl").read_text().splitlines())}
    records = source.fetch(source.batch(0, global_batch=40, stage=Stage(size_px=24, steps=1, batch_size=40)))
    for record, seen in zip(records, look(np.stack([r.pixels for r in records]), QUICK)):
        row = rows[record.key]
        assert judge(seen, [Triple(**o) for o in row["objects"]]).right
        assert dict(record.captions) == {s: row[f"text_{s}"] for s in ("keywords", "request", "instruction", "composition")}
        assert row["text"] == row["text_request"]
    assert (np.asarray(Image.open(tmp_path / "set" / records[0].key)).shape) == (32, 32, 3)


def test_two_writings_of_one_set_are_equal_byte_for_byte(tmp_path):
    for name in ("a", "b"):
        write_set(tmp_path / name, PROFILES["full"], count=10, size_px=32, seed=1, split="validation")
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("a", "b")]
    assert files[0] == files[1]
    assert len(files[0]) == 12


def test_a_set_that_is_already_there_is_kept_and_another_is_never_overwritten(tmp_path):
    settings = {"count": 10, "size_px": 32, "seed": 1, "split": "train"}
    assert write_set(tmp_path / "set", QUICK, **settings)
    assert not write_set(tmp_path / "set", QUICK, **settings)
    with pytest.raises(
        DataError, match=r"set: holds a ShapeBench set with count = 10 \(asked for: 11\); choose another folder, or remove it"
    ):
        write_set(tmp_path / "set", QUICK, **(settings | {"count": 11}))
    (tmp_path / "set" / "000" / "000003.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"000003\.png: 1 bytes, the manifest says \d+\. The set was not used; remove"):
        write_set(tmp_path / "set", QUICK, **settings)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="mine: exists and is no ShapeBench set; choose another folder"):
        write_set(tmp_path / "mine", QUICK, **settings)


def test_a_writing_that_stops_midway_leaves_nothing(tmp_path):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path / "set", QUICK, count=10, size_px=32, seed=1, split="train", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_categories_narrow_the_scenes_to_some_and_all_others_stay_out():
    def records(**options):
        narrowed = build(ShapesConfig(profile="bench", count=40, **options), DataSourceContext(seed=0, size_multiple_px=2))
        return [
            r
            for step in range(4)
            for r in narrowed.fetch(narrowed.batch(step, global_batch=8, stage=Stage(size_px=32, steps=9, batch_size=8)))
        ]

    assert {r.category for r in records(categories=("text", "counting"))} == {"text", "counting"}
    rare = records(categories=("red circle",))
    assert {r.category for r in rare} == {"red circle"}
    assert all("red" in text and "circle" in text for r in rare for text in r.captions.values())
    assert len({r.pixels.tobytes() for r in rare}) > 16
    unnarrowed = {(r.key, r.pixels.tobytes()) for r in records()}
    assert {(r.key, r.pixels.tobytes()) for r in records(categories=categories(PROFILES["bench"]))} == unnarrowed


def test_every_category_of_a_profile_is_one_that_scenes_have_and_others_are_refused():
    bench = PROFILES["bench"]
    seen = {draw_scene(bench, seed=0, split="all", index=i).category for i in range(3000)}
    assert seen == set(categories(bench))
    with pytest.raises(ConfigError, match="never of 'photo'; they are of text, two"):
        build(ShapesConfig(profile="bench", categories=("text", "photo")), DataSourceContext(seed=0, size_multiple_px=2))
    with pytest.raises(ConfigError, match="they are of quick"):
        build(ShapesConfig(categories=("text",)), DataSourceContext(seed=0, size_multiple_px=2))
