"""``ernie distill drift`` on evaluations that core wrote: figures by hand, what is refused, what is said."""

import json
import shutil

import numpy as np
import pytest

from ernie_core import io
from ernie_core.api import DataError, RunFolderError
from ernie_core.cli.main import main as ernie
from ernie_core.evaluation.read import mismatch, read_finished
from ernie_distill.drift.assess import Question, assess
from ernie_distill.drift.read import read_domains

from .eval_folders import make_eval, plain, prompt

PROMPTS = [prompt(f"p{i}", ("text", "art")[i % 2], "held-out" if i > 3 else "seen", cluster=f"c{i // 2}") for i in range(8)]
SCORES = {  # text and art by turns
    "student": [0.6, 0.8] * 4,
    "generalist": [0.7, 0.4] * 4,
    "writer": [0.9, 0.2] * 4,
    "floor": [0.1, 0.0] * 4,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evals")
    for name, values in SCORES.items():
        make_eval(folder / name, PROMPTS, [[score] for score in values])
    return folder


@pytest.fixture
def evals(tmp_path, written):
    return {name: shutil.copytree(written / name, tmp_path / name) for name in SCORES}


@pytest.fixture
def run(tmp_path, evals, capsys):
    def call(*more, student="student", out="out", expert=True, floor=True):
        arguments = ["--student", evals.get(student, student), "--generalist", evals["generalist"], "--out", tmp_path / out]
        arguments += ["--expert", f"writer={evals['writer']}"] if expert else []
        arguments += ["--floor", evals["floor"]] if floor else []
        code = ernie(["distill", "drift", *map(str, arguments), *map(str, more)])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return call


def found_in(folder):
    return json.loads((folder / "drift.json").read_bytes())


TWO = ("--domain", "text=text", "--domain", "pictures=art")


def test_retention_drift_and_spread_by_hand(run, tmp_path):
    code, stdout, stderr = run(*TWO)
    assert code == 0, stderr
    found = found_in(tmp_path / "out")
    text, pictures = found["domains"]["text"], found["domains"]["pictures"]
    assert (text["metric"], text["prompts"], text["clusters"], text["best_teacher"]) == ("right", 4, 4, "writer")
    assert text["scores"]["student"]["value"] == pytest.approx(0.6)
    assert text["retention"]["best"]["value"] == pytest.approx(0.5 / 0.8)
    assert text["retention"]["generalist"]["value"] == pytest.approx(0.5 / 0.6)
    assert (pictures["best_teacher"], pictures["retention"]["best"]["value"]) == ("generalist", pytest.approx(2.0))
    assert found["drift"]["best"] == pytest.approx({"value": 0.375, "low": 0.375, "high": 0.375, "domain": "text"})
    assert found["drift"]["generalist"]["value"] == pytest.approx(1 / 6)
    assert found["spread"]["best"]["value"] == pytest.approx((2 - 0.625) / 2)
    assert text["regressions"]["best"]["worse"]["value"] == 1
    assert text["regressions"]["generalist"]["worse"]["value"] == 0  # lower by .1, which is not more than .1
    assert found["regressions"]["best"]["worse"]["value"] == 0.5
    assert found["regressions"]["best"]["better"]["value"] == 0.5
    worst = found["worst_prompts"]
    assert [one["id"] for one in worst] == ["p0", "p2", "p4", "p6"]
    assert (worst[0]["prompt"], worst[0]["best_teacher"], worst[0]["gap"]) == ("prompt p0", "writer", pytest.approx(-0.3))
    assert found["models"]["writer"]["settings"]["used"]["steps"] == 8
    lines = stdout.splitlines()
    assert lines[1].split()[:6] == ["text", "right", "4", "/", "4", "0.600"]
    assert "0.625 [0.625, 0.625]" in lines[1]
    assert "drift against the best teachers: 0.375 [0.375, 0.375], in `text`" in stdout
    assert "intervals over fewer than 30 clusters" in stderr


def test_tags_are_domains_by_default_and_may_be_put_together(run, tmp_path):
    run()
    assert list(found_in(tmp_path / "out")["domains"]) == ["art", "held-out", "seen", "text"]
    assert "8 of 8 prompts are in several domains" in found_in(tmp_path / "out")["notes"]
    run("--domain", "all=text, art")
    assert found_in(tmp_path / "out")["domains"]["all"]["prompts"] == 8
    run("--domain", "some=seen")
    assert "4 of 8 prompts are in no domain" in found_in(tmp_path / "out")["notes"]


def test_the_same_command_writes_the_same_bytes_and_json_is_what_it_wrote(run, tmp_path):
    run(*TWO)
    _, stdout, _ = run(*TWO, "--json", out="again")
    assert (tmp_path / "out" / "drift.json").read_bytes() == (tmp_path / "again" / "drift.json").read_bytes()
    assert json.loads(stdout) == found_in(tmp_path / "out")


def test_without_experts_and_floor_the_generalist_is_the_best_teacher_and_the_floor_is_zero(run, tmp_path):
    run(*TWO, expert=False, floor=False)
    found = found_in(tmp_path / "out")
    assert found["domains"]["text"]["retention"]["best"]["value"] == pytest.approx(0.6 / 0.7)
    assert found["domains"]["text"]["retention"]["best"] == found["domains"]["text"]["retention"]["generalist"]
    assert "no --floor was given: the floor is 0" in found["notes"]
    assert "floor" not in found["models"]


def test_a_domain_in_which_no_teacher_is_above_the_floor_is_said_to_be_undefined(tmp_path, evals, capsys):
    high = make_eval(tmp_path / "high", PROMPTS, [[0.95], [0.1]] * 4)
    arguments = ["--student", evals["student"], "--generalist", evals["generalist"], "--floor", high, "--out", tmp_path / "out", *TWO]
    assert ernie(["distill", "drift", *map(str, arguments)]) == 0
    found = found_in(tmp_path / "out")
    assert found["domains"]["text"]["retention"]["best"]["value"] is None
    assert "scores 0.7, not above the floor of 0.95" in found["domains"]["text"]["retention"]["best"]["reason"]
    assert found["drift"]["best"]["domain"] == "pictures"
    stdout = capsys.readouterr().out
    assert "undefined" in stdout
    assert "text: `generalist` scores 0.7" in stdout


def test_several_pictures_of_a_prompt_give_diversity_and_their_mean_is_the_prompts_score(tmp_path):
    def flat(score, number, noise):
        return np.full((20, 20, 3), 100 + 20 * (number // 2), np.uint8)  # 20 levels between two samples of a prompt

    def alike(score, number, noise):
        return np.full((20, 20, 3), 100 + 5 * (number // 2), np.uint8)

    prompts = [prompt("a", "t"), prompt("b", "t")]
    student = read_finished(make_eval(tmp_path / "student", prompts, [[0.2, 0.6], [0.4, 0.4]], draw=alike))
    teacher = read_finished(make_eval(tmp_path / "teacher", prompts, [[0.5, 0.5], [0.5, 0.5]], draw=flat))
    found = assess(Question(student, teacher, resamples=200))
    assert found["domains"]["t"]["scores"]["student"]["value"] == pytest.approx(0.4)
    assert found["diversity"]["value"] == pytest.approx(0.25, abs=0.02)  # the first pixel holds the score
    assert found["samples_per_prompt"] == 2
    assert [one["id"] for one in found["worst_prompts"]] == ["a", "b"]


def test_one_picture_per_prompt_says_nothing_of_diversity(run, tmp_path):
    run(*TWO)
    assert "--samples-per-prompt 2" in found_in(tmp_path / "out")["diversity"]["reason"]


def test_a_student_that_is_too_vivid_and_clipped_shows(tmp_path):
    def vivid(score, number, noise):
        return np.clip((plain(score, number, noise).astype(int) - 150) * 6 + 150, 0, 255).astype(np.uint8)

    student = read_finished(make_eval(tmp_path / "student", PROMPTS, [[0.5]] * 8, draw=vivid))
    teacher = read_finished(make_eval(tmp_path / "teacher", PROMPTS, [[0.5]] * 8))
    found = assess(Question(student, teacher, resamples=200))
    assert found["saturation"]["value"] > 2
    assert found["saturation"]["low"] > 2
    assert found["clipped"]["student"] > found["clipped"]["generalist"]
    assert found["domains"]["art"]["saturation"]["value"] == pytest.approx(found["saturation"]["value"], rel=0.2)


# ---- what is refused, what is said ----


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed: 0 and 1"),
        ({"code": "suite 2"}, 'suite.code: "suite 1" and "suite 2"'),
        ({"size_px": [32, 32]}, "size_px: [20, 20] and [32, 32]"),
        (
            {"prompts": [*PROMPTS[:7], prompt("p7", "art", "held-out", text="another", cluster="c3")]},
            "prompt of picture p7: 'prompt p7' and 'another'",
        ),
        ({"prompts": [*PROMPTS[:7], prompt("p9", "art", "held-out", cluster="c3")]}, "id of picture p7: 'p7' and 'p9'"),
        ({"prompts": PROMPTS[:7]}, "pictures: 8 and 7"),
        ({"samples": 2}, "samples_per_prompt: 1 and 2"),
        (
            {"prompts": [prompt(p.id, *p.tags, cluster=p.cluster, metrics=("other",)) for p in PROMPTS]},
            "metrics of picture p0: right and other",
        ),
    ],
)
def test_evaluations_that_cannot_be_compared_are_refused_naming_what_differs(run, evals, tmp_path, change, words):
    change = dict(change)
    prompts, samples = change.pop("prompts", PROMPTS), change.pop("samples", 1)
    evals["generalist"] = make_eval(tmp_path / "odd", prompts, [[0.5] * samples] * len(prompts), **change)
    code, _, stderr = run(*TWO)
    assert code == 2
    assert words in stderr
    assert "generalist" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ("--domain", "poems=verse"),
            "domain `poems` has no prompts: none has the tag verse. Tags of this suite: text, seen, art, held-out",
        ),
        (("--metric", "beauty"), "4 of 4 prompts have no metric `beauty`, such as p0. Its metrics: right"),
        (("--domain", "text=text", "--domain", "text=art"), "--domain: `text` is given twice"),
        (("--domain", "text=,"), "names no tag"),
        (("--expert", "student=x"), "no evaluation"),
    ],
)
def test_wrong_domains_metrics_and_experts_are_refused(run, more, words):
    code, _, stderr = run(*more)
    assert (code, words in stderr) == (2, True), stderr


