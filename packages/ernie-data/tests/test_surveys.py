"""Stages that look at the whole dataset first, and stages that hold a model: order, reuse, kills, and what a change redoes."""

import json
import os
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from ernie_core.api import App, ConfigError, PluginHost, Selection
from ernie_data.cli import main as data
from ernie_data.engine.build import BuildFailed, build_dataset, links_of
from ernie_data.engine.chain import Link
from ernie_data.engine.store import read_manifest
from ernie_data.engine.view import DatasetView
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.scoring.entries import SelectConfig
from ernie_data.tables import ENGINE_COLUMNS, encode_rows, read_rows

STAGES = '''
import json, os, resource, signal
from pathlib import Path
from ernie_core.api import Config
from ernie_data.api import BatchStage, Kept, ReasonCode, RecordStage, Refuse

class ShareConfig(Config):
    column: str = "share"
    marks: str = ""
    fail: bool = False
    keep: float = 0.5

class Share(RecordStage):
    """Refuses the pictures whose width is above the mean over all."""
    code, needs, surveys = "1", ("width",), True
    def __init__(self, config, context):
        self.config = config
        self.columns = {config.column: "float"}
        self.mean = json.loads((context.survey / "mean.json").read_text()) if context.survey else None
    def survey(self, dataset, out):
        if self.config.fail:
            raise ValueError("no survey today")
        mark = Path(self.config.marks) / "killed" if self.config.marks else None
        if mark is not None and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        widths = [w for table in dataset.tables(["width"]) for w in table.column("width").to_pylist()]
        assert len(list(dataset.pictures())) == len(widths)
        out.add_json("mean.json", sum(widths) / len(widths))
    def one(self, item):
        if item.columns["width"] > self.mean:
            raise Refuse(ReasonCode.TOO_LONG, "wide")
        return Kept({self.config.column: item.columns["width"] / self.mean})

class Model(BatchStage):
    """Says which process worked, and with how much memory."""
    code, columns, actor, batch_size = "1", {"pid": "int", "batch": "int", "limited": "bool", "gpu": "string"}, True, 3
    def __init__(self, config, context):
        pass
    def many(self, items):
        limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
        return [Kept({"pid": os.getpid(), "batch": len(items), "limited": limited, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", "")}) for _ in items]
'''


@pytest.fixture
def link(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "survey_stages.py").write_text(STAGES)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])))
    yield lambda build, name, **options: Link(name, f"survey_stages:{build}", "survey_stages:ShareConfig", options)
    sys.modules.pop("survey_stages", None)


