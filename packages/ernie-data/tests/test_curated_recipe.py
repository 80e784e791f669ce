"""The shipped curation recipe, from a raw set with planted defects to a training run."""

import json
import shutil
from pathlib import Path

import pytest

from ernie_core.api import App, PluginHost, from_plain
from ernie_core.testing.runs import TINY_RUN, logged, merged
from ernie_data.cli import main as data
from ernie_data.loading.opened import find_indexes
from ernie_data.loading.rows import RowStore
from ernie_data.recipe import load_recipe
from ernie_data.sampling.index import Index
from ernie_data.shapes.defects import write_defective_set
from ernie_data.shapes.entries import DefectPlan

RECIPE = Path(__file__).parents[3] / "recipes" / "curate.toml"
PLAN = DefectPlan(
    count=80, size_px=64, wrong_captions=0.1, missing_text=0.3, duplicates=0.1, near_duplicates=0.05, corrupt=0.05, low_quality=0.1
)


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    base = tmp_path_factory.mktemp("recipe")
    write_defective_set(base / "raw", PLAN)
    shutil.copy(RECIPE, base / "curate.toml")
    assert data(["build", str(base / "curate.toml"), "--out", str(base / "curated"), "--workers", "2"], App()) == 0
    return base / "curated"


def test_the_recipe_decodes_and_names_the_stages_in_order():
    recipe = load_recipe(RECIPE, App())
    order = "decode size hashes score embed duplicates category ocr caption faithfulness agreement select"
    assert [stage.use for stage in recipe.stages] == order.split()
    assert recipe.index is not None


def test_planted_defects_are_gone_and_what_is_left_can_be_drawn(curated):
    truth = [json.loads(line) for line in (curated.parent / "raw" / "truth.jsonl").read_text().splitlines()]
    about = json.loads((curated / "dataset.json").read_text())
    assert about["records"] == 80 == about["accepted"] + about["rejected"]
    indexes = find_indexes(curated)
    with RowStore(indexes.rows) as rows, Index(indexes.sizes[64], verify="all") as index:
        records = index.records(range(index.rows))
        facts = rows.read(records["shard"].tolist(), records["position"].tolist())
    assert len(facts) == about["accepted"]
    kept = {fact.key.removeprefix("folder/") for fact in facts}
    corrupt = {row["file_name"] for row in truth if row.get("defect") == "corrupt"}
    assert corrupt
    assert not kept & corrupt
    assert all(fact.captions and fact.category and fact.scores["score"] >= 4 for fact in facts)
    assert {fact.category for fact in facts} == set(index.tables.categories)


def test_the_sampling_plan_takes_the_build_itself(curated):
    said = []

    class Listening(App):
        def out(self, text: str) -> None:
            said.append(text)

    assert data(["sampling", "plan", str(curated), "--draws", "100"], Listening()) == 0
    assert f"{find_indexes(curated).sizes[64].name}" not in said[0].splitlines()[0]
    assert said[0].startswith(f"{curated}: ")


def test_a_model_trains_on_it(curated, tmp_path):
    from ernie_core.train.start import train

    tables = {
        "data": {"use": "curated", "path": str(curated), "sampling": {"max_repeats": 20.0}},
        "stages": [{"size_px": 64, "steps": 3, "batch_size": 4}],
        "samples": {"every_steps": 0},
        "validation": {"every_steps": 0},
    }
    host = PluginHost.discover()
    train(from_plain(merged(TINY_RUN, tables, {"codec": {"use": "pixel", "patch": 4}}), host), host=host, out=tmp_path / "run")
    assert sorted(logged(tmp_path / "run")) == [1, 2, 3]