def test_an_expert_must_not_be_called_as_another_model(evals):
    one = read_finished(evals["student"])
    with pytest.raises(DataError, match="an expert cannot be called `floor`"):
        assess(Question(one, one, experts={"floor": one}))


@pytest.mark.parametrize("more", [("--domain", "text"), ("--delta", "-1"), ("--delta", "inf"), ("--resamples", "5")])
def test_arguments_of_the_wrong_form_are_refused(run, more):
    code, _, stderr = run(*more)
    assert code == 2
    assert f"argument {more[0]}" in stderr


def test_a_domain_that_mixes_metrics_needs_one_to_be_chosen(tmp_path):
    prompts = [prompt("a", "t", metrics=("ocr", "right")), prompt("b", "t", metrics=("count", "right"))]
    found = read_finished(make_eval(tmp_path / "mixed", prompts, [[0.5], [0.5]]))
    with pytest.raises(DataError, match="scored by ocr and by count; choose one with --metric"):
        read_domains(found, {}, None)
    assert read_domains(found, {}, "right")[0].metric == "right"


def test_a_suite_without_tags_has_no_domains(tmp_path):
    found = read_finished(make_eval(tmp_path / "plain", [prompt("a")], [[0.5]]))
    with pytest.raises(DataError, match="no tags, so it has no domains"):
        read_domains(found, {}, None)