@pytest.fixture
def recipe(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for i in range(24):
        Image.fromarray(np.full((8, 8 + i, 3), i, np.uint8)).save(raw / f"{i:02d}.png")
    source = Selection("folder", FolderInput(path=str(raw)))
    return Recipe(
        sources=(source,), stages=(Selection("decode"),), unit_rows=6, run=RunOptions(workers=2, gpus=("3", "5"), actors={"model": 2})
    )


def chain(recipe, *links):
    return [*links_of(recipe, PluginHost.discover()), *links]


def widths(out: Path) -> list[int]:
    return sorted(row["width"] for folder in (out / "decode").iterdir() for row in read_rows(folder / "rows.parquet") if "error" not in row)


def test_a_survey_sees_every_accepted_record_and_a_second_one_what_the_first_left(recipe, link, tmp_path):
    (tmp_path / "raw" / "bad.png").write_bytes(b"no picture")
    about = build_dataset(recipe, tmp_path / "out", links=chain(recipe, link("Share", "first"), link("Share", "second", column="again")))
    all_widths = np.array(widths(tmp_path / "out"))
    half = all_widths[all_widths <= all_widths.mean()]
    quarter = half[half <= half.mean()]
    assert about["accepted"] == len(quarter)
    assert [stage["rejected"] for stage in about["stages"][2:]] == [{"too_long": 24 - len(half)}, {"too_long": len(half) - len(quarter)}]
    assert about["records"] == 25 == about["accepted"] + about["rejected"]
    survey = tmp_path / "out" / "first" / about["surveys"]["first"] / "mean.json"
    assert json.loads(survey.read_text()) == all_widths.mean()


def test_nothing_is_done_twice_and_one_new_record_redoes_what_hangs_on_the_survey(recipe, link, tmp_path):
    links = chain(recipe, link("Share", "share"))
    out = tmp_path / "out"
    build_dataset(recipe, out, links=links)
    first = {line.receipt.unit for line in read_manifest(out / "manifest.jsonl")}
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    build_dataset(recipe, out, links=links)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")} == stamps
    Image.fromarray(np.zeros((8, 60, 3), np.uint8)).save(tmp_path / "raw" / "99.png")
    build_dataset(recipe, out, links=links)
    second = {line.receipt.unit: line.stage for line in read_manifest(out / "manifest.jsonl")}
    assert {second[unit] for unit in second.keys() & first} == {"scan", "decode"}, "the mean has changed: every `share` unit is new"


def test_a_survey_whose_process_is_killed_is_made_again(recipe, link, tmp_path):
    (tmp_path / "marks").mkdir()
    whole = build_dataset(recipe, tmp_path / "whole", links=chain(recipe, link("Share", "share")))
    again = build_dataset(recipe, tmp_path / "again", links=chain(recipe, link("Share", "share", marks=str(tmp_path / "marks"))))
    assert (tmp_path / "marks" / "killed").exists()
    assert again["accepted"] == whole["accepted"]


def test_a_survey_that_fails_fails_the_build_by_name_and_keeps_the_rest(recipe, link, tmp_path):
    with pytest.raises(BuildFailed, match=r"share/\w{32} \(survey of the whole dataset\): ValueError: no survey today"):
        build_dataset(recipe, tmp_path / "out", links=chain(recipe, link("Share", "share", fail=True)))
    assert len(list((tmp_path / "out" / "decode").iterdir())) >= 2


def test_a_stage_that_holds_a_model_has_processes_of_its_own_without_the_limit(recipe, link, tmp_path):
    build_dataset(recipe, tmp_path / "out", links=chain(recipe, link("Model", "model")))
    rows = [row for folder in (tmp_path / "out" / "model").iterdir() for row in read_rows(folder / "rows.parquet")]
    assert {row["limited"] for row in rows} == {False}
    assert 1 <= len({row["pid"] for row in rows}) <= 2
    assert {row["gpu"] for row in rows} <= {"3", "5"}
    assert max(row["batch"] for row in rows) == 3


def test_a_missing_column_is_named_before_any_work(recipe, link, tmp_path):
    links = [chain(recipe)[0], link("Share", "share")]
    with pytest.raises(
        ConfigError, match=r"the stage `share` needs the column width, which no earlier stage gives; columns so far: bytes, caption"
    ):
        build_dataset(recipe, tmp_path / "out", links=links)
    assert not (tmp_path / "out" / "scan").exists()


def test_a_survey_sees_a_column_as_stages_do_the_last_value_that_is_there(tmp_path):
    columns = {"first": {"a": {"text": "x"}, "b": {"text": "y"}, "c": {}}, "second": {"a": {"text": "z"}, "b": None, "c": None}}
    for number, (stage, captions) in enumerate(columns.items()):
        (tmp_path / stage).mkdir()
        rows = [{"key": key, "captions": value, f"n{number}": number} for key, value in captions.items()]
        (tmp_path / stage / "rows.parquet").write_bytes(encode_rows(rows, {**ENGINE_COLUMNS, "captions": "map", f"n{number}": "int"}))
    view = DatasetView([[str(tmp_path / stage) for stage in columns]])
    (table,) = view.tables(["captions", "n0", "no such"])
    assert table.to_pylist(maps_as_pydicts="strict") == [
        {"key": "a", "captions": {"text": "z"}, "n0": 0, "no such": None},
        {"key": "b", "captions": {"text": "y"}, "n0": 0, "no such": None},
        {"key": "c", "captions": {}, "n0": 0, "no such": None},
    ]


def test_a_stage_may_stand_twice_under_names_of_its_own(recipe, tmp_path):
    wide, high = SelectConfig(where="width > 12", name="wide"), SelectConfig(where="width < 20", name="not too wide")
    stages = (Selection("decode"), Selection("select", wide), Selection("select", high))
    about = build_dataset(msgspec.structs.replace(recipe, stages=stages), tmp_path / "out")
    assert [stage["stage"] for stage in about["stages"]] == ["scan", "decode", "select", "select-2"]
    assert about["accepted"] == 7
    assert {row["detail"] for row in read_rows(tmp_path / "out" / "rejected.parquet")} == {"wide", "not too wide"}


def test_two_stages_of_one_kind_may_not_give_one_column(recipe, tmp_path):
    stages = (Selection("decode"), Selection("size"), Selection("size"))
    with pytest.raises(ConfigError, match=r"the stages `size` and `size-2` both give the column aspect; give the second one another name"):
        build_dataset(msgspec.structs.replace(recipe, stages=stages), tmp_path / "out")


def test_status_counts_no_survey_as_a_unit_and_only_makes_a_survey_again(recipe, link, tmp_path, capsys):
    out, links = tmp_path / "out", chain(recipe, link("Share", "share"))
    about = build_dataset(recipe, out, links=links)
    assert data(["status", str(out), "--json"], App()) == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: stage["units"] for name, stage in report["stages"].items()} == dict.fromkeys(("scan", "decode", "share"), report["units"])
    mean = out / "share" / about["surveys"]["share"] / "mean.json"
    before, stamp = mean.read_bytes(), mean.stat().st_mtime_ns
    again = build_dataset(recipe, out, links=links, only=[about["surveys"]["share"]])
    assert (mean.read_bytes(), again["units"]) == (before, about["units"])
    assert mean.stat().st_mtime_ns != stamp
