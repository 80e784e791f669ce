"""The alarms of distillation: what stops a run, what does not, and that the end of a history is judged as the whole."""

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.api import RunView, Selection, TrainingStopped, from_plain
from ernie_core.testing.runs import TINY_RUN
from ernie_core.train.watch import checkpoint_steps, read_rows
from ernie_distill import telemetry as names
from ernie_distill.method_config import MtDmdConfig
from ernie_distill.report.page import report_html
from ernie_distill.report.story import read_story
from ernie_distill.telemetry import AlarmConfig, is_healthy, judge, recent
from ernie_distill.watch import REMEDIES, start, watch_of, watch_over

from .distill_makers import from_teacher, options, run

LIMITS = AlarmConfig()
SHORT = AlarmConfig(saturation_steps=20, diversity_steps=20, fake_steps=20, ratio_steps=30)


def row(step, *, fake=0.5, ratio=1.0, student=True, **more):
    turn = {names.MATCH_NORM: 0.1, names.GUIDANCE_NORM: 0.1 * ratio, names.RATIO: ratio} if student else {}
    return {"step": step, "loss": 1.0, names.FAKE_LOSS: fake, **turn} | more


def seen(step, saturation=1.0, diversity=1.0):
    return {"step": step, names.VALIDATION + names.SATURATION: saturation, names.VALIDATION + names.DIVERSITY: diversity}


steps_between = st.integers(1, 15)
values = st.fixed_dictionaries(
    {
        "gap": steps_between,
        "kind": st.sampled_from(["warm", "turn", "turn", "turn", "seen", "refused"]),
        "fake": st.sampled_from([0.1, 0.5, 0.6, 2.0, 9.0]),
        "ratio": st.sampled_from([0.5, 3.0, 25.0]),
        "saturation": st.sampled_from([0.4, 1.0, 1.6]),
        "diversity": st.sampled_from([0.2, 1.0]),
    }
)


def made(found):
    rows, step = [], 0
    for one in found:
        step += one["gap"]
        match one["kind"]:
            case "seen":
                rows.append(seen(step, one["saturation"], one["diversity"]))
            case "refused":
                rows.append({"step": step, "refused": 1.0})
            case kind:
                rows.append(row(step, fake=one["fake"], ratio=one["ratio"], student=kind == "turn"))
    return rows


histories = st.lists(values, min_size=1, max_size=60).map(made)


# ---- the rules ----


@pytest.mark.parametrize(
    ("saturation", "words"), [(1.6, "above 1.5 times the teacher's, now 1.6"), (0.4, "below 0.5 times the teacher's, now 0.4")]
)
def test_saturation_is_an_alarm_from_one_validation_to_another_so_many_steps_later(saturation, words):
    rows = [row(10), seen(100, 1.2), seen(200, saturation), seen(400, saturation), seen(500, saturation)]
    assert judge(rows[:-1]) is None
    assert not is_healthy(rows[:-1])
    found = judge(rows)
    assert (found.rule, found.step, found.since) == ("saturation", 500, 200)
    assert words in found.found
    assert judge([*rows[:-1], seen(450, 1.1), seen(500, saturation)]) is None


def test_a_limit_of_saturation_may_be_the_teachers_own():
    limits = AlarmConfig(saturation_above=1.0)
    assert "above 1 times the teacher's, now 1.3" in judge([row(10), seen(100, 1.3), seen(400, 1.3)], limits).found


def test_a_student_between_the_limits_is_healthy():
    rows = [row(10), *(seen(100 * k, 0.55 + 0.09 * k, 0.35) for k in range(1, 11))]
    assert judge(rows) is None
    assert is_healthy(rows)


def test_pictures_that_are_all_alike_are_an_alarm():
    rows = [row(10), seen(300, diversity=0.25), seen(600, diversity=0.1)]
    found = judge(rows)
    assert (found.rule, found.since) == ("diversity", 300)
    assert "below 0.3 times the teacher's, now 0.1" in found.found
    assert judge(rows[:2]) is None


