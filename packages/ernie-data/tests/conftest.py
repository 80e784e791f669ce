"""A small build with every kind of column that reports and queries know, whose stages say what the pictures' names tell them. Built once."""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import PluginHost, Selection
from ernie_data.engine.build import build_dataset, links_of
from ernie_data.engine.chain import Link
from ernie_data.recipe import FolderInput, Recipe, RunOptions

STAGES = """
from ernie_core.api import Config
from ernie_data.api import Kept, ReasonCode, RecordStage, Refuse

class NoConfig(Config):
    pass

class Told(RecordStage):
    code = "1"
    def __init__(self, config, context):
        pass
    def number(self, item):
        return int(item.key[-6:-4])

class Judge(Told):
    columns = {"score": "float", "category": "string", "embedding": "floats"}
    def one(self, item):
        n = self.number(item)
        return Kept({"score": n / 40, "category": "common <b>" if n % 8 else "rare", "embedding": [float(n), 1.0]})

class Twins(Told):
    columns = {"duplicate_group": "string", "duplicates": "int"}
    def one(self, item):
        n = self.number(item)
        if n in (7, 9):
            raise Refuse(ReasonCode.DUPLICATE, f"near of folder/pic 05.png, distance 0.0{n}")
        return Kept({"duplicates": 2, "duplicate_group": item.key} if n == 5 else {"duplicates": 0})

class Captions(Told):
    columns = {"captions": "map", "source_captions": "map", "caption": "json", "caption_agreement": "float", "ocr_text": "strings"}
    def one(self, item):
        n = self.number(item)
        if n == 11:
            return Kept({"caption_agreement": 1.0})
        return Kept({"captions": {"text": f"seen {n}", "keywords": "<i>"}, "source_captions": item.columns["captions"], "caption": {"subject": "x", "n": n},
                     "caption_agreement": 0.25 if n == 3 else 1.0, "ocr_text": ["STOP"] if n in (13, 14) else []})

class Chosen(Told):
    columns = {}
    def one(self, item):
        if item.columns["score"] < 0.05:
            raise Refuse(ReasonCode.NOT_SELECTED, "score >= 0.05")
        return Kept({})
"""
LINKS = (("Judge", "judge"), ("Twins", "duplicates"), ("Captions", "caption"), ("Chosen", "select"))


def write_raw(raw):
    """24 pictures "pic 00.png" to "pic 23.png" of (16 + n) x 16 px with captions, a file that is none, and a file of another kind."""
    raw.mkdir()
    for n in range(24):
        pixels = np.random.default_rng(n).integers(0, 255, (16, 16 + n, 3), np.uint8)
        Image.fromarray(pixels).save(raw / f"pic {n:02d}.png")
        text = 'a sign that says "STOP"' if n == 13 else f"caption {n} <script>alert(1)</script>"
        (raw / f"pic {n:02d}.txt").write_text(text)
    (raw / "bad 24.png").write_bytes(b"<html>")
    (raw / "notes.md").write_text("notes")


@pytest.fixture(scope="session")
def build_told(tmp_path_factory):
    """``build_told(out)`` makes the build at a folder; ``stages``: only the first so many of seven."""
    base = tmp_path_factory.mktemp("told")
    (base / "told_stages.py").write_text(STAGES)
    write_raw(base / "raw")
    recipe = Recipe(
        sources=(Selection("folder", FolderInput(path=str(base / "raw"))),),
        stages=(Selection("decode"), Selection("size")),
        unit_rows=8,
        run=RunOptions(workers=1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(base))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(base), os.environ.get("PYTHONPATH", "")])))
        links = [
            *links_of(recipe, PluginHost.discover()),
            *(Link(name, f"told_stages:{build}", "told_stages:NoConfig", {}) for build, name in LINKS),
        ]

        def build(out, *, stages=None):
            return build_dataset(recipe, out, links=links[:stages])

        yield build
    sys.modules.pop("told_stages", None)


@pytest.fixture(scope="session")
def told(build_told, tmp_path_factory):
    """The finished build; tests only read it."""
    out = tmp_path_factory.mktemp("builds") / "told"
    build_told(out)
    return out
