"""The stage `category` in builds, taxonomies on disk, and `ernie data taxonomy`."""

import io as memory
import json
import os
import sys
from collections import Counter

import msgspec
import numpy as np
import pytest
from PIL import Image

from ernie_core import io
from ernie_core.api import App, ConfigError, DataError, DataStageContext, PluginHost, Selection
from ernie_data import cli
from ernie_data.category.build import build_taxonomy
from ernie_data.category.command import finished
from ernie_data.category.entries import CategoryConfig
from ernie_data.category.stage import build
from ernie_data.category.taxonomy import read_taxonomy, taxonomy_sha256
from ernie_data.engine.build import BuildFailed, build_dataset, links_of
from ernie_data.engine.chain import Link
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.tables import read_rows

EMBED = '''
import io
import numpy as np
from PIL import Image
from ernie_core.api import Config
from ernie_data.api import Kept, RecordStage

class EmbedConfig(Config):
    width: int = 3

class Embed(RecordStage):
    """Mean colour, and the brightness of the corner; none for black pictures."""
    code, columns = "1", {"embedding": "floats"}
    def __init__(self, config, context):
        self.width = config.width
    def one(self, item):
        pixels = np.asarray(Image.open(io.BytesIO(item.load())).convert("RGB"), np.float32)
        colour = pixels.mean((0, 1))[:self.width]
        return Kept({"embedding": colour} if colour.any() else {})
'''
COLOURS = {"red circle": (250, 10, 10), "green square": (10, 250, 10), "blue star": (10, 10, 250), "grey cross": (120, 120, 120)}


@pytest.fixture(scope="module")
def embed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "embed_stage.py").write_text(EMBED)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))
        yield Link("embed", "embed_stage:Embed", "embed_stage:EmbedConfig", {"width": 3})
    sys.modules.pop("embed_stage", None)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """40 pictures of four kinds, and a black one without an embedding. Read only."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for i in range(40):
        name, colour = list(COLOURS.items())[i % 4]
        pixels = np.clip(np.array(colour) + rng.integers(-9, 10, (8, 8, 3)), 1, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"a {name} on a plain ground")
    Image.new("RGB", (8, 8)).save(folder / "black.png")
    return folder


@pytest.fixture(scope="module")
def whole(raw, embed, tmp_path_factory):
    """A build with embeddings and a taxonomy. Read only."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, built(raw, out, embed, category())


def recipe(raw, *, unit_rows=7):
    return Recipe(
        sources=(Selection("folder", FolderInput(path=str(raw))),),
        stages=(Selection("decode"),),
        unit_rows=unit_rows,
        run=RunOptions(workers=1),
    )


def category(**options):
    return Link(
        "category",
        "ernie_data.category.stage:build",
        "ernie_data.category.entries:CategoryConfig",
        {"rows_per_leaf": 1, "leaves": 4, **options},
    )


def built(raw, out, *links, unit_rows=7):
    about = recipe(raw, unit_rows=unit_rows)
    return build_dataset(about, out, links=[*links_of(about, PluginHost.discover()), *links])


def categories(out):
    rows = [
        row
        for folder in sorted((out / "category").iterdir())
        if (folder / "rows.parquet").exists()
        for row in read_rows(folder / "rows.parquet")
    ]
    return {row["key"]: row for row in rows}


def kind(key):
    return list(COLOURS)[int(key.split("/")[-1][:2]) % 4]


def test_a_build_cuts_pictures_into_named_categories_whatever_its_pieces(whole, raw, embed, tmp_path):
    out, about = whole
    rows = categories(out)
    black = next(key for key in rows if "black" in key)
    assert "category" not in rows[black]
    del rows[black]
    assert {key: row["category"] for key, row in rows.items()} == {key: kind(key) for key in rows}
    assert all(0 < row["category_distance"] < 0.2 for row in rows.values())
    survey = out / "category" / about["surveys"]["category"]
    taxonomy = read_taxonomy(survey)
    assert [len(level) for level in taxonomy.nodes] == [2, 4]
    assert Counter(node.pictures for node in taxonomy.leaves) == {10: 4}
    assert all(kind(example) == node.name for node in taxonomy.leaves for example in node.examples)
    assert {node.path.split("/")[1] for node in taxonomy.leaves} == set(COLOURS)
    other = built(raw, tmp_path / "other", embed, category(), unit_rows=100)
    assert taxonomy_sha256(tmp_path / "other" / "category" / other["surveys"]["category"]) == taxonomy_sha256(survey)
    others = categories(tmp_path / "other")
    del others[black]
    assert others == rows