def test_the_fake_scores_loss_is_compared_with_its_own_least_over_blocks_of_steps():
    steady = [row(s, fake=0.5 if s % 20 else 1.4) for s in range(10, 1001, 10)]  # single batches are far above the least one
    assert judge(steady) is None
    lost = [*steady, *(row(s, fake=1.7) for s in range(1010, 1101, 10))]
    assert judge(lost[:-1]) is None
    found = judge(lost)
    assert found is None  # 1.7 is below 3 times .95
    lost = [*steady, *(row(s, fake=3.0) for s in range(1010, 1101, 10))]
    assert judge(lost[:-1]) is None
    found = judge(lost)
    assert (found.rule, found.step, found.since) == ("fake-lost", 1100, 1000)
    assert "was 3 over 100 steps, 3.16 times its least of 0.95" in found.found


def test_the_warm_up_is_not_judged():
    warm = [row(s, fake=0.01, student=False) for s in range(10, 501, 10)]
    bad_pictures = [seen(100, 3.0, 0.1), seen(500, 3.0, 0.1)]
    after = [row(s, fake=0.5) for s in range(510, 901, 10)]
    assert judge([*warm, *bad_pictures, *after]) is None
    assert is_healthy([*warm, *bad_pictures, *after])


def test_guidance_without_matching_is_an_alarm_after_a_hundred_turns_and_no_earlier():
    rows = [row(s, ratio=1000.0) for s in range(106, 720, 6)]
    assert judge([one for one in rows if one["step"] < 706]) is None
    found = judge(rows)
    assert (found.rule, found.since) == ("spear-without-shield", 106)
    assert judge([*rows[:50], row(rows[50]["step"], ratio=19.0), *rows[51:]]) is None


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("name", ["loss", names.RATIO, "gate/dm/art", "validation/distill/saturation", names.FAKE_LOSS])
@pytest.mark.parametrize("student", [False, True])
def test_what_is_not_finite_is_an_alarm_at_once_in_the_warm_up_too(name, value, student):
    history = [row(10, student=student), row(20, student=student) | {name: value}]
    found = judge(recent(history))
    assert (found.rule, found.step, found.since) == ("not-finite", 20, 10)
    assert name in found.found
    assert not is_healthy(history)


def test_metrics_of_the_machine_may_be_missing():
    assert judge([row(10, mfu=None)]) is None


def test_nothing_is_wrong_with_nothing():
    assert judge([]) is None
    assert recent([]) == []
    assert is_healthy([])


def test_a_block_of_which_a_row_is_kept_for_another_value_is_kept_whole():
    """Row 51 stays as the last good ratio; without its neighbours the block's mean, .73, would be .1, and the next block a loss of 3.5 times that."""
    turn = {"distill/match_norm": 0.1, "distill/guidance_norm": 0.05, "distill/ratio": 0.5}
    losses = {6: 0.1, 14: 0.1, 24: 0.1, 36: 0.1, 51: 0.1, 52: 2.0, 54: 0.1, 61: 0.6, 70: 0.1, 81: 0.1}
    kept, whole = [], []
    for step, loss in losses.items():
        row = {"step": step, "loss": 1.0, "distill/fake_loss": loss, **(turn if step in (24, 51) else {})}
        whole.append(row)
        kept = recent([*kept, row], SHORT)
        assert judge(kept, SHORT) == judge(whole, SHORT)


def test_a_row_that_is_kept_for_its_ratio_does_not_stand_for_its_block():
    """The last good ratio is of a row whose fake loss is far below its block's mean: alone it would be the least, and a false alarm."""
    limits = AlarmConfig(fake_steps=20, ratio_steps=1000)
    rows = [row(5), row(22, fake=0.1), row(30, fake=0.1, ratio=25), row(35, fake=0.4, ratio=25)]
    rows += [row(step, fake=fake, ratio=25) for step, fake in ((45, 0.15), (65, 0.2), (85, 0.4))]
    rows.append({"step": 101, "refused": 1.0})
    kept = []
    for one in rows:
        kept = recent([*kept, one], limits)
    assert judge(rows, limits) is None
    assert judge(kept, limits) is None


