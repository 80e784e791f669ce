"""The page of a distillation: what it must show, what it must escape, and that the same folder gives the same bytes."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from ernie_core.api import DataError, RunFolderError
from ernie_core.cli.main import main as ernie
from ernie_core.evaluation.read import read_finished
from ernie_distill import telemetry as names
from ernie_distill.drift.assess import Question, assess
from ernie_distill.report.gates import gates_section, read_gates
from ernie_distill.report.page import report_html
from ernie_distill.report.side_by_side import read_sides
from ernie_distill.report.story import read_drift, read_story

from .eval_folders import make_eval, prompt

CONFIG = """method = { use = "mt-dmd", steps = 8, fake_steps = 5, normaliser = "per-term", gate = { use = "product" }, guidance = { scale = 4.0 }, \
teachers = [{ name = "generalist" }, { name = "te<b>xt", path = "runs/text", domains = ["text"] }] }
stages = [{ size_px = 16, steps = 600, batch_size = 4 }]
[samples]
prompts = ["red", "<script>alert(1)</script>"]
"""
V = names.VALIDATION


def rows(count=100, saturation=1.0, ratio=1.5):
    for k in range(1, count + 1):
        step = 6 * k
        turn = {names.MATCH_NORM: 0.2, names.GUIDANCE_NORM: 0.3, names.RATIO: ratio, names.MATCH_SCALE: 0.4, names.GUIDANCE_SCALE: 0.5}
        seen = {names.STUDENT_STD: 0.8, names.REWARD: 0.01 * k}
        loads = {
            f"gate/dm/{teacher}{part}": value for teacher, value in (("generalist", 0.75), ("te<b>xt", 0.25)) for part in ("", "/po<i>em")
        }
        loads |= {f"gate/ca/generalist/sigma-{d}": d / 10 for d in range(10)}
        yield {"step": step, "loss": 0.5, names.FAKE_LOSS: 0.6} | turn | seen | loads
        if k % 10 == 0:
            yield {"step": step, V + names.SATURATION: saturation, V + names.DIVERSITY: 0.9}


def run_folder(folder, found, config=CONFIG):
    folder.mkdir()
    (folder / "config.toml").write_text(config, encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return folder


@pytest.fixture
def healthy(tmp_path):
    return run_folder(tmp_path / "a <b>run", rows())


@pytest.fixture(scope="module")
def evals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evals")
    prompts = [prompt(f"p{i}", ("text", "a<u>rt")[i % 2], text=f"prompt <em>{i}</em>") for i in range(6)]
    make_eval(folder / "teacher", prompts, [[0.8]] * 6, steps=50, guidance_scale=4.0)
    make_eval(folder / "student", prompts, [[0.7], [0.5]] * 3)
    make_eval(folder / "other", prompts, [[0.7]] * 6, seed=1)
    found = assess(Question(read_finished(folder / "student"), read_finished(folder / "teacher"), resamples=200))
    (folder / "drift.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def page_of(run, *, drift=None, sides=None):
    return report_html(read_story(run), None if drift is None else read_drift(drift), sides)


def test_a_healthy_run_is_told_with_its_figures_and_without_an_alarm(healthy):
    page = page_of(healthy)
    assert '<p class="calm">None.</p>' in page
    assert '<div class="tile good"><b>1</b><span>saturation; the teacher&#x27;s is 1</span>' in page
    assert '<div class="tile good"><b>1.5</b><span>guidance over matching' in page
    for words in (
        "The fake score's loss".replace("'", "&#x27;"),
        "Guidance over matching",
        "Gradients",
        "Normalisers",
        "Diversity",
        "Reward",
        "scale 4",
        "runs/text",
    ):
        assert words in page, words
    assert "Capability drift" not in page
    assert "Teacher and student" not in page


def test_a_collapse_is_told_with_what_stands_from_before_it(tmp_path):
    found = [*rows(), *({**one, "step": one["step"] + 600} for one in rows(saturation=2.0))]
    run = run_folder(tmp_path / "run", found)
    (run / "ledger.jsonl").write_text('{"event": "stopped", "step": 960, "reason": "<img src=x>"}\n', encoding="utf-8")
    for step in (300, 900):
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    page = page_of(run)
    assert "step 960 to 1,200: saturation" in page
    assert "Checkpoints from before it began: step 300." in page
    assert 'class="span"' in page
    assert "&lt;img src=x&gt;" in page
    assert '<div class="tile bad"><b>2</b>' in page


def test_alarms_that_were_turned_off_are_still_told(tmp_path):
    page = page_of(run_folder(tmp_path / "off", rows(200, ratio=500.0), CONFIG.replace("steps = 8,", "steps = 8, alarms = false,")))
    assert "Alarms were turned off in this run" in page
    assert "spear-without-shield" in page


def test_gate_loads_stand_by_domain_and_by_noise_level(healthy):
    story = read_story(healthy)
    found = gates_section(story.rows)
    tables = re.findall(r"<table.*?</table>", found)
    assert len(tables) == 2
    assert "Matching (DM) by domain" in tables[0]
    assert re.findall(r'<td class="n"[^>]*>([\d.]+)</td>', tables[0]) == ["0.75", "0.75", "0.25", "0.25"]
    assert "po&lt;i&gt;em" in tables[0]
    assert "Guidance (CA) by noise level" in tables[1]
    assert gates_section([{"step": 1, "loss": 1.0}]) == ""


def test_names_of_gate_loads_are_read_apart():
    found = list(
        read_gates({"gate/dm/art": 0.5, "gate/ca/art/a/b": 0.25, "gate/ca/art/sigma-3": 0.1, "gate/x": 1.0, "loss": 1.0, "gate/dm/b": None})
    )
    assert found == [("dm", "art", "", 0.5), ("ca", "art", "a/b", 0.25), ("ca", "art", "sigma-3", 0.1)]


def test_drift_stands_with_its_intervals_and_worst_prompts(healthy, evals):
    page = page_of(healthy, drift=evals / "drift.json")
    assert "a&lt;u&gt;rt" in page
    assert "0.625 [0.625, 0.625]" in page
    assert "drift against the best teachers" in page
    assert "<b>37.5%</b><span>drift: lost in the worst domain" in page
    assert "prompt &lt;em&gt;1&lt;/em&gt;" in page
    assert "no --floor was given: the floor is 0." in page


def test_pictures_stand_side_by_side_with_the_worst_ones_apart(healthy, evals):
    page = page_of(healthy, sides=read_sides(evals / "teacher", evals / "student", worst=["p1", "gone"]))
    assert page.count('alt="teacher"') == page.count('alt="student"') == 6
    assert "Left the teacher (50 steps, guidance 4), right the student (8 steps, no guidance)" in page
    last = page.split("Where the student falls furthest behind")[1]
    assert last.count('alt="student"') == 1
    assert "prompt &lt;em&gt;1&lt;/em&gt;" in last
    assert "right 0.8 and 0.5" in last


def test_large_pictures_become_small_ones(tmp_path, healthy):
    def noise(score, number, seed):
        return np.random.default_rng(seed).integers(0, 256, (500, 500, 3), dtype=np.uint8)

    one = make_eval(tmp_path / "large", [prompt("a", "t")], [[0.5]], draw=noise)
    page = page_of(healthy, sides=read_sides(one, one))
    assert page.count("data:image/jpeg") == 2
    assert len(page) < 300_000


def test_everything_from_outside_is_escaped_and_nothing_is_loaded(healthy, evals):
    page = page_of(healthy, drift=evals / "drift.json", sides=read_sides(evals / "teacher", evals / "student", worst=["p1"]))
    for tag in ("<script", "<b>run", "<b>xt", "<i>em", "<u>rt", "<em>"):
        assert tag not in page, tag
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "default-src &#x27;none&#x27;" in page
    for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(found)
    ET.fromstring(re.sub(r"<(meta|img)([^>]*)>", r"<\1\2/>", page.removeprefix("<!DOCTYPE html>\n")))  # every element is closed


def test_the_same_folder_gives_the_same_bytes(healthy, evals, tmp_path, capsys):
    more = ["--drift", evals / "drift.json", "--teacher-pictures", evals / "teacher", "--student-pictures", evals / "student"]
    for name in ("one.html", "two.html"):
        assert ernie(["distill", "report", *map(str, [healthy, *more, "--out", tmp_path / name])]) == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert "110 rows to step 600, 0 alarms" in capsys.readouterr().out
    assert ernie(["distill", "report", str(healthy)]) == 0
    assert (healthy / "report.html").is_file()


def test_a_run_that_has_logged_nothing_has_a_page(tmp_path):
    assert "Nothing was logged yet" in page_of(run_folder(tmp_path / "new", []))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no run, as its config.toml cannot be read"),
        ('method = { use = "dpo" }', "a run of the method 'dpo'; this report is about distillation, method 'mt-dmd'"),
        ('method = { use = "mt-dmd", alarms = { fake_ratio = 0.5 } }', "method.alarms: fake_ratio = 0.5"),
    ],
)
def test_what_is_no_run_of_distillation_is_refused(tmp_path, config, words):
    run = tmp_path / "run"
    run.mkdir()
    if config is not None:
        (run / "config.toml").write_text(config, encoding="utf-8")
    with pytest.raises(RunFolderError) as refused:
        read_story(run)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "damaged"),
        ("[1]", "format None, expected 1"),
        ('{"format": 2}', "format 2, expected 1"),
        ('{"format": 1, "domains": {"x": 3}}', "damaged ("),
        ('{"format": 1, "worst_prompts": 7}', "damaged ("),
    ],
)
def test_a_damaged_drift_file_is_refused(healthy, evals, tmp_path, capsys, text, words):
    if text is not None:
        (tmp_path / "d.json").write_text(text, encoding="utf-8")
    sides = ["--teacher-pictures", evals / "teacher", "--student-pictures", evals / "student"]
    assert ernie(["distill", "report", *map(str, [healthy, "--drift", tmp_path / "d.json", *sides])]) == 2
    assert words in capsys.readouterr().err


def test_pictures_of_one_side_alone_or_from_other_noise_are_refused(healthy, evals, capsys):
    assert ernie(["distill", "report", str(healthy), "--teacher-pictures", str(evals / "teacher")]) == 2
    assert "give both, or neither" in capsys.readouterr().err
    with pytest.raises(DataError, match="cannot be shown side by side: seed: 0 and 1"):
        read_sides(evals / "teacher", evals / "other")