def test_a_taxonomy_that_exists_is_used_and_names_the_work(whole, raw, embed, tmp_path):
    out, about = whole
    place = out / "category" / about["surveys"]["category"]
    second = built(raw, tmp_path / "second", embed, category(taxonomy=str(place)))
    assert second["surveys"] == {}
    assert categories(tmp_path / "second") == categories(out)
    assert second["stages"][-1]["code"].endswith(taxonomy_sha256(place))


def test_labels_train_a_head_that_names_every_record(whole, raw, embed, tmp_path):
    keys = sorted(key for key in categories(whole[0]) if "black" not in key)
    (tmp_path / "labels.jsonl").write_text("\n".join(json.dumps({"key": key, "label": kind(key)}) for key in [*keys[:32], "folder/99.png"]))
    about = built(raw, tmp_path / "out", embed, category(labels=str(tmp_path / "labels.jsonl"), normalise=False))
    rows = categories(tmp_path / "out")
    assert all(rows[key]["category"] == kind(key) and 0.5 < rows[key]["category_confidence"] <= 1 for key in keys)
    facts = json.loads((tmp_path / "out" / "category" / about["surveys"]["category"] / "head.json").read_bytes())
    assert facts["held_out_accuracy"] == 1.0
    assert facts["held_out"] + facts["trained_on"] == 32
    assert facts["labelled"] == 33


def test_labels_of_another_dataset_are_refused_with_a_key_of_each(raw, embed, tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"key": "other/1", "label": "a"}\n{"key": "other/2", "label": "b"}')
    with pytest.raises(BuildFailed, match=r"0 of its 2 keys are records of this dataset .* It has 'other/1', the dataset 'folder"):
        built(raw, tmp_path / "out", embed, category(labels=str(tmp_path / "labels.jsonl")))


def test_a_column_or_the_captions_of_a_style_can_be_the_category(raw, tmp_path):
    built(raw, tmp_path / "out", category(column="format"))
    assert {row["category"] for row in categories(tmp_path / "out").values()} == {"PNG"}
    first = next(iter(read_rows(next((tmp_path / "out" / "scan").iterdir()) / "rows.parquet")))
    style = next(iter(first["captions"]))
    built(raw, tmp_path / "captions", category(column=f"captions.{style}"))
    rows = categories(tmp_path / "captions")
    assert {row.get("category") for key, row in rows.items() if "black" not in key} == {f"a {name} on a plain ground" for name in COLOURS}
    assert all("category" not in row for key, row in rows.items() if "black" in key)


def test_a_column_of_another_type_or_none_is_refused_before_any_work(raw, tmp_path):
    with pytest.raises(ConfigError, match=r"the column captions holds map; expected string or int or bool; write `captions.NAME`"):
        built(raw, tmp_path / "out", category(column="captions"))
    with pytest.raises(ConfigError, match="needs the column colour, which no earlier stage gives"):
        built(raw, tmp_path / "out", category(column="colour"))
    with pytest.raises(ConfigError, match="needs the column embedding"):
        built(raw, tmp_path / "out", category())


def test_two_places_that_say_the_category_are_one_too_many():
    with pytest.raises(ValueError, match="`taxonomy` and `column` both say where categories come from"):
        CategoryConfig(taxonomy="a", column="b")
    with pytest.raises(ValueError, match=r"`labels` must end in .jsonl or .parquet, found 'labels.csv'"):
        CategoryConfig(labels="labels.csv")


def test_a_folder_that_is_no_taxonomy_is_refused_when_the_chain_is_built(tmp_path):
    with pytest.raises(DataError, match="no taxonomy"):
        build(CategoryConfig(taxonomy=str(tmp_path)), DataStageContext(build=lambda *_: None))
    with pytest.raises(DataError, match="no taxonomy"):
        read_taxonomy(tmp_path)


