"""A build as the source of another: what comes along, what is refused, and what a change of the origin redoes."""

import hashlib
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from ernie_core.api import ConfigError, DataError, PluginHost, Selection
from ernie_data.engine.build import build_dataset, links_of
from ernie_data.engine.chain import Link
from ernie_data.engine.stage import Refuse
from ernie_data.engine.store import read_manifest
from ernie_data.reading.dataset import open_dataset
from ernie_data.recipe import BuildInput, FolderInput, Recipe, RunOptions
from ernie_data.sources.listing import list_sources
from ernie_data.sources.origin import carried_values
from ernie_data.sources.place import read_place

STAGES = """
import numpy as np
from ernie_core.api import Config
from ernie_data.api import Kept, RecordStage

class MarkConfig(Config):
    add: float = 0.0
    odd: bool = False

class Mark(RecordStage):
    code, needs = "1", ("width",)
    columns = {"score": "float", "category": "string", "embedding": "floats", "caption": "json", "ocr_text": "strings", "notes": "map"}
    def __init__(self, config, context):
        self.config = config
        if config.odd:
            self.columns = {**self.columns, "score": "int"}
    def one(self, item):
        width = item.columns["width"]
        if width == 12:
            return Kept({"score": 0 if self.config.odd else 0.0})
        embedding = np.array([width, 1.0, 0.1], np.float32)
        return Kept({"score": width if self.config.odd else width + self.config.add, "category": "wide" if width > 15 else "narrow", "embedding": embedding,
                     "caption": {"subject": "x", "n": width}, "ocr_text": ["a", "“b”"], "notes": {"k": "v"}})
"""


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Builds of twelve pictures of 8 to 19 x 8 px whose last stage gives columns."""
    base = tmp_path_factory.mktemp("origins")
    (base / "mark_stages.py").write_text(STAGES)
    raw = base / "raw"
    raw.mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8 + i, 3), i, np.uint8)).save(raw / f"{i:02d}.png")
        (raw / f"{i:02d}.txt").write_text(f"caption {i}", "utf-8")
    (raw / "bad.png").write_bytes(b"no picture")

    def make(name, **options):
        source = Selection("folder", FolderInput(path=str(raw)))
        recipe = Recipe(sources=(source,), stages=(Selection("decode"),), unit_rows=8, run=RunOptions(workers=1))
        link = Link("mark", "mark_stages:Mark", "mark_stages:MarkConfig", options)
        build_dataset(recipe, base / name, links=[*links_of(recipe, PluginHost.discover()), link])
        return base / name

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(base))
        patch.setenv("PYTHONPATH", str(base))
        yield make
    sys.modules.pop("mark_stages", None)


@pytest.fixture(scope="module")
def there(make):
    return make("origin")


def recipe(path, unit_rows=8, **options) -> Recipe:
    source = Selection("build", BuildInput(path=str(path), **options))
    return Recipe(sources=(source,), stages=(Selection("decode"),), unit_rows=unit_rows, run=RunOptions(workers=1))


def test_records_come_with_their_captions_columns_and_bytes(there, tmp_path):
    about = build_dataset(recipe(there, where="score >= 15"), tmp_path / "out")
    old = {f"build/{row['key']}": row for row in open_dataset(there).rows() if row["score"] >= 15}
    new = {row["key"]: row for row in open_dataset(tmp_path / "out").rows()}
    assert about["records"] == about["accepted"] == len(old) == 5
    for key, row in new.items():
        assert {**row, "key": ""} == {**old[key], "key": ""}
    assert about["stages"][0]["columns"]["caption"] == "json"
    assert "width" not in about["stages"][0]["columns"]
    with_pictures = dict(open_dataset(tmp_path / "out").pictures(new))
    assert {key: hashlib.sha256(data).hexdigest() for key, data in with_pictures.items()} == {
        key: row["sha256"] for key, row in new.items()
    }


def test_what_has_no_value_stays_without_one(there, tmp_path):
    build_dataset(recipe(there, where="score = 0"), tmp_path / "out")
    (row,) = open_dataset(tmp_path / "out").rows()
    assert row["score"] == 0.0
    assert not row.keys() & {"category", "embedding", "caption", "ocr_text", "notes"}


def test_conditions_see_the_whole_build(there, tmp_path):
    about = build_dataset(recipe(there, where="score > (SELECT avg(score) FROM items) -- above the mean"), tmp_path / "out")
    assert 0 < about["accepted"] < 12


def test_columns_can_be_chosen(there, tmp_path):
    about = build_dataset(recipe(there, columns=("score", "width")), tmp_path / "out")
    assert about["stages"][0]["columns"].keys() == {"sha256", "bytes", "captions", "caption_error", "score", "width"}
    none = build_dataset(recipe(there, columns=()), tmp_path / "none")
    assert none["stages"][0]["columns"].keys() == {"sha256", "bytes", "captions", "caption_error"}


def test_only_what_changed_in_the_origin_is_done_again(make, tmp_path):
    there = make("changing")
    build_dataset(recipe(there, columns=("category",)), tmp_path / "out")
    before = {line.receipt.unit for line in read_manifest(tmp_path / "out" / "manifest.jsonl")}
    make("changing", add=1.0)
    build_dataset(recipe(there, columns=("category",)), tmp_path / "out")
    assert {line.receipt.unit for line in read_manifest(tmp_path / "out" / "manifest.jsonl")} == before, "the category is what it was"
    build_dataset(recipe(there, columns=("category", "score")), tmp_path / "out")
    assert {line.receipt.unit for line in read_manifest(tmp_path / "out" / "manifest.jsonl")}.isdisjoint(before)


def test_an_origin_built_anew_meanwhile_is_noticed(there, tmp_path):
    there = shutil.copytree(there, tmp_path / "copy")
    links = links_of(recipe(there), PluginHost.discover())
    places = list_sources(recipe(there).inputs).places
    shard = Path(places[0].path)
    data = bytearray(shard.read_bytes())
    data[places[0].offset] ^= 1
    shard.write_bytes(bytes(data))
    about = build_dataset(recipe(there), tmp_path / "out", links=links)
    assert about["stages"][0]["rejected"] == {"source_changed": 1}
    with pytest.raises(Refuse, match="source_changed"):
        read_place(places[0], expected_sha256=None)
    other = msgspec.structs.replace(places[1].carried, sha256="0" * 64)
    with pytest.raises(DataError, match=r"row .* is not what it was when this build began"):
        carried_values(other)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"where": "scor > 1"}, ConfigError, r"source `build`: `where`: .*scor.*(.|\n)*items: .*score"),
        ({"where": "score > 1; DROP TABLE items"}, ConfigError, "`where`"),
        ({"where": "key IN (SELECT content FROM read_text('/etc/passwd'))"}, ConfigError, "`where`"),
        ({"columns": ("scores",)}, ConfigError, r"`columns`: .*origin has no column `scores` to carry; there are: .*score"),
        ({"columns": ("captions",)}, ConfigError, "has no column `captions` to carry"),
        ({"where": "score > 100"}, DataError, r"nothing found \(source `build`\); expected accepted records for which `where` holds"),
    ],
)
def test_wrong_options_are_explained(there, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        build_dataset(recipe(there, **options), tmp_path / "out")


def test_what_is_no_finished_build_is_refused(there, tmp_path):
    with pytest.raises(DataError, match="no build output"):
        build_dataset(recipe(tmp_path), tmp_path / "out")
    there = shutil.copytree(there, tmp_path / "copy")
    (there / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"the build is not finished \(source `build`\); run `ernie data build` on it first"):
        build_dataset(recipe(there), tmp_path / "out")


def test_two_builds_must_agree_on_types(there, make, tmp_path):
    builds = [BuildInput(path=str(there)), BuildInput(path=str(make("second", odd=True)), name="second")]
    both = Recipe(sources=tuple(Selection("build", build) for build in builds), run=RunOptions(workers=1))
    with pytest.raises(
        ConfigError, match=r"source `second`: its column `score` is int, that of an earlier source float; list the `columns`"
    ):
        build_dataset(both, tmp_path / "out")
