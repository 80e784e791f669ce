"""OCR without Tesseract's own reading: lines, merging, error rates, the program's edges (by a stand-in), and the vision backend."""

import io
import os
import sys
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ernie_core.api import DataStageContext, MissingComponent
from ernie_data.engine.stage import Item, Kept, Refuse
from ernie_data.ocr import stage as ocr_stage
from ernie_data.ocr.doctor import check_tesseract
from ernie_data.ocr.entries import OcrConfig, TesseractConfig
from ernie_data.ocr.error_rate import distance, error_rate, plain
from ernie_data.ocr.lines import Line, Word, in_reading_order, is_credible, lines_of, merged, shared
from ernie_data.ocr.prepare import MARGIN_PX, as_grey, prepare
from ernie_data.ocr.reader import read_text
from ernie_data.ocr.tesseract import TesseractFailed, find_tesseract, package_of, parse_tsv
from ernie_data.reasons import ReasonCode
from ernie_data.shapes.glyphs import ALPHABET
from ernie_data.shapes.profile import PROFILES
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import Scene, Sign
from ernie_data.shapes.writer import encode_png
from ernie_data.vision.entries import VisionServerConfig
from ernie_data.vision.model import VisionError, VisionReason

CONTEXT = DataStageContext(build=lambda registry, selection, context: None)
SERVER = VisionServerConfig(url="http://127.0.0.1:9/v1", model="eyes")


def word(text, left, top=0, *, width=None, height=10, confidence=0.9, line=(1, 1, 1, 1)):
    return Word(text, confidence, (left, top, left + (width or 8 * len(text)), top + height), line)


def line(text, box, confidence=0.9):
    return Line(text, confidence, box)


def png(size=(60, 40), colour="white") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, format="PNG")
    return data.getvalue()


def item(data: bytes, **columns) -> Item:
    return Item("folder/a.png", columns, lambda: data)


class TestLines:
    def test_words_are_joined_by_spaces_and_ideographs_without(self):
        assert [x.text for x in lines_of([word("open", 0), word("daily", 36)])] == ["open daily"]
        assert [x.text for x in lines_of([word("新鲜", 0, width=20), word("水果", 24, width=20)])] == ["新鲜水果"]

    def test_where_scripts_meet_the_gap_decides(self):
        near = [word("价格", 0, width=20), word("45", 21, width=12)]
        far = [word("价格", 0, width=20), word("45", 26, width=12)]
        mark = [word("标题：", 0, width=30), word("Go", 36, width=12)]
        assert [lines_of(words)[0].text for words in (near, far, mark)] == ["价格45", "价格 45", "标题：Go"]

    def test_columns_become_lines_of_their_own(self):
        found = lines_of([word("left", 0), word("right", 80, confidence=0.5)])
        assert [(x.text, x.confidence) for x in found] == [("left", 0.9), ("right", 0.5)]

    def test_confidence_is_the_mean_over_characters(self):
        assert lines_of([word("a", 0, confidence=0.2), word("bcd", 9, confidence=1.0)])[0].confidence == pytest.approx(0.8)

    def test_of_two_readings_of_a_place_the_one_with_more_confident_text_wins(self):
        box, other = (0, 0, 100, 20), (0, 40, 100, 60)
        one = [line("hollo wrld", box, 0.6), line("below", other)]
        two = [line("hello world", (2, 1, 99, 21), 0.9)]
        assert [x.text for x in merged([one, two])] == ["hello world", "below"]

    @given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.integers(0, 90), st.integers(0, 90), st.floats(0, 1)), max_size=12))
    def test_merged_lines_never_share_a_place_and_depend_on_no_order_of_passes(self, drawn):
        lines = [line(t, (x, y, x + 15, y + 9), c) for t, x, y, c in drawn]
        found = merged([lines])
        assert all(shared(a.box, b.box) <= 0.35 for n, a in enumerate(found) for b in found[:n])
        assert sorted(map(repr, in_reading_order(lines))) == sorted(map(repr, lines))
        assert not lines or found

    def test_reading_order_is_by_rows_and_from_the_left(self):
        scattered = [line("d", (50, 42, 60, 52)), line("a", (0, 0, 20, 20)), line("c", (0, 40, 20, 50)), line("b", (50, 3, 60, 23))]
        assert [x.text for x in in_reading_order(scattered)] == ["a", "b", "c", "d"]

    @pytest.mark.parametrize(
        ("text", "confidence", "credible"),
        [("绝了", 0.9, True), ("A", 0.97, True), ("S", 0.83, False), ("|—|", 0.99, False), ("text", 0.49, False)],
    )
    def test_specks_are_no_writing(self, text, confidence, credible):
        assert is_credible(line(text, (0, 0, 9, 9), confidence), 0.5) is credible


