"""``ernie eval --pictures``: verdicts, metrics, what is missing, what is refused. Without a model and without torch."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ernie_core import io
from ernie_core.api import EvalPrompt, PluginError
from ernie_core.cli.main import main
from ernie_core.evaluation.asks import plan_asks
from ernie_core.evaluation.folder import Verdict
from ernie_core.evaluation.sheet import contact_sheet, ranked
from ernie_core.evaluation.summary import summarise
from ernie_core.stats import clustered_interval, mean_interval

RGB = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200)}
IDS = [f"p{i:02d}-{('red', 'green', 'blue')[i % 3]}" for i in range(7)]


@pytest.fixture
def pictures(tmp_path):
    """Every picture right but the first."""
    folder = tmp_path / "given"
    folder.mkdir()
    for name in IDS:
        colour = "blue" if name == IDS[0] else name[4:]
        Image.new("RGB", (9, 7), RGB[colour]).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def ernie(toy_host, capsys):
    def run(*arguments):
        code = main(["eval", "--suite", "toy-colours", *map(str, arguments)])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def metrics(out):
    return json.loads((out / "metrics.json").read_bytes())


def test_every_metric_is_given_overall_and_per_tag_with_its_interval(ernie, pictures, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = ernie("--pictures", pictures, "--out", out, "--device", "cpu")
    assert code == 0, stderr
    found = metrics(out)
    clusters = [f"template {i % 4}" for i in range(7)]
    right = clustered_interval([False] + [True] * 6, clusters)
    assert found["metrics"]["right"] == {"mean": 6 / 7, "low": right.low, "high": right.high, "n": 7, "clusters": 4}
    level = mean_interval([80 / 255] * 7, clusters)
    assert found["metrics"]["level"]["mean"] == pytest.approx(level.value)
    assert list(found["tags"]) == ["blue", "green", "red"]
    assert (found["tags"]["red"]["right"]["mean"], found["tags"]["red"]["right"]["n"]) == (2 / 3, 3)
    assert (found["pictures"], found["missing"]["count"], found["checkpoint"]) == (7, 0, None)
    assert found["suite"] == {"name": "toy-colours", "options": {"count": 7, "odd_ids": [], "fault": ""}, "code": "toy-colours 1"}
    assert found["versions"]["plugins"]["toy-methods"].startswith("toy-methods")
    lines = stdout.splitlines()
    assert lines[0].split() == ["n", "clusters", "right", "level"]
    assert lines[1].split()[:4] == ["all", "7", "4", "0.857"]
    assert [line.split()[0] for line in lines[2:]] == ["blue", "green", "red"]
    assert lines[4].split()[1:4] == ["3", "3", "0.667"]
    assert "7 pictures judged" in stderr
    sheet = np.asarray(Image.open(out / "best-and-worst.png"))
    assert (sheet == RGB["blue"]).all(axis=-1).any()


def test_verdicts_are_one_line_per_picture(ernie, pictures, tmp_path):
    ernie("--pictures", pictures, "--out", tmp_path / "out", "--device", "cpu")
    lines = [json.loads(line) for line in io.read_lines(tmp_path / "out" / "verdicts.jsonl")]
    assert [line["id"] for line in lines] == IDS
    assert lines[0]["metrics"] == {"right": 0.0, "level": 80 / 255}
    assert (lines[1]["prompt"], lines[1]["tags"], lines[1]["state"], lines[1]["cluster"]) == ("green 1", ["green"], "judged", "template 1")
    assert lines[1]["sha256"] == io.sha256_file(pictures / f"{IDS[1]}.png")


def test_missing_and_unreadable_pictures_count_as_zero(ernie, pictures, tmp_path):
    (pictures / f"{IDS[1]}.png").unlink()
    (pictures / f"{IDS[2]}.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    code, _, stderr = ernie("--pictures", pictures, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 0
    found = metrics(tmp_path / "out")
    assert found["metrics"]["right"]["mean"] == 4 / 7
    assert found["metrics"]["right"]["n"] == 7
    assert found["missing"] == {"count": 1, "first": [IDS[1]]}
    assert found["unreadable"] == {"count": 1, "first": [IDS[2]]}
    assert f"1 pictures are missing and count as 0, such as {IDS[1]}" in stderr


def test_other_formats_are_read_and_two_files_of_one_picture_are_refused(ernie, pictures, tmp_path):
    file = pictures / f"{IDS[3]}.png"
    Image.open(file).convert("L").save(file.with_suffix(".webp"))
    code, _, stderr = ernie("--pictures", pictures, "--out", tmp_path / "out", "--device", "cpu")
    assert (code, stderr.count("\n")) == (2, 1)
    assert f"{IDS[3]}.png and {IDS[3]}.webp are both pictures of {IDS[3]}" in stderr
    file.unlink()
    assert ernie("--pictures", pictures, "--out", tmp_path / "out", "--device", "cpu")[0] == 0


def test_a_second_call_changes_no_byte_and_a_changed_picture_is_judged_again(ernie, pictures, tmp_path):
    out = tmp_path / "out"
    arguments = ("--pictures", pictures, "--out", out, "--device", "cpu", "--batch-size", 2)
    ernie(*arguments)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert ernie(*arguments)[0] == 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    Image.new("RGB", (9, 7), RGB["red"]).save(pictures / f"{IDS[0]}.png")
    ernie(*arguments)
    assert metrics(out)["metrics"]["right"]["mean"] == 1.0


def test_verdicts_that_were_cut_off_or_damaged_are_made_again(ernie, pictures, tmp_path):
    out = tmp_path / "out"
    arguments = ("--pictures", pictures, "--out", out, "--device", "cpu", "--batch-size", 2)
    ernie(*arguments)
    whole = (out / "verdicts.jsonl").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:10], b"", whole.replace(b"p03-red", b"p93-red"), b"[]\n" + whole):
        (out / "verdicts.jsonl").write_bytes(damaged)
        assert ernie(*arguments)[0] == 0
        assert (out / "verdicts.jsonl").read_bytes() == whole


def test_changed_settings_in_a_used_folder_are_refused_naming_old_and_new(ernie, pictures, tmp_path):
    out = tmp_path / "out"
    ernie("--pictures", pictures, "--out", out, "--device", "cpu")
    before = (out / "metrics.json").read_bytes()
    code, _, stderr = ernie("--pictures", pictures, "--out", out, "--device", "cpu", "--set", "count=5", "--batch-size", 3)
    assert code == 2
    assert "was begun with other settings. batch_size: was 4, now 3; suite.options.count: was 7, now 5" in stderr
    assert (out / "metrics.json").read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(ernie, pictures, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    code, _, stderr = ernie("--pictures", pictures, "--out", out, "--device", "cpu")
    assert (code, f"{out}: holds thesis.txt but no settings.json" in stderr) == (2, True)
    (out / "settings.json").write_text("[]")
    assert "not the settings of an evaluation" in ernie("--pictures", pictures, "--out", out, "--device", "cpu")[2]
    assert (out / "thesis.txt").read_text() == "mine"


def test_limit_and_samples_name_pictures_in_order(ernie, tmp_path):
    code, stdout, _ = ernie("--list", "--limit", 2, "--samples-per-prompt", 2, "--device", "cpu")
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert (code, [line["id"] for line in lines]) == (0, ["p00-red-0", "p01-green-0", "p00-red-1", "p01-green-1"])
    assert lines[1] == {"id": "p01-green-0", "prompt": "green 1", "tags": ["green"], "metrics": ["right", "level"]}
    assert list(tmp_path.iterdir()) == []


def test_several_samples_of_a_prompt_share_its_cluster():
    asks = plan_asks([EvalPrompt("a", "x", ("m",)), EvalPrompt("b", "x", ("m",), cluster="c")], suite="s", samples=3)
    assert [(a.id, a.number, a.cluster) for a in asks] == [
        (f"{p}-{k}", 2 * k + i, c) for k in range(3) for i, (p, c) in enumerate((("a", "a"), ("b", "c")))
    ]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["../up"], "has the id '../up'; expected up to 120 letters"),
        ([".hidden"], "has the id '.hidden'"),
        ([""], "has the id ''"),
        (["a", "A"], "the id A stands for two pictures"),
        (["x" * 121], "has the id 'xxx"),
    ],
)
def test_ids_that_cannot_name_files_are_refused(ids, message):
    with pytest.raises(PluginError, match=message.replace(".", r"\.")):
        plan_asks([EvalPrompt(name, "x", ("m",)) for name in ids], suite="s")


def test_prompts_without_metrics_and_suites_without_prompts_are_refused():
    with pytest.raises(PluginError, match='suite "s": prompt a has the metrics'):
        plan_asks([EvalPrompt("a", "x", ())], suite="s")
    with pytest.raises(PluginError, match='suite "s" has no prompts'):
        plan_asks([], suite="s")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("too few", 'suite "toy-colours" gave 3 verdicts for 4 pictures'),
        ("other metrics", 'suite "toy-colours" judged p00-red by right; its prompt promises right, level'),
        ("not finite", 'suite "toy-colours" gave p00-red the level nan; expected a finite number'),
    ],
)
def test_a_judge_that_breaks_its_promise_is_named(ernie, pictures, tmp_path, fault, message):
    code, stdout, stderr = ernie("--pictures", pictures, "--out", tmp_path / "out", "--device", "cpu", "--set", f"fault={fault}")
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--suite", "toy-colors", "--pictures", "x"],
            'no evaluation suite is called "toy-colors"; did you mean "toy-colours"? Installed: toy-colours',
        ),
        ([], "expected either --checkpoint or --pictures"),
        (["--pictures", "x", "--checkpoint", "y"], "expected either --checkpoint or --pictures"),
        (["--pictures", "/nowhere"], "/nowhere: expected a folder of pictures, found nothing"),
        (["--pictures", "x", "--steps", "3", "--raw"], "--steps, --raw mean nothing with --pictures"),
        (["--pictures", "x", "--set", "cuont=3"], "--set cuont=3: unknown key `cuont`; did you mean `count`?"),
        (["--pictures", "x", "--config", "/no.toml"], "/no.toml"),
        (["--pictures", "x", "--samples-per-prompt", "0"], "expected a whole number of at least 1, found '0'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(ernie, tmp_path, arguments, message):
    code, stdout, stderr = ernie(*arguments, "--out", tmp_path / "out", "--device", "cpu")
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert len(stderr.splitlines()) == 1


def test_the_suites_options_come_from_a_file_and_from_the_command_line(ernie, pictures, tmp_path):
    (tmp_path / "suite.toml").write_text("count = 3\n")
    code, *_ = ernie("--pictures", pictures, "--out", tmp_path / "out", "--device", "cpu", "--config", tmp_path / "suite.toml", "--json")
    assert (code, metrics(tmp_path / "out")["pictures"]) == (0, 3)
    (tmp_path / "suite.toml").write_text("count = 3\ncuont = 4\n")
    _, _, stderr = ernie("--pictures", pictures, "--out", tmp_path / "out", "--config", tmp_path / "suite.toml", "--device", "cpu")
    assert f"{tmp_path / 'suite.toml'}:2: unknown key `cuont`" in stderr


def test_without_out_nothing_can_be_kept(ernie, pictures):
    code, _, stderr = ernie("--pictures", pictures)
    assert (code, stderr) == (2, "ernie eval: --out is needed. See `ernie eval --help`.\n")


def test_json_on_stdout_is_what_the_file_holds(ernie, pictures, tmp_path):
    code, stdout, _ = ernie("--pictures", pictures, "--out", tmp_path / "out", "--device", "cpu", "--json")
    assert (code, json.loads(stdout)) == (0, metrics(tmp_path / "out"))


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(ernie, pictures, tmp_path):
    from ernie_core.testing.mishaps import at_operation, staged

    expected = tmp_path / "whole"
    arguments = ("--pictures", pictures, "--device", "cpu", "--batch-size", 2)
    ernie(*arguments, "--out", expected)
    out = tmp_path / "out"
    for number in range(1, 22, 3):  # locks, settings, verdicts, sheet, metrics
        shutil.rmtree(out, ignore_errors=True)
        with staged(at_operation(number, "ENOSPC")):
            code, _, stderr = ernie(*arguments, "--out", out)
        assert (code, "No space left on device" in stderr, len(stderr.splitlines())) == (1, True, 1), number
        assert ernie(*arguments, "--out", out)[0] == 0
        assert (out / "metrics.json").read_bytes() == (expected / "metrics.json").read_bytes()
        assert (out / "verdicts.jsonl").read_bytes() == (expected / "verdicts.jsonl").read_bytes()


def test_pictures_are_judged_without_torch(pictures, tmp_path, toy_host):
    code = (
        "import sys; from ernie_core.cli.main import main\n"
        f"code = main(['eval', '--suite', 'toy-colours', '--pictures', {str(pictures)!r}, '--out', {str(tmp_path / 'out')!r}, '--device', 'cpu'])\n"
        "print('torch' in sys.modules, code)"
    )
    toy = next(p for p in sys.path if p.endswith("toy"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": toy, "PATH": ""}, timeout=60)
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr


def verdict(name, *values, state="judged"):
    return Verdict(name, f"prompt of {name} ünïcode 雪", ("t",), name, dict(zip("abc", values)), state, "")


def test_the_sheet_ranks_by_the_first_metric_and_shows_no_picture_twice():
    verdicts = [verdict("x", 1.0, 0.1), verdict("y", 0.0, 0.9), verdict("z", 1.0, 0.5), verdict("w", 0.0, 0.0, state="missing")]
    assert [v.id for v in ranked(verdicts)] == ["w", "y", "x", "z"]
    files = {v.id: None for v in verdicts}
    assert contact_sheet(verdicts, files).shape[2] == 3
    assert contact_sheet(verdicts[:1], files).shape[2] == 3


def test_metrics_that_some_prompts_lack_count_where_they_apply():
    overall, tags = summarise([verdict("x", 1.0, 0.25), verdict("y", 0.0)])
    assert (overall["a"].n, overall["b"].n, overall["b"].value) == (2, 1, 0.25)
    assert overall["b"].to_json()["low"] is None
    assert list(tags) == ["t"]