@given(histories)
@settings(max_examples=200, deadline=None)
def test_the_end_of_a_history_is_judged_as_the_whole(history):
    kept = []
    for i in range(len(history)):
        kept = recent([*kept, history[i]], SHORT)
        assert judge(kept, SHORT) == judge(history[: i + 1], SHORT)
        assert is_healthy(kept, SHORT) == is_healthy(history[: i + 1], SHORT)


@given(histories)
@settings(deadline=None)
def test_what_has_an_alarm_is_never_healthy(history):
    assert judge(history, SHORT) is None or not is_healthy(history, SHORT)


def test_a_long_history_is_kept_short():
    kept = []
    for step in range(1, 3001):
        kept = recent([*kept, row(step, ratio=1000.0, fake=0.5 + 0.1 * math.sin(step))], LIMITS)
    assert len(kept) < 3 * LIMITS.fake_steps + 10


@pytest.mark.parametrize(
    ("options", "words"), [({"saturation_above": 0.5}, "every student would be stopped"), ({"fake_ratio": 1.0}, "expected more than 1")]
)
def test_limits_that_stop_everything_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        AlarmConfig(**options)


# ---- on the collapses that the rules are made for: one-dimensional Gaussians in closed form ----

MU, VARIANCE, SCALE = 1.0, 0.25, 4.0  # the teacher's; without the prompt its mean is 0


def posterior(x, r, mean, variance):
    """E[x0 | x_r] of a Gaussian."""
    gain = (1 - r) * variance / ((1 - r) ** 2 * variance + r**2)
    return mean + gain * (x - (1 - r) * mean)


def distilled(*, guidance=1.0, fake_rate=0.3, match=1.0, turns=1500, rate=0.02):
    """Rows of a student b + a z that follows g_DM + g_CA, with a fake score that follows the student's moments at a rate; six steps per turn."""
    draws = np.random.default_rng(0)
    mean, spread, fake_mean, fake_variance = 0.0, 1.0, MU, VARIANCE  # the fake score starts as the teacher, the student unguided
    for turn in range(turns):
        step = 6 * (turn + 1)
        z, noise, r = draws.normal(size=64), draws.normal(size=64), draws.uniform(0.02, 0.98, 64)
        x0 = mean + spread * z
        x = (1 - r) * x0 + r * noise
        target, guess = noise - x0, (x - posterior(x, r, fake_mean, fake_variance)) / r
        fake_mean += fake_rate * (mean - fake_mean)
        fake_variance += fake_rate * (spread**2 - fake_variance)
        g_match = match * (posterior(x, r, MU, VARIANCE) - posterior(x, r, fake_mean, fake_variance))
        g_guide = guidance * (SCALE - 1) * (posterior(x, r, MU, VARIANCE) - posterior(x, r, 0.0, VARIANCE)) * (r < 0.5)
        g = g_match + g_guide
        mean += rate * float(g.mean())
        spread += rate * float((g * z).mean())
        ratio = float(np.sqrt(np.mean(g_guide**2)) / (np.sqrt(np.mean(g_match**2)) + 1e-6))
        yield row(step, fake=float(np.mean((guess - target) ** 2)), ratio=ratio)
        if turn % 50 == 49:  # the guided teacher's mean square, as a picture's standard deviation over places
            teacher = math.sqrt(VARIANCE + (SCALE * MU / 2) ** 2)
            yield seen(step, math.sqrt(spread**2 + mean**2) / teacher, spread / math.sqrt(VARIANCE))


def first_alarm(**options):
    kept = []
    for one in distilled(**options):
        kept = recent([*kept, one])
        if found := judge(kept):
            return found
    return None


def test_no_alarm_sounds_over_matching_with_guidance():
    assert first_alarm() is None


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"match": 1e-3}, "spear-without-shield"),
        ({"fake_rate": 0.0}, "spear-without-shield"),
        ({"match": 0.1}, "saturation"),
        ({"fake_rate": 0.02}, None),
    ],
)
def test_guidance_alone_or_against_a_fake_score_that_stands_still_is_stopped_and_a_slow_one_is_not(options, rule):
    found = first_alarm(**options)
    assert (found.rule if found else None) == rule
    assert found is None or found.step <= 2400


# ---- the watch ----