class TestErrorRate:
    def test_known_distances(self):
        assert distance("kitten", "sitting") == 3
        assert distance("abc", "xxabcxx") == 4
        assert distance("abc", "xxabcxx", within=True) == 0
        assert distance("abc", "xxaXcxx", within=True) == 1
        assert distance("abc", "") == distance("abc", "", within=True) == 3

    @given(st.text("abc", max_size=8), st.text("abc", max_size=8), st.text("abc", max_size=8))
    def test_it_is_a_metric_and_a_part_is_never_further_than_the_whole(self, a, b, c):
        assert distance(a, b) == distance(b, a)
        assert (distance(a, b) == 0) is (a == b)
        assert distance(a, c) <= distance(a, b) + distance(b, c)
        assert distance(a, b, within=True) <= distance(a, b)
        assert distance(a, c + a + b, within=True) == 0

    def test_white_space_and_variants_of_marks_do_not_count_but_case_does(self):
        assert plain("Ｄon’t  stop，“ok”") == 'Don\'tstop,"ok"'
        assert error_rate(["新鲜 水果"], ["新鲜", "水果"]) == 0
        assert error_rate(["Open"], ["open"]) == 0.25

    def test_a_truth_without_characters_is_refused(self):
        with pytest.raises(ValueError, match="at least one character"):
            error_rate([" "], ["a"])


