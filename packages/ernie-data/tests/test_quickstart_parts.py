"""The quickstart's questions, scores, plan, charts, sheets and report, on real renders: everything but the training."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ernie_core.api import DataError, RunFolderError, Stage
from ernie_core.rng import Rng
from ernie_data.quickstart.curves import line_chart, ticks
from ernie_data.quickstart.evaluate import Result, curves, progress_pictures
from ernie_data.quickstart.judging import answers, by_triple, held_out_questions, scores, seen_questions
from ernie_data.quickstart.plan import MIN_STEPS, Plan, measured_seconds_per_step, plan_for_minutes, read_plan, write_plan
from ernie_data.quickstart.report import ReportContent, report_html
from ernie_data.quickstart.sheets import png, sample_sheet, seen_in_words, verdict_sheet
from ernie_data.shapes.profile import PROFILES
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import place

QUICK = PROFILES["quick"]
RECIPE = (Stage(size_px=16, steps=800, batch_size=64), Stage(size_px=24, steps=1600, batch_size=32))


def perfect(questions, size_px=24):
    """Pictures of a model that makes no mistake."""
    draws = Rng(0).at("test", 0)
    return render([place(QUICK, [q.triple], draws.generator(i)) for i, q in enumerate(questions)], size_px)


@pytest.fixture(scope="module")
def held_out():
    questions = held_out_questions(QUICK)
    return answers(questions, perfect(questions), QUICK)


# ---- questions and scores ----


def test_held_out_questions_are_16_triples_in_8_captions_with_4_noises():
    questions = held_out_questions(QUICK, seed=100)
    assert len(questions) == 512
    assert {q.triple for q in questions} == set(QUICK.held_out())
    assert len({(q.triple, q.prompt) for q in questions}) == 16 * 8
    assert len({(q.prompt, q.noise) for q in questions}) == 512
    assert [q.seed for q in questions] == list(range(100, 612)), "every picture starts from noise of its own"


def test_seen_questions_are_16_evenly_spread_triples_of_the_training_set():
    questions = seen_questions(QUICK)
    triples = {q.triple for q in questions}
    assert len(questions) == 128
    assert len(triples) == 16
    assert not triples & set(QUICK.held_out())
    for values in (QUICK.shapes, QUICK.colours, QUICK.cells):
        assert {v for v in values if any(v in t for t in triples)} == set(values)


def test_a_model_without_mistakes_scores_one(held_out):
    result = scores(held_out)
    assert {tag: i.value for tag, i in result.items()} == {"colour": 1.0, "shape": 1.0, "position": 1.0, "all": 1.0}
    assert all((i.n, i.clusters) == (512, 16) and 0.95 < i.low < 1 for i in result.values())


def test_a_model_that_ignores_the_prompt_scores_near_chance():
    questions = held_out_questions(QUICK)
    pictures = perfect(questions)[np.random.default_rng(0).permutation(512)]
    result = scores(answers(questions, pictures, QUICK))
    assert 0.1 < result["colour"].value < 0.3  # purple, orange and green are not equally frequent among the held-out triples
    assert 0.15 < result["shape"].value < 0.35
    assert 0.15 < result["position"].value < 0.35
    assert result["all"].value < 0.15


def test_each_tag_counts_for_itself(held_out):
    questions = held_out_questions(QUICK)
    other = [q.triple._replace(colour="red" if q.triple.colour != "red" else "blue") for q in questions]
    draws = Rng(1).at("test", 0)
    pictures = render([place(QUICK, [t], draws.generator(i)) for i, t in enumerate(other)], 24)
    result = scores(answers(questions, pictures, QUICK))
    assert [result[tag].value for tag in ("colour", "shape", "position", "all")] == [0.0, 1.0, 1.0, 0.0]


def test_blank_pictures_are_wrong_on_all_tags():
    questions = held_out_questions(QUICK)[:32]
    judged = answers(questions, np.full((32, 24, 24, 3), 240, np.uint8), QUICK)
    assert all(i.value == 0 for i in scores(judged).values())
    assert seen_in_words(judged[0].seen) == "no object"


def test_shares_by_triple_keep_the_order_of_the_questions(held_out):
    table = by_triple(held_out)
    assert list(table) == list(QUICK.held_out())
    assert all(shares == {"colour": 1.0, "shape": 1.0, "position": 1.0} for shares in table.values())


# ---- plan ----


def test_minutes_become_steps_in_the_recipes_proportion():
    # 800 x .1 s + 1600 x .2 s = 400 s; five minutes are three quarters of that.
    plan = plan_for_minutes(5, recipe=RECIPE, seconds_per_step=(0.1, 0.2))
    assert plan.steps == (600, 1200)
    assert [(s.size_px, s.steps, s.batch_size) for s in plan.stages(RECIPE)] == [(16, 600, 64), (24, 1200, 32)]
    assert plan_for_minutes(0.01, recipe=RECIPE, seconds_per_step=(0.1, 0.2)).steps == (MIN_STEPS, MIN_STEPS)


def test_speed_is_the_median_of_each_stage_without_its_first_line(tmp_path):
    trial = (Stage(size_px=16, steps=12, batch_size=64), Stage(size_px=24, steps=12, batch_size=32))
    speeds = [(4, 10), (8, 640), (12, 620), (16, 10), (20, 160), (24, 160)]
    lines = [json.dumps({"step": s, "images_per_s": v}) for s, v in speeds] + [json.dumps({"step": 24, "validation/loss": 1.0})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert measured_seconds_per_step(tmp_path / "metrics.jsonl", trial=trial) == (pytest.approx(64 / 630), pytest.approx(0.2))
    with pytest.raises(DataError, match="no speed was measured for the stage of 24 px"):
        measured_seconds_per_step(tmp_path / "metrics.jsonl", trial=(trial[0], Stage(size_px=24, steps=4, batch_size=32)))


def test_a_plan_is_read_back_and_another_number_of_minutes_is_refused(tmp_path):
    assert read_plan(tmp_path, minutes=3) is None
    plan = Plan((600, 1200), 5.0, (0.1, 0.2))
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path, minutes=None) == plan
    assert read_plan(tmp_path, minutes=5) == plan
    with pytest.raises(
        RunFolderError, match=r"was begun with 5 minutes, now --minutes 8\. Leave --minutes out to go on, or choose another --out"
    ):
        read_plan(tmp_path, minutes=8)
    write_plan(tmp_path, Plan((1, 2)))
    with pytest.raises(RunFolderError, match="was begun with the recipe's number of steps, now --minutes 8"):
        read_plan(tmp_path, minutes=8)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(DataError, match=r"plan\.json: not a plan of `ernie quickstart`"):
        read_plan(tmp_path, minutes=None)


# ---- charts ----


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.13, 0.17), (-3, 250), (0, 2400), (1e-7, 3e-7), (999.5, 1000.5)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    step = found[1] - found[0]
    assert float(f"{step:.0e}") == pytest.approx(step, rel=1e-6)


def test_a_chart_is_well_formed_and_escaped_and_skips_what_is_not_finite():
    lines = {"<b>&": [(1, 2.0), (2, float("nan")), (3, 1.0), (4, float("inf"))], "flat": [(0, 5), (9, 5)], "empty": []}
    svg = line_chart('loss "x" <script>', lines)
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'loss "x" <script>'
    assert "nan" not in svg
    assert "inf" not in svg
    assert len(root.findall("{*}path[@stroke]")) == 2
    ElementTree.fromstring(line_chart("nothing", {"a": []}))
    assert "no data" in line_chart("nothing", {"a": []})


def test_curves_come_from_the_runs_log(tmp_path):
    rows = [{"step": 10, "loss": 1.5, "images_per_s": 100.0}, {"step": 10, "validation/loss": 1.2}, {"step": 20, "loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 30, "lo')
    found = curves(tmp_path / "metrics.jsonl")
    assert found["loss"] == {"training": [(10, 1.5), (20, 1.0)], "validation": [(10, 1.2)]}
    assert curves(tmp_path / "none.jsonl")["loss"] == {"training": [], "validation": []}


# ---- sheets and report ----


def test_sheets_show_every_picture(held_out):
    sheet = sample_sheet(held_out, tile_px=48)
    assert sheet.shape == (16 * 52 + 4, 170 + 8 * 52, 3)
    first = sheet[4:52, 170:218]
    assert np.array_equal(first[::2, ::2], held_out[0].pixels_HW3)
    assert verdict_sheet(held_out[:7], columns=3).shape == (3 * 164, 3 * 230, 3)


class Page(HTMLParser):
    """Collects what a page would load, and checks that tags are closed."""

    VOID = ("meta", "img", "br", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources, self.text, self.open, self.tags = [], [], [], set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "background", "poster")]
        assert not any(name.startswith("on") for name, _ in attrs), "an event handler"

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def content(held_out, **changes) -> ReportContent:
    seen = seen_questions(QUICK)
    seen_answers = answers(seen, perfect(seen), QUICK)
    values = {
        "held_out": held_out,
        "seen": seen_answers,
        "scores": scores(held_out),
        "seen_scores": scores(seen_answers),
        "curves": {"loss": {"training": [(10, 1.5), (20, 1.0)]}},
        "progress": [(400, png(held_out[0].pixels_HW3))],
        "facts": {"device": "cpu"},
        "commands": ["ernie sample --checkpoint x"],
    }
    return ReportContent(**(values | changes))


def test_the_report_is_self_contained_and_shows_scores_pictures_and_curves(held_out):
    text = report_html(content(held_out))
    page = Page(text)
    assert page.open == []
    assert page.sources
    assert all(s.startswith("data:image/png;base64,") for s in page.sources)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)
    assert "default-src &#x27;none&#x27;" in text
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    words = " ".join(page.text)
    low = scores(held_out)["shape"].low
    assert f"[{low:.1%}, 100.0%]" in words
    assert held_out[0].question.prompt in words
    assert "step 400" in words
    assert "512 held-out pictures of 16 triples, 128 of seen ones" in words
    assert len(text) < 2_000_000


def test_texts_from_outside_are_escaped_in_the_report(held_out):
    import dataclasses

    evil = "<script>alert(1)</script>\"'&"
    question = dataclasses.replace(held_out[0].question, prompt=evil)
    wrong = dataclasses.replace(held_out[0], question=question, verdict=dataclasses.replace(held_out[0].verdict, shape=False))
    page_text = report_html(
        content([wrong, *held_out[1:]], facts={evil: evil}, commands=[evil], curves={evil: {evil: [(1, 1.0), (2, 2.0)]}})
    )
    page = Page(page_text)
    assert "script" not in page.tags
    assert page_text.count("&lt;script&gt;") >= 5
    assert "1 of 512; the first 1:" in page_text


def test_results_are_written_with_the_promised_keys(held_out, tmp_path):
    seen = seen_questions(QUICK)
    seen_answers = answers(seen, perfect(seen), QUICK)
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "samples" / "step-00000400.png").write_bytes(png(held_out[0].pixels_HW3))
    result = Result(
        held_out,
        seen_answers,
        scores(held_out),
        scores(seen_answers),
        Plan((2, 3)),
        tmp_path / "run",
        "quick",
        {"device": "cpu"},
        {"steps": 16},
    )
    result.write(tmp_path, minutes=7.5)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["minutes"] == 7.5
    assert metrics["steps"] == [2, 3]
    for tag in ("colour", "shape", "position"):
        assert set(metrics["shapebench"][tag]) >= {"value", "low", "high", "n"}
        assert metrics["shapebench"][tag]["n"] == 512
    assert progress_pictures(tmp_path / "run" / "samples") == [(400, png(held_out[0].pixels_HW3))]
    assert {p.name for p in tmp_path.iterdir()} == {"run", "metrics.json", "samples.png", "verdicts.png", "report.html"}
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    summary = "\n".join(result.summary())
    assert "right on held-out prompts (512 pictures of 16 unseen triples):" in summary
    assert "colour   100.0%" in summary
    assert result.commands(Path("my dir"))[0].startswith("ernie sample --checkpoint 'my dir/checkpoint'")
