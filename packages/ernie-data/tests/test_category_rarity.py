"""Rarity of captions: the formula, and that pieces do not show."""

import math

import pytest
from PIL import Image

from ernie_core.api import Selection
from ernie_data.category.entries import RarityConfig
from ernie_data.engine.build import BuildFailed, build_dataset
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.tables import read_rows


def rarities(tmp_path, captions, *, unit_rows=3, name="out", **options):
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    for i, caption in enumerate(captions):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(raw / f"{i}.png")
        if caption is not None:
            (raw / f"{i}.txt").write_text(caption)
    stages = (Selection("decode"), Selection("rarity", RarityConfig(**options)))
    recipe = Recipe(
        sources=(Selection("folder", FolderInput(path=str(raw))),), stages=stages, unit_rows=unit_rows, run=RunOptions(workers=1)
    )
    about = build_dataset(recipe, tmp_path / name)
    survey = about["surveys"]["rarity"]
    folders = [f for f in (tmp_path / name / "rarity").iterdir() if f.name != survey]
    return [
        row.get("caption_rarity") for row in sorted((r for f in folders for r in read_rows(f / "rows.parquet")), key=lambda r: r["key"])
    ]


def test_the_mean_of_inverse_frequencies_whatever_the_pieces(tmp_path):
    captions = ["red dog", "red dog", "the red red cat", "red zebra", "red", None]
    idf = {word: math.log((1 + 5) / (1 + n)) for word, n in {"red": 5, "dog": 2, "cat": 1, "zebra": 1}.items()}
    expected = [(idf["red"] + idf[w]) / 2 for w in ("dog", "dog", "cat", "zebra")] + [idf["red"]]
    found = rarities(tmp_path, captions)
    assert found[:5] == pytest.approx(expected, abs=1e-6)
    assert found[5] is None
    assert found == rarities(tmp_path, captions, unit_rows=100, name="other")


def test_words_outside_the_sample_are_the_rarest(tmp_path):
    found = rarities(tmp_path, [f"word{chr(97 + i)}" for i in range(12)], sample_rows=4)
    assert len(set(found)) == 2
    assert max(found) - min(found) == pytest.approx(math.log(2), abs=1e-5)


def test_without_captions_it_says_so(tmp_path):
    with pytest.raises(BuildFailed, match="no record has a caption with words"):
        rarities(tmp_path, [None, "42"])
