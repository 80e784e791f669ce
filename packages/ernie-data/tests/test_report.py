"""The report page: it says what the build says, loads nothing, lets nothing through unescaped, and is the same every time."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from ernie_core.api import App, ConfigError, DataError
from ernie_data.cli import main
from ernie_data.reading.dataset import open_dataset
from ernie_data.report.charts import histogram, number
from ernie_data.report.command import _says_nothing_of_its_text
from ernie_data.report.content import make_content
from ernie_data.report.facts import gather, groups_of
from ernie_data.report.flow import flow
from ernie_data.report.sampled import sample_law
from ernie_data.report.samples import extreme_rows, thumbnail
from ernie_data.sampling.config import SamplingConfig

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects elements and text; fails on elements that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def write(told, out, *more):
    assert main(["report", str(told), "--out", str(out), *map(str, more)], App()) == 0
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(told, tmp_path_factory):
    return write(told, tmp_path_factory.mktemp("report") / "report.html")


def test_the_counts_sum(html, capsys):
    text = Page(html).text
    assert "25 = 20 accepted + 5 rejected" in text
    assert "decode › not_a_picture 1 of 25" in text
    assert "duplicates › duplicate 2 of 25" in text
    assert "select › not_selected 2 of 25" in text
    assert "not read: .md 1" in text


def test_the_page_loads_nothing_and_says_so(html):
    page = Page(html)
    assert set(page.tags) & {"script", "link", "iframe", "object", "form", "base"} == set()
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name in ("src", "href"):
            assert re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$|#[a-z]+$", value)
    policy = dict(page.attributes)["http-equiv"], next(v for n, v in page.attributes if n == "content" and "default-src" in v)
    assert policy[0] == "Content-Security-Policy"
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy[1]
    assert "url(" not in html
    assert "@import" not in html


def test_names_and_captions_are_escaped(html):
    assert "<script>" not in html
    assert "caption 3 &lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "common &lt;b&gt;" in html


def test_both_themes_are_styled(html):
    assert "prefers-color-scheme:dark" in html
    assert "width=device-width" in html


def test_equal_builds_give_equal_bytes(html, told, build_told, tmp_path):
    assert write(told, tmp_path / "again.html") == html
    build_told(tmp_path / "told")
    assert write(tmp_path / "told", tmp_path / "other.html") == html


def test_duplicates_stand_beside_what_they_lost_to(html, told):
    dataset = open_dataset(told)
    assert groups_of(gather(dataset).duplicates, dataset) == {"folder/pic 05.png": ["folder/pic 07.png", "folder/pic 09.png"]}
    assert "2 records lost to 1 that were kept. Sizes of the groups: 1 of 3." in Page(html).text


def test_captions_that_agree_least_are_shown_with_both_texts(html):
    text = Page(html).text
    assert re.search(r"caption_agreement 0\.25 came with caption 3 <script>.* reads now seen 3 record folder/pic 03\.png accepted", text)


def test_numbers_and_extremes_are_those_of_the_records(told):
    content = make_content(open_dataset(told), SamplingConfig())
    facts = content.facts
    assert facts.accepted == 20
    assert sorted(facts.score_N * 40) == pytest.approx([n for n in range(2, 24) if n not in (7, 9)])
    assert (facts.captioned, facts.lettered) == (20, 2)
    assert sorted(facts.lengths["text"])[-1] == len("caption 11 <script>alert(1)</script>")
    galleries = {gallery.title: gallery.keys for gallery in content.galleries}
    assert galleries["Highest scores"][:2] == ["folder/pic 23.png", "folder/pic 22.png"]
    assert galleries["Lowest scores"][0] == "folder/pic 02.png"
    assert len(set(galleries["Random"])) == 20
    assert all(content.samples[key].uri for keys in galleries.values() for key in keys)


def test_rare_categories_gain_what_sampling_gives_them(told):
    facts = gather(open_dataset(told))
    sampled = sample_law(facts, SamplingConfig(alpha=0.0, tau_c=float("inf")))
    share = dict(zip(sampled.categories, sampled.drawn_K))
    assert share == pytest.approx({"common <b>": 0.5, "rare": 0.5})
    assert dict(zip(sampled.categories, sampled.found_K)) == pytest.approx({"common <b>": 0.9, "rare": 0.1})
    assert sampled.expected_N.sum() == pytest.approx(20)
    natural = sample_law(facts, SamplingConfig(strategy="uniform-image", draws=60))
    assert natural.expected_N == pytest.approx(np.full(20, 3.0))
    assert natural.effective_drawn == pytest.approx(natural.effective_found)


def test_a_sampling_config_and_draws_are_taken(told, tmp_path, html):
    (tmp_path / "sampling.toml").write_text("alpha = 0.0\n")
    changed = Page(write(told, tmp_path / "r.html", "--config", tmp_path / "sampling.toml", "--draws", 40)).text
    assert "hierarchical, alpha 0, tau_c 2" in changed
    assert "at most 4 times each over 40 draws" in changed
    with pytest.raises(ConfigError, match="feasible"):
        main(["report", str(told), "--out", str(tmp_path / "x.html"), "--draws", "1000"], App())


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_builds_without_some_columns_have_a_report_too(build_told, tmp_path, stages):
    build_told(tmp_path / "out", stages=stages)
    text = Page(write(tmp_path / "out", tmp_path / "out" / "report.html")).text
    assert f"25 = {25 if stages == 1 else 24} accepted + {0 if stages == 1 else 1} rejected" in text
    assert ("Scores" in text) == (stages > 3)


def test_an_unfinished_build_says_that_it_is_not_finished(build_told, told, tmp_path):
    build_told(tmp_path / "out", stages=3)
    shutil.copy(told / "plan.json", tmp_path / "out" / "plan.json")
    text = Page(write(tmp_path / "out", tmp_path / "r.html")).text
    assert "This build is not finished: 0 of" in text
    assert "25 = 24 accepted + 1 rejected" in text


def test_truth_gives_precision_and_recall(told, tmp_path, capsys):
    def row(n, defect=None, original=None):
        return {"file_name": f"pic {n:02d}.png", "defect": defect, "original": original}

    special = {3: row(3, "wrong_caption"), 4: row(4, "wrong_caption"), 7: row(7, "duplicate", "pic 05.png"), 14: row(14, "missing_text")}
    rows = [special.get(n, row(n)) for n in range(24)] + [{"file_name": "bad 24.png", "defect": "corrupt", "original": None}]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = Page(write(told, tmp_path / "r.html", "--truth", tmp_path / "truth.jsonl")).text
    assert re.search(r"corrupt 1 1 0 0 1\.000", text)
    assert re.search(r"duplicates 1 1 0 1 0\.500", text), "picture 9 was refused as well, and is no copy"
    assert re.search(r"wrong_caption 2 1 1 0 1\.000", text)
    assert re.search(r"missing_text 1 1 0 0 1\.000", text)
    assert "  duplicates: precision 0.500 [0.095, 0.905], recall 1.000" in capsys.readouterr().out


def test_a_folder_that_is_no_build_is_refused(tmp_path):
    with pytest.raises(DataError, match="no build output"):
        main(["report", str(tmp_path)], App())
    assert list(tmp_path.iterdir()) == []


# ---- parts ----


def test_thumbnails_keep_small_pictures_and_shrink_large_ones():
    from ernie_data.shapes.writer import encode_png

    uri, pixelated, size = thumbnail(encode_png(np.zeros((20, 30, 3), np.uint8)))
    assert uri.startswith("data:image/png;base64,")
    assert (pixelated, size) == (True, (30, 20))
    uri, pixelated, size = thumbnail(encode_png(np.zeros((400, 600, 3), np.uint8)))
    assert uri.startswith("data:image/jpeg;base64,")
    assert (pixelated, size) == (False, (600, 400))
    assert thumbnail(b"<html>") == ("", False, (0, 0))


def test_charts_escape_and_survive_odd_values():
    Page(flow([("<a>", 0, 0, {}), ("b", 3, 1, {"<r>": 2})], 3))
    assert "<r>" not in flow([("b", 3, 1, {"<r>": 2})], 3)
    Page(flow([], 0))
    nan = np.array([np.nan, np.nan])
    assert histogram("x", nan) == ""
    assert "for all 2" in histogram("x", np.array([1.0, 1.0]))
    assert "1 without" in histogram("<x>", np.array([1.0, 2.5, np.nan]))
    Page(histogram("<x>", np.array([-1.0, 2.5, 1e12]), log=True))
    assert (number(1234567.8), number(0.12345), number(3.0), number(-0.5)) == ("1,234,568", "0.123", "3", "-0.5")


def test_extremes_leave_out_what_has_no_value():
    values = np.array([2.0, np.nan, 5.0, 2.0])
    assert extreme_rows(values, most=2, highest=True) == [2, 0]
    assert extreme_rows(values, most=9, highest=False) == [0, 3, 2]


@pytest.mark.parametrize(
    ("captions", "texts", "silent"),
    [
        ("a sign", ["STOP"], True),
        ('a sign that says "SLOP"', ["STOP"], False),  # read wrongly, but told
        ("a stop sign", ["STOP"], False),
        ("a sign", [], False),
        ("a sign", [" "], False),
    ],
)
def test_captions_say_nothing_of_a_text_if_they_quote_none(captions, texts, silent):
    assert _says_nothing_of_its_text({"source_captions": {"text": captions}, "ocr_text": texts}) is silent