def test_large_pictures_are_reduced_before_anything_else_and_boxes_are_the_picture_s():
    """Or one of 64 megapixels would take more memory than a worker may have."""

    class Reader:
        def read(self, png, *, language, page_mode, timeout_s):
            return [Word("Open", 1.0, (MARGIN_PX + 10, MARGIN_PX + 20, MARGIN_PX + 100, MARGIN_PX + 50))]

    picture = Image.fromarray(np.full((1500, 2000, 3), 200, np.uint8))
    tracemalloc.start()
    lines = read_text(picture, Reader(), TesseractConfig(side_px=200), least_confidence=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 1500 * 2000
    assert [line.box for line in lines] == [(100, 200, 1000, 500)]


class TestPrepare:
    def test_dark_pictures_are_inverted_and_all_get_a_margin(self):
        pixels = np.full((20, 30, 3), 20, np.uint8)
        pixels[5:8, 5:20] = 250
        grey = as_grey(pixels)
        assert grey[0, 0] == 235
        assert grey[6, 6] == 5
        prepared = prepare(Image.fromarray(pixels), scale=2)
        with Image.open(io.BytesIO(prepared.png)) as image:
            assert image.size == (60 + 2 * MARGIN_PX, 40 + 2 * MARGIN_PX)
            assert image.mode == "L"
        assert prepared.box_in_picture((MARGIN_PX, MARGIN_PX, MARGIN_PX + 60, 999), (30, 20)) == (0, 0, 30, 20)

    def test_writing_that_differs_in_hue_alone_becomes_visible(self):
        pixels = np.full((20, 30, 3), (200, 60, 60), np.uint8)
        pixels[5:9, 5:25] = (60, 131, 62)  # the same luminance
        level = pixels @ np.array([0.299, 0.587, 0.114])
        assert np.ptp(level) < 2
        grey = as_grey(pixels).astype(int)
        assert abs(grey[6, 6] - grey[0, 0]) > 200

    def test_a_picture_of_one_colour_is_no_trouble(self):
        assert set(np.unique(as_grey(np.full((1, 1, 3), 255, np.uint8)))) == {255}


TSV = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext\n"


def test_tsv_is_read_by_words_and_odd_rows_are_left_out():
    table = (
        TSV
        + "1\t1\t0\t0\t0\t0\t0\t0\t99\t99\t-1\t\n5\t1\t2\t1\t3\t1\t10\t20\t30\t12\t96.5\tHi\n5\t1\t2\t1\t3\t2\t44\t20\t5\t12\t-1\t \n5\tbroken\n"
    )
    assert parse_tsv(table) == [Word("Hi", 0.965, (10, 20, 40, 32), (1, 2, 1, 3))]
    assert parse_tsv("") == []


PROGRAM = """#!{python}
import os, sys, time
if "--version" in sys.argv:
    print("tesseract 5.9.9")
elif "--list-langs" in sys.argv:
    print({listing!r})
else:
    sys.stdin.buffer.read()
    {work}
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Writes a program in Tesseract's place that has the languages eng and chi_sim; ``work`` is what it does with a picture."""

    def write(work="print(open(os.environ['TABLE']).read() if 'TABLE' in os.environ else '')", listing=None) -> TesseractConfig:
        data = tmp_path / "tessdata"
        data.mkdir(exist_ok=True)
        for name in ("eng", "chi_sim"):
            (data / f"{name}.traineddata").write_bytes(name.encode())
        path = tmp_path / f"tesseract{len(list(tmp_path.iterdir()))}"
        listing = listing if listing is not None else f'List of available languages in "{data}/" (2):\nchi_sim\neng'
        path.write_text(PROGRAM.format(python=sys.executable, listing=listing, work=work))
        path.chmod(0o755)
        return TesseractConfig(program=str(path), languages=("eng",), page_modes=(6,))

    return write


class TestProgram:
    def test_the_code_names_version_and_language_data(self, stand_in, tmp_path):
        config = stand_in()
        before = find_tesseract(["eng"], program=config.program).code
        assert before.startswith("tesseract 5.9.9 eng:")
        (tmp_path / "tessdata" / "eng.traineddata").write_bytes(b"other data")
        from ernie_data.ocr import tesseract

        tesseract._sha256.cache_clear()
        assert find_tesseract(["eng"], program=config.program).code != before

    def test_what_is_missing_is_named_with_its_debian_package(self, stand_in):
        with pytest.raises(
            MissingComponent,
            match=r"`no-such-program`, which is not installed: apt install tesseract-ocr tesseract-ocr-eng tesseract-ocr-chi-sim",
        ):
            find_tesseract(["eng", "chi_sim"], program="no-such-program")
        with pytest.raises(MissingComponent, match=r"has no data for jpn_vert, it has chi_sim, eng: apt install tesseract-ocr-jpn-vert"):
            find_tesseract(["eng", "jpn_vert"], program=stand_in().program)
        with pytest.raises(MissingComponent, match=r"does not say where its language data are \(it said eng\)"):
            find_tesseract(["eng"], program=stand_in(listing="eng").program)
        assert package_of("chi_tra") == "tesseract-ocr-chi-tra"

    def test_a_stage_without_tesseract_is_one_clear_error_at_building(self):
        with pytest.raises(MissingComponent, match="apt install tesseract-ocr"):
            ocr_stage.build(OcrConfig(tesseract=TesseractConfig(program="no-such-program")), CONTEXT)

    def test_doctor_tells_both_ways(self, monkeypatch, stand_in):
        monkeypatch.setenv("PATH", "/nowhere")
        found = check_tesseract()
        assert (found.name, found.state) == ("tesseract", "absent")
        assert found.detail.endswith("apt install tesseract-ocr tesseract-ocr-eng tesseract-ocr-chi-sim")
        program = Path(stand_in().program)
        program.rename(program.with_name("tesseract"))
        monkeypatch.setenv("PATH", str(program.parent))
        assert check_tesseract().detail.startswith("5.9.9 (")

    def test_a_hanging_and_a_failing_program_are_told_apart(self, stand_in):
        picture = Image.new("RGB", (30, 20))
        for work, reason, said in (
            ("time.sleep(60)", "timeout", "longer than"),
            ("sys.exit('bad image')", "failed", "ended with 1: bad image"),
        ):
            config = msgspec.structs.replace(stand_in(work), timeout_s=2.0 if reason == "failed" else 0.3)
            with pytest.raises(TesseractFailed, match=said) as failure:
                read_text(picture, find_tesseract(["eng"], program=config.program), config, least_confidence=0.5)
            assert failure.value.reason == reason

    def test_a_failure_is_a_column_and_not_a_lost_record(self, stand_in):
        stage = ocr_stage.build(OcrConfig(tesseract=stand_in("sys.exit('bad image')")), CONTEXT)
        (outcome,) = stage.process([item(png())])
        assert outcome.columns == {"ocr_error": "failed: Tesseract ended with 1: bad image"}
        (outcome,) = stage.process([item(b"no picture")])
        assert outcome.columns["ocr_error"].startswith("picture: ")

    def test_lines_become_columns_side_by_side(self, stand_in, tmp_path, monkeypatch):
        rows = [
            (1, 30, 30, 40, 20, 90.0, "Open"),
            (1, 76, 30, 40, 20, 80.0, "now"),
            (2, 30, 90, 5, 20, 20.0, "x"),
            (3, 30, 130, 60, 22, 95.5, "bread"),
        ]
        text = "".join(f"5\t1\t1\t1\t{n}\t1\t{x}\t{y}\t{w}\t{h}\t{c}\t{t}\n" for n, x, y, w, h, c, t in rows)
        (tmp_path / "table").write_text(TSV + text)
        monkeypatch.setenv("TABLE", str(tmp_path / "table"))
        stage = ocr_stage.build(OcrConfig(tesseract=stand_in()), CONTEXT)
        (outcome,) = stage.process([item(png((200, 200)))])
        assert outcome.columns["ocr_text"] == ["Open now", "bread"]
        assert outcome.columns["ocr_confidence"] == [pytest.approx(0.8571, abs=1e-4), 0.955]
        assert outcome.columns["ocr_boxes"] == [[10, 10, 96, 30], [10, 110, 70, 132]]

    def test_writing_far_from_the_good_size_is_read_again(self, stand_in, tmp_path, monkeypatch):
        (tmp_path / "table").write_text(TSV + "5\t1\t1\t1\t1\t1\t30\t30\t300\t90\t90\tHUGE\n")
        monkeypatch.setenv("TABLE", str(tmp_path / "table"))
        log = tmp_path / "sizes"
        work = f"open({str(log)!r}, 'a').write('.'); print(open(os.environ['TABLE']).read())"
        config = stand_in(work)
        read_text(Image.new("RGB", (500, 200), "white"), find_tesseract(["eng"], program=config.program), config, least_confidence=0.5)
        assert log.read_text() == ".."


@pytest.mark.parametrize(("options", "why"), [
    ({"backend": "server"}, "needs a table `server`"),
    ({"backend": "tesseract", "server": SERVER}, 'belongs to backend = "server", found backend = "tesseract"'),
])  # fmt: skip
def test_a_vision_model_is_configured_if_and_only_if_it_is_chosen(options, why):
    with pytest.raises(ValueError, match=why):
        OcrConfig(**options)


class Eyes:
    """A vision model that answers what it is told."""

    def __init__(self, answers):
        self.answers = list(answers)

    def describe(self, images, instruction, *, schema=None):
        return [self.answers.pop(0) for _ in images]


def test_a_vision_model_reads_and_its_failures_stay_with_their_picture(monkeypatch):
    answers = ['{"lines": ["OPEN 24h", "营业中"]}', "no idea", VisionError(VisionReason.TIMEOUT, "30 s")]
    monkeypatch.setattr(ocr_stage, "build_vision", lambda config: Eyes(answers))
    stage = ocr_stage.build(OcrConfig(backend="server", server=SERVER, batch_size=4), CONTEXT)
    assert stage.actor
    assert "eyes" in stage.code

    def gone():
        raise Refuse(ReasonCode.SOURCE_CHANGED)

    stage.setup()
    first, lost, second, third = stage.process([item(png()), Item("b", {}, gone), item(png()), item(png())])
    assert first.columns == {"ocr_text": ["OPEN 24h", "营业中"], "ocr_confidence": [1.0, 1.0]}
    assert isinstance(lost, Refuse)
    assert second.columns["ocr_error"].startswith("garbage: ")
    assert third == Kept({"ocr_error": "timeout: 30 s"})


def test_signs_of_shapebench_are_read_exactly():
    scene = Scene("bench", (), (240, 240, 240), sign=Sign(ALPHABET[:2], "top", (0.5, PROFILES["bench"].cells["top centre"][1])))
    stage = ocr_stage.build(OcrConfig(backend="shapes"), CONTEXT)
    (outcome,) = stage.process([item(encode_png(render([scene], 64)[0]))])
    assert outcome.columns == {"ocr_text": [ALPHABET[:2]], "ocr_confidence": [1.0]}
    (outcome,) = stage.process([item(b"no picture")])
    assert "ocr_text" not in outcome.columns
    assert os.path.sep not in outcome.columns["ocr_error"]