def test_missing_pictures_count_as_zero_and_a_changed_one_is_refused(run, evals, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(evals["student"] / "pictures", given)
    (given / "p1.png").unlink()
    settings = json.loads((evals["student"] / "settings.json").read_bytes())
    verdicts = [json.loads(line) for line in io.read_lines(evals["student"] / "verdicts.jsonl")]
    verdicts[1].update(state="missing", sha256="", metrics={"right": 0.0})
    (evals["student"] / "settings.json").write_text(json.dumps({"asked": {**settings["asked"], "pictures": str(given)}, "used": {}}))
    (evals["student"] / "verdicts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in verdicts))
    code, _, stderr = run(*TWO)
    assert code == 0, stderr
    assert found_in(tmp_path / "out")["domains"]["pictures"]["scores"]["student"]["value"] == pytest.approx(0.6)
    assert "student: 1 of 8 pictures are missing or unreadable and count as 0" in stderr
    assert "student: its pictures were given, so their noise and sampler are not known" in stderr
    shutil.copy(given / "p0.png", given / "p2.png")
    (given / "p0.png").unlink()
    code, _, stderr = run(*TWO)
    assert (code, "the picture of p0 is gone; run the same `ernie eval` again" in stderr) == (2, True), stderr


def test_a_guided_student_is_remarked_on(tmp_path, evals):
    guided = read_finished(make_eval(tmp_path / "guided", PROMPTS, [[0.5]] * 8, guidance_scale=4.0))
    notes = assess(Question(guided, read_finished(evals["generalist"]), resamples=100))["notes"]
    assert any("sampled with guidance 4" in note for note in notes)


def rewritten(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: shutil.rmtree(d), "no evaluation, as its settings.json cannot be read"),
        (lambda d: (d / "metrics.json").unlink(), "an evaluation that is not finished"),
        (lambda d: (d / "metrics.json").write_text("{"), "damaged"),
        (lambda d: (d / "metrics.json").write_text("[]"), "holds a list, expected an object"),
        (lambda d: (d / "metrics.json").write_text("{}"), "the files of this evaluation are damaged (KeyError"),
        (
            lambda d: rewritten(d / "settings.json", lambda s: s["asked"].update(samples_per_prompt=0)),
            "ValueError: samples_per_prompt is 0",
        ),
        (lambda d: (d / "verdicts.jsonl").unlink(), "the files of this evaluation are damaged (FileNotFoundError"),
        (lambda d: (d / "verdicts.jsonl").write_text("{}\n"), "is of 8 pictures, verdicts.jsonl holds 0 verdicts in 1 lines"),
    ],
)
def test_what_is_no_finished_evaluation_is_refused(evals, damage, words):
    damage(evals["student"])
    with pytest.raises(RunFolderError) as refused:
        read_finished(evals["student"])
    assert words in str(refused.value)


def test_an_evaluation_matches_itself(evals):
    one = read_finished(evals["student"])
    assert mismatch(one, one) == []
    assert [one.prompt_id(p) for p in range(3)] == ["p0", "p1", "p2"]
