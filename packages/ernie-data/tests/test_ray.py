"""The backend `ray`: the same bytes as the local one, the same blame for deaths, and clear words where there is no Ray."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import ErnieError, PluginHost, Selection
from ernie_data.engine.build import build_dataset, links_of
from ernie_data.engine.chain import Link
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.tables import read_rows

STAGE = '''
import json, os, signal
from ernie_core.api import Config
from ernie_data.api import Kept, RecordStage

class OddConfig(Config):
    marks: str = ""

class Odd(RecordStage):
    """Ends its process at one record, and knows the mean width of all."""
    code, columns, needs, surveys = "1", {"share": "float"}, ("width",), True
    def __init__(self, config, context):
        self.mean = json.loads((context.survey / "mean.json").read_text()) if context.survey else None
    def survey(self, dataset, out):
        widths = [w for table in dataset.tables(["width"]) for w in table.column("width").to_pylist()]
        out.add_json("mean.json", sum(widths) / len(widths))
    def one(self, item):
        if item.key.endswith("07.png"):
            os.abort()
        return Kept({"share": item.columns["width"] / self.mean})
'''


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


@pytest.mark.battery
def test_two_ray_workers_give_the_bytes_of_the_local_backend(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed (ernie-data[ray])")
    modules, raw = tmp_path / "modules", tmp_path / "raw"
    modules.mkdir()
    raw.mkdir()
    (modules / "ray_stages.py").write_text(STAGE)
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH", "")])))
    for i in range(60):
        Image.fromarray(np.full((8, 8 + i % 9, 3), i, np.uint8)).save(raw / f"{i:02d}.png")
    (raw / "bad.png").write_bytes(b"no picture")

    def build(out: str, **run) -> dict:
        source = Selection("folder", FolderInput(path=str(raw)))
        recipe = Recipe(sources=(source,), unit_rows=8, run=RunOptions(workers=2, **run))
        links = [*links_of(recipe, PluginHost.discover()), Link("odd", "ray_stages:Odd", "ray_stages:OddConfig", {})]
        return build_dataset(recipe, tmp_path / out, links=links)

    about = build("ray", backend="ray")
    sys.modules.pop("ray_stages", None)
    assert (about["records"], about["accepted"]) == (61, 59)
    assert {(row["key"], row["error"]) for row in read_rows(tmp_path / "ray" / "rejected.parquet")} == {
        ("folder/07.png", "crashed"),
        ("folder/bad.png", "not_a_picture"),
    }
    build("local")
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_without_ray_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "raw").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "raw" / "a.png")
    source = Selection("folder", FolderInput(path=str(tmp_path / "raw")))
    with pytest.raises(ErnieError, match=r'run\.backend = "ray" needs Ray: pip install "ernie-data\[ray\]"'):
        build_dataset(Recipe(sources=(source,), run=RunOptions(backend="ray")), tmp_path / "out")