def test_one_flipped_byte_is_found_and_array_objects_are_never_loaded(whole, tmp_path):
    with io.commit_folder(tmp_path / "taxonomy") as folder:
        build_taxonomy(finished(whole[0]), CategoryConfig(leaves=4, rows_per_leaf=1)).write(folder)
    files = sorted(p for p in (tmp_path / "taxonomy").iterdir() if p.name != "manifest.json")
    assert [p.name for p in files] == ["centroids-0.npy", "centroids-1.npy", "nodes.parquet", "taxonomy.json"]
    for path in files:
        good = path.read_bytes()
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        with pytest.raises(DataError, match=f"{path.name}: sha256 differs"):
            read_taxonomy(tmp_path / "taxonomy")
        path.write_bytes(good)
    assert len(read_taxonomy(tmp_path / "taxonomy").leaves) == 4
    pickled = memory.BytesIO()
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    with io.commit_folder(tmp_path / "hostile") as folder:
        for path in files:
            folder.add_bytes(path.name, pickled.getvalue() if path.name == "centroids-0.npy" else path.read_bytes())
    with pytest.raises(DataError, match=r"centroids-0.npy: not an array of numbers"):
        read_taxonomy(tmp_path / "hostile")


def test_the_command_builds_and_shows_a_taxonomy(whole, tmp_path, capsys):
    app, source = App(), str(whole[0])
    options = ["--leaves", "4", "--rows-per-leaf", "1", "--out", str(tmp_path / "taxonomy")]
    assert cli.main(["taxonomy", "build", "--from", source, *options], app) == 0
    assert "4 categories of 40 pictures (levels of 2, 4 nodes), learnt from 40" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="exists already"):
        cli.main(["taxonomy", "build", "--from", source, *options], app)
    assert cli.main(["taxonomy", "show", str(tmp_path / "taxonomy")], app) == 0
    text = capsys.readouterr().out
    assert all(f"10  {name}  e.g. folder/" in text for name in COLOURS)
    assert cli.main(["taxonomy", "show", str(tmp_path / "taxonomy"), "--depth", "1", "--top", "1"], app) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].endswith("in 1 more")
    assert cli.main(["taxonomy", "show", str(tmp_path / "taxonomy"), "--json"], app) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {leaf["name"] for node in shown["tree"] for leaf in node["children"]} == set(COLOURS)
    assert sum(node["pictures"] for node in shown["tree"]) == 40 == shown["pictures"]


def test_the_command_refuses_what_is_no_build_with_embeddings(raw, tmp_path):
    app = App()
    arguments = ["taxonomy", "build", "--out", str(tmp_path / "t"), "--from"]
    with pytest.raises(DataError, match="no finished build"):
        cli.main([*arguments, str(tmp_path)], app)
    built(raw, tmp_path / "out")
    with pytest.raises(DataError, match="give no column `embedding`; add the stage `embed`"):
        cli.main([*arguments, str(tmp_path / "out")], app)
    with pytest.raises(ConfigError, match="leaves"):
        cli.main([*arguments, str(tmp_path / "out"), "--leaves", "0"], app)


def test_small_datasets_get_fewer_leaves(whole):
    view = finished(whole[0])
    assert len(build_taxonomy(view, CategoryConfig()).leaves) == 4, "40 pictures, ten for each leaf"
    small = build_taxonomy(view, CategoryConfig(sample_rows=20, leaves=50))
    assert len(small.leaves) == 2
    assert small.facts["sampled"] == 20
    assert sum(node.pictures for node in small.leaves) == 40
    assert msgspec.to_builtins(dict(small.facts))["asked"]["leaves"] == 50


def test_embeddings_of_several_lengths_are_refused(whole, raw, embed, tmp_path):
    built(raw, tmp_path / "two", msgspec.structs.replace(embed, options={"width": 2}))
    view = finished(whole[0])
    view.pieces = [*view.pieces, *finished(tmp_path / "two").pieces]
    with pytest.raises(DataError, match="an embedding of 2 numbers, and others have 3"):
        build_taxonomy(view, CategoryConfig())
