"""Tesseract itself on pages drawn by ourselves, and within a build. Needs the Debian packages that ``ernie doctor`` names."""

from itertools import pairwise

import msgspec
import pytest

from ernie_core.api import MissingComponent, Selection
from ernie_data.engine.build import build_dataset
from ernie_data.ocr.entries import OcrConfig
from ernie_data.ocr.error_rate import distance, plain
from ernie_data.ocr.reader import read_text
from ernie_data.ocr.rendered import fonts_of, render_pages
from ernie_data.ocr.tesseract import find_tesseract
from ernie_data.reading.dataset import open_dataset
from ernie_data.recipe import FolderInput, Recipe, RunOptions

CONFIG = OcrConfig()
PATIENT = msgspec.structs.replace(CONFIG.tesseract, timeout_s=120.0)


def _missing() -> str:
    try:
        find_tesseract(CONFIG.tesseract.languages)
        fonts_of("zh")
    except MissingComponent as missing:
        return str(missing)
    return ""


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing() or "all there")


def rate(language: str, count: int) -> float:
    tesseract = find_tesseract(CONFIG.tesseract.languages)
    errors = characters = 0
    for page in render_pages(language, count=count, seed=3):
        truth = plain("".join(page.lines))
        found = read_text(page.picture, tesseract, PATIENT, least_confidence=CONFIG.least_confidence)
        errors += distance(truth, plain("".join(line.text for line in found)))
        characters += len(truth)
    return errors / characters


@pytest.mark.parametrize("language", ["en", "zh"])
def test_at_most_five_per_cent_of_the_characters_are_wrong(language):
    assert rate(language, 3) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_at_most_five_per_cent_of_the_characters_are_wrong_on_many_pages(language):
    assert rate(language, 100) <= 0.05


def test_pages_are_a_function_of_their_seed_and_boxes_lie_on_the_writing():
    (page,), (again,) = (list(render_pages("en", count=1, seed=5)) for _ in range(2))
    assert page.lines == again.lines
    assert page.picture.tobytes() == again.picture.tobytes()
    lines = read_text(page.picture, find_tesseract(CONFIG.tesseract.languages), PATIENT, least_confidence=0.5)
    assert [plain(line.text) for line in lines] == [plain(text) for text in page.lines]
    for line in lines:
        left, top, right, bottom = line.box
        assert 0 <= left < right <= page.picture.width
        assert 0 <= top < bottom <= page.picture.height
        assert bottom - top <= 2 * page.size_px
    assert all(below.box[1] > above.box[1] for above, below in pairwise(lines))


def test_a_build_reads_its_pictures(tmp_path):
    (tmp_path / "raw").mkdir()
    pages = [next(render_pages(language, count=1, seed=5)) for language in ("en", "zh")]
    for number, page in enumerate(pages):
        page.picture.save(tmp_path / "raw" / f"{number}.png")
    source = Selection("folder", FolderInput(path=str(tmp_path / "raw")))
    stages = (Selection("decode"), Selection("ocr", OcrConfig(tesseract=PATIENT)))
    about = build_dataset(Recipe(sources=(source,), stages=stages, run=RunOptions(workers=1, record_timeout_s=120)), tmp_path / "out")
    rows = list(open_dataset(tmp_path / "out").rows(["ocr_text", "ocr_confidence", "ocr_boxes"]))
    assert [plain("".join(row["ocr_text"])) for row in rows] == [plain("".join(page.lines)) for page in pages]
    assert all(len(row["ocr_text"]) == len(row["ocr_confidence"]) == len(row["ocr_boxes"]) for row in rows)
    assert "chi_sim:" in about["stages"][-1]["code"]