def view(memory_host, folder, *, start_step=0, method=None):
    config = from_plain({**TINY_RUN, "data": {"use": "memory-pictures"}}, memory_host)
    if method is not None:
        config = msgspec.structs.replace(config, method=Selection("mt-dmd", method))
    return RunView(folder, config, 1000, start_step)


def told(watch, one):
    watch.logged(one["step"], {name: value for name, value in one.items() if name != "step"})


STORY = [*(row(s) for s in range(6, 61, 6)), seen(60), *(row(s) for s in range(66, 121, 6)), seen(120, 2.0), seen(500, 2.1)]


def test_the_newest_good_checkpoint_is_spared_and_the_reason_names_it(memory_host, tmp_path):
    run = view(memory_host, tmp_path, method=MtDmdConfig())
    watch = watch_over(run, LIMITS)
    for one in STORY:
        assert not run.control.stop_because
        told(watch, one)
        if one["step"] in (30, 90, 120) and one is not STORY[-3]:
            watch.saved(one["step"])
    assert run.control.spare_steps == {90}
    for words in ("2.1", "leave the teacher's", "of step 90: ", "step-00000090", "method.guidance.weight", "method.alarms = false"):
        assert words in run.control.stop_because


@pytest.mark.parametrize("cut", [30, 90, 120])
def test_a_resumed_watch_judges_as_one_that_was_never_interrupted(memory_host, tmp_path, cut):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in STORY), encoding="utf-8")
    for step in (30, 90):
        if step <= cut:
            (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    run = view(memory_host, tmp_path, start_step=cut, method=MtDmdConfig())
    start(run)
    watch = watch_of(run)
    for one in STORY:
        if one["step"] > cut:
            told(watch, one)
            if one["step"] == 90:
                watch.saved(90)
    assert run.control.spare_steps == {90}
    assert "of step 90: " in run.control.stop_because


def test_every_rule_has_its_remedy():
    assert set(REMEDIES) == {"not-finite", "saturation", "diversity", "fake-lost", "spear-without-shield"}


def test_alarms_that_are_off_and_other_methods_are_not_watched(memory_host, tmp_path):
    for one in (view(memory_host, tmp_path, method=MtDmdConfig(alarms=None)), view(memory_host, tmp_path)):
        start(one)
        assert watch_of(one) is None


# ---- in a run ----


WATCHED = {"run": {"steps": 12}, "validation": {"every_steps": 3, "samples": 4}, "checkpoint": {"every_steps": 2, "keep": 2}}


@pytest.fixture
def go(memory_host, made, tmp_path):
    def call(**changes):
        return run(from_teacher(made["base"], WATCHED, {"method": options(**changes)}), tmp_path / "run", memory_host)

    return call


def test_every_name_is_one_that_a_run_logs(go):
    out = go()
    logged = {name for one in read_rows(out / "metrics.jsonl") for name in one}
    trained = {names.LOSS, names.FAKE_LOSS, names.MATCH_NORM, names.GUIDANCE_NORM, names.RATIO, names.MATCH_SCALE, names.GUIDANCE_SCALE}
    trained |= {names.STUDENT_STD, *(names.GATE.format(objective, "generalist") for objective in ("dm", "ca"))}
    seen = {names.STUDENT_STD, names.STUDENT_SPREAD, names.TEACHER_STD, names.TEACHER_SPREAD, names.SATURATION, names.DIVERSITY}
    assert trained | {names.VALIDATION + name for name in seen} <= logged
    page = report_html(read_story(out))
    assert "no data" not in page
    assert "Matching (DM) by noise level" in page


def test_a_run_is_stopped_stays_stopped_and_goes_on_when_its_limits_are_changed(go, tmp_path):
    sharp = {"diversity_below": 1000.0, "diversity_steps": 3}  # no student is that diverse
    for _ in range(2):
        with pytest.raises(TrainingStopped, match=r"the spread over the student's pictures .*of step 4: .*fake_steps"):
            go(alarms=sharp)
        stopped = max(checkpoint_steps(tmp_path / "run"))
        assert stopped < 12
    go(alarms=False)
    assert max(checkpoint_steps(tmp_path / "run")) == 12
