"""The page of a run: what it must show, what it must escape, and that the same folder gives the same bytes."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from ernie_align import telemetry
from ernie_align.cli import main
from ernie_align.report.page import report_html
from ernie_align.report.story import read_story
from ernie_align.report.strengths import content_margin
from ernie_core.api import App, RunFolderError, from_plain
from ernie_core.sampling.pictures import write_png
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_core.train.start import train

CONFIG = """method = { use = "dpo", loss = { use = "anchored-dpo", beta = 0.05, dpo_reduction = "sum", anchor_reduction = "mean", anchor_win = 0.35, \
anchor_lose = 0.15 }, adapter = { rank = 2 }, reference = { mode = "adapter-off" } }
stages = [{ size_px = 16, steps = 200, batch_size = 4 }]
[samples]
prompts = ["red", "<script>alert(1)</script>"]
"""


def row(step, win, lose):
    margin = 0.5 * (lose - 1) - 0.4 * (win - 1)
    errors = {"policy_win": 0.4 * win, "reference_win": 0.4, "policy_lose": 0.5 * lose, "reference_lose": 0.5}
    more = {
        "margin": margin,
        "margin_squared": margin**2 + 0.01,
        "implicit_accuracy": 1.0,
        "saturation": 0.1,
        "loser_coefficient": -3.7,
        "beta_eff": 38.4,
    }
    return {"step": step, "loss": 0.8} | {f"dpo/{name}": value for name, value in (errors | more).items()}


def held_out(step):
    drift = {telemetry.VALIDATION + telemetry.DRIFT.format(d): 0.001 * step * (d + 1) for d in range(10)}
    return {"step": step, "validation/loss": 0.4, "validation/dpo/margin": 0.1, "validation/dpo/implicit_accuracy": 0.7} | drift


def run_folder(folder, rows, config=CONFIG):
    folder.mkdir()
    (folder / "config.toml").write_text(config, encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return folder


@pytest.fixture
def healthy(tmp_path):
    rows = [one for k in range(1, 21) for one in (row(10 * k, 1 - 0.02 * k, 1 + 0.05 * k), *([held_out(10 * k)] if k % 5 == 0 else []))]
    return run_folder(tmp_path / "a <b>run", rows)


@pytest.fixture
def collapsed(tmp_path):
    run = run_folder(tmp_path / "collapsed", [row(10 * k, 1 + 0.1 * max(0, k - 10), 1 + k) for k in range(1, 21)])
    (run / "ledger.jsonl").write_text('{"event": "stopped", "step": 110, "reason": "<img src=x>"}\n{"torn', encoding="utf-8")
    for step in (40, 80, 120):
        (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    return run


def page_of(run):
    return report_html(read_story(run))


def test_a_healthy_run_is_told_with_its_strengths_and_without_an_alarm(healthy):
    page = page_of(healthy)
    assert '<p class="calm">None.</p>' in page
    strengths = ("anchored-dpo", "38.4 in errors of the anchors", "0.144 in mean errors", "mode adapter-off", "anchor_win")
    for words in (*strengths, "Margin", "Saturation", "Drift by noise level"):
        assert words in page
    assert "0.640" not in page
    assert ">0.64<" in page  # mean of the last five ratios 0.68 to 0.60
    assert ">M*</text>" in page


def test_pairs_are_called_held_out_only_where_validation_has_data_of_its_own(healthy, tmp_path):
    page = page_of(healthy)
    assert "held-out" not in page.lower()
    assert page.count("these pairs are trained on as well") == 2
    own = CONFIG + '[validation]\ndata = { use = "pairs", path = "others" }\n'
    page = page_of(run_folder(tmp_path / "own", [row(10, 0.9, 1.1), held_out(10)], own))
    assert "<h2>Held-out pairs</h2>" in page
    assert "Flow loss on held-out chosen pictures" in page
    assert "trained on as well" not in page


def test_implicit_accuracy_never_stands_without_the_ratios(healthy):
    page = page_of(healthy)
    tiles = re.findall(r'<div class="tile[^>]*>(.*?)</div>', page)
    assert all("ratios 0.64 and 1.9" in tile for tile in tiles if "accuracy" in tile)
    figures = re.findall(r"<figure class=\"chart\">.*?</figure>", page, re.DOTALL)
    with_accuracy = [one for one in figures if "implicit accuracy" in one]
    assert len(with_accuracy) == 2
    assert all("chosen / reference" in one for one in with_accuracy)


def test_a_collapse_is_told_with_what_stands_from_before_it(collapsed):
    page = page_of(collapsed)
    assert "step 110 to 200: both-rise" in page
    assert "Checkpoints from before it began: step 40, step 80." in page
    assert 'class="span"' in page
    assert "&lt;img src=x&gt;" in page


def test_alarms_that_were_turned_off_are_still_told(tmp_path, collapsed):
    off = CONFIG.replace("reference = {", "alarms = false, reference = {")
    page = page_of(run_folder(tmp_path / "off", [row(10 * k, 1.5, 2.0) for k in range(1, 8)], off))
    assert "Alarms were turned off in this run" in page
    assert "turned off" not in page_of(collapsed)


def test_everything_from_outside_is_escaped_and_nothing_is_loaded(healthy):
    page = page_of(healthy)
    assert "<script" not in page
    assert "&lt;b&gt;run" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "default-src &#x27;none&#x27;" in page
    for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(found)


def test_the_same_folder_gives_the_same_bytes(healthy, tmp_path, capsys):
    for name in ("one.html", "two.html"):
        assert main(["report", str(healthy), "--out", str(tmp_path / name)], App(plugins=False)) == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert "20 rows to step 200, 0 alarms" in capsys.readouterr().out


def test_some_grids_from_first_to_last_are_in_the_page_and_a_damaged_one_is_told(healthy):
    (healthy / "samples").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (600, 600, 3), dtype=np.uint8)
    for step in range(10, 201, 10):
        write_png(healthy / "samples" / f"step-{step:08d}.png", noise if step == 200 else noise[:16, :16])
    (healthy / "samples" / "step-00000010.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    page = page_of(healthy)
    assert re.findall(r"alt=\"samples at step (\d+)\"", page)[-1] == "200"
    assert "20 grids in all" in page
    assert "step-00000010.png cannot be read" in page
    assert page.count("data:image/jpeg") == 1
    assert "<li>&lt;script&gt;" in page


def test_a_run_that_has_logged_nothing_has_a_page(tmp_path):
    assert "Nothing was logged yet" in page_of(run_folder(tmp_path / "new", []))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "no run, as its config.toml cannot be read"),
        ("method = { use = ", "damaged"),
        ('method = { use = "sft" }', "a run of the method 'sft'"),
        ("", "a run of the method 'pretrain'"),
        ('method = { use = "dpo", alarms = { win_steps = 0 } }', "method.alarms"),
    ],
)
def test_what_is_no_run_of_dpo_is_refused(tmp_path, config, words):
    run = tmp_path / "run"
    run.mkdir()
    if config is not None:
        (run / "config.toml").write_text(config, encoding="utf-8")
    with pytest.raises(RunFolderError, match=words):
        read_story(run)


@pytest.mark.parametrize(
    ("loss", "effective", "words"),
    [
        ({"use": "anchored-dpo", "anchor_lose": 0.15, "anchor_reduction": "mean"}, [38.4, 86.4], "0.144, then 0.0735 in mean errors"),
        ({"use": "anchored-dpo", "anchor_lose": 0.15, "anchor_reduction": "mean"}, [0.05], "a weighted fine-tuning"),
        ({"use": "anchored-dpo", "anchor_lose": 0.15, "anchor_reduction": "sum"}, [1.0], "1.73 in summed errors"),
        ({"use": "hinge-anchors", "anchor_lose": 0.0, "anchor_reduction": "mean"}, [1.0], "repelled without end"),
        ({"use": "hinge-anchors", "anchor_lose": 0.15, "anchor_reduction": "mean"}, [0.05], "repelled until its error lies above the ref"),
        ({"use": "hinge-anchors", "anchor_lose": 0.15, "anchor_reduction": "sum"}, [0.05], "repelled until its error lies above the ref"),
        ({"use": "hinge-anchors", "anchor_lose": 0.15, "anchor_reduction": "mean"}, [1.0], "1.73 in mean errors, once the rejected error"),
        ({"use": "diffusion-dpo", "beta": 5000.0}, [2500.0], "repelled without end"),
        ({"use": "linear-dpo", "beta": 5000.0, "floor": 0.0}, [], "0.0005 in mean errors"),
        ({"use": "linear-dpo", "beta": 5000.0, "floor": 0.01}, [], "repelled without end"),
        ({"use": "ipo", "beta": 10.0}, [], "0.05 in mean errors"),
    ],
)
def test_the_margin_at_which_a_loss_is_content(loss, effective, words):
    assert words in content_margin(loss, effective)


def test_a_strength_is_told_once_although_its_means_differ_in_their_last_bits(tmp_path):
    """Rows over 1, 2, ... 20 steps of 3 pairs at 1024 px, as a trainer adds them up."""
    strength = 0.05 * 128 * 64 * 64
    means = [sum([strength * 3] * steps) / (3 * steps) for steps in range(1, 21)]
    assert len(set(means)) > 1
    rows = [{**row(10 * k, 0.9, 1.1), telemetry.BETA_EFF: mean} for k, mean in enumerate(means, 1)]
    page = page_of(run_folder(tmp_path / "run", rows))
    assert ">26214.4 in errors of the anchors<" in page
    assert ">0.00046 in mean errors<" in page
    assert page.count(">M*</text>") <= 1


def test_the_page_of_a_real_run(memory_host, tmp_path: Path):
    tables = merged(
        TINY_RUN, {"data": {"use": "memory-pairs"}, "method": {"use": "dpo", "alarms": False, "adapter": {"rank": 2, "targets": ["all"]}}}
    )
    with one_thread():
        train(from_plain(tables, memory_host), host=memory_host, out=tmp_path / "run")
    story = read_story(tmp_path / "run")
    assert story.alarms is None
    page = report_html(story)
    assert "38.4, then 86.4" in page  # two stages
    assert page.count("data:image/png") == 2
    assert "no data" not in page
