"""The alarms of preference training: what stops a run, what does not, and that a resumed run is judged as one that was never interrupted."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_align import telemetry
from ernie_align.collapse.experiment import CollapseConfig, arms, run_seed
from ernie_align.report.story import episodes
from ernie_align.telemetry import AlarmConfig, is_healthy, judge, ratios, recent
from ernie_align.watch import watch_over
from ernie_core.api import RunView, TrainingStopped, from_plain
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, logged, merged
from ernie_core.train.start import train
from ernie_core.train.watch import checkpoint_steps, read_rows

LIMITS = AlarmConfig()


def row(step, win, lose=1.0, **more):
    return {
        "step": step,
        "loss": 1.0,
        telemetry.POLICY_WIN: win * 0.4,
        telemetry.REFERENCE_WIN: 0.4,
        telemetry.POLICY_LOSE: lose * 0.5,
        telemetry.REFERENCE_LOSE: 0.5,
    } | more


def rows(*ratio_pairs, every=10):
    return [row(every * (i + 1), *pair) for i, pair in enumerate(ratio_pairs)]


wins, loses = st.sampled_from([0.8, 0.999, 1.0, 1.002, 1.3]), st.sampled_from([0.9, 1.4, 1.6, 30.0])
histories = st.lists(st.tuples(st.integers(1, 30), wins, loses), min_size=1, max_size=30).map(
    lambda found: [row(sum(gap for gap, *_ in found[: i + 1]), win, lose) for i, (_, win, lose) in enumerate(found)]
)


# ---- the rules ----


@given(st.lists(st.floats(1.0, 400.0), min_size=1, max_size=40))
def test_rejected_errors_that_rise_alone_are_no_alarm(loses):
    history = rows(*((0.9, lose) for lose in sorted(loses)))
    assert judge(history) is None
    assert is_healthy(history)


def test_chosen_errors_above_the_reference_are_an_alarm_after_so_many_steps_and_not_before():
    history = rows((0.95, 1.2), *[(1.02, 1.2)] * 5)
    assert judge(history[:-1]) is None
    assert not is_healthy(history[:-1])
    found = judge(history)
    assert (found.rule, found.step, found.since) == ("chosen-rises", 60, 10)
    assert "over 50 steps the error on chosen pictures was 1.02 times the reference's (limit 1)" in found.found


def test_one_row_at_or_below_the_reference_ends_a_suspicion():
    assert judge(rows(*[(1.02, 1.2)] * 4, (1.0, 1.2), *[(1.02, 1.2)] * 4)) is None


def test_both_errors_rising_are_an_alarm_sooner():
    history = rows((0.9, 3.0), (1.05, 3.0))
    found = judge(history)
    assert (found.rule, found.since) == ("both-rise", 10)
    assert "3 times" in found.found
    assert "1.05 times" in found.found
    assert judge(rows((0.9, 3.0), (1.05, 1.4))) is None


def test_at_the_start_policy_and_reference_differ_by_rounding_only():
    assert judge(rows(*[(1.0 + 3e-6, 1.0)] * 50)) is None
    assert judge(rows(*[(1.0 + 3e-6, 1.0)] * 50), AlarmConfig(slack=0.0)).rule == "chosen-rises"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
@pytest.mark.parametrize("name", ["loss", "dpo/margin", "validation/loss"])
def test_what_is_not_finite_is_an_alarm_at_once(name, value):
    found = judge([*rows((0.9, 1.1)), row(20, 0.9, **{name: value})])
    assert (found.rule, found.step, found.since) == ("not-finite", 20, 10)
    assert name in found.found


def test_metrics_of_the_machine_may_be_missing():
    assert judge([row(10, 0.9, mfu=None)]) is None


def test_rows_of_validation_and_of_refused_steps_neither_end_nor_prolong_anything():
    bad = rows((0.9, 1.0), *[(1.1, 1.0)] * 5)
    between = [
        entry for one in bad for entry in (one, {"step": one["step"], "validation/loss": 0.5}, {"step": one["step"] + 5, "refused": 5.0})
    ]
    assert judge(between[:-5]) is None
    assert judge(between).rule == "chosen-rises"


def test_a_reference_without_error_gives_no_ratio():
    assert ratios({"step": 1, telemetry.POLICY_WIN: 1.0, telemetry.REFERENCE_WIN: 0.0}) == (None, None)


def test_nothing_is_wrong_with_nothing():
    assert judge([]) is None
    assert recent([]) == []
    assert is_healthy([])


@given(histories)
def test_the_end_of_a_history_is_judged_as_the_whole(history):
    kept = []
    for i in range(len(history)):
        kept = recent([*kept, history[i]], LIMITS)
        assert judge(kept, LIMITS) == judge(history[: i + 1], LIMITS)
        assert is_healthy(kept, LIMITS) == is_healthy(history[: i + 1], LIMITS)


@given(histories)
def test_episodes_are_what_judging_every_prefix_gives(history):
    told = [(e.alarm, e.until) for e in episodes(history, LIMITS)]
    alarms = [judge(history[: i + 1], LIMITS) for i in range(len(history))]
    expected = []
    for before, alarm in zip([None, *alarms], alarms, strict=False):
        if alarm is not None and before is not None and before.rule == alarm.rule:
            expected[-1] = (expected[-1][0], alarm.step)
        elif alarm is not None:
            expected.append((alarm, alarm.step))
    assert told == expected


def test_telling_a_long_collapse_costs_no_more_per_row_than_a_short_one(monkeypatch):
    calls = []
    plain = telemetry.ratios
    monkeypatch.setattr(telemetry, "ratios", lambda row: calls.append(1) or plain(row))
    costs = []
    for length in (200, 800):
        calls.clear()
        (found,) = episodes(rows(*[(1.5, 1.0)] * length, every=1), LIMITS)
        assert (found.alarm.since, found.until) == (0, length)
        costs.append(len(calls) / length)
    assert costs[1] < 1.5 * costs[0]


@given(histories)
def test_an_alarm_needs_the_chosen_error_above_its_limit_for_all_of_its_steps(history):
    found = judge(history)
    if found is not None:
        assert found.step - found.since >= (LIMITS.win_steps if found.rule == "chosen-rises" else LIMITS.lose_steps)
        assert all(ratios(one)[0] > 1 for one in history if one["step"] > found.since)


# ---- the watch ----


def watched(folder, start_step=0):
    config = from_plain(merged(TINY_RUN, {"data": {"use": "memory-pairs"}}, {"method": {"use": "dpo"}}), watched.host)
    view = RunView(folder, config, 1000, start_step)
    return watch_over(view, LIMITS), view.control


@pytest.fixture(autouse=True)
def _host(memory_host):
    watched.host = memory_host


def test_the_newest_good_checkpoint_is_spared_and_the_reason_names_it(tmp_path):
    watch, control = watched(tmp_path)
    control.spare_steps.add(1)  # somebody else's
    for one in rows(*[(0.9, 1.2)] * 4, *[(1.1, 1.2)] * 5):
        watch.logged(one["step"], {k: v for k, v in one.items() if k != "step"})
        if one["step"] in (20, 40, 60, 80):
            watch.saved(one["step"])
        assert bool(control.stop_because) == (one["step"] == 90)
    assert control.spare_steps == {1, 40}
    for words in (
        "1.1 times the reference's",
        "worse than its reference",
        "of step 40: ",
        "step-00000040. Use that one as it is, or begin another run with a lower",
        "learning_rate",
        "anchor_win",
        "alarms",
    ):
        assert words in control.stop_because


def test_a_run_that_was_never_healthy_says_so(tmp_path):
    watch, control = watched(tmp_path)
    watch.logged(60, {k: v for k, v in row(60, 1.2).items() if k != "step"})
    assert "No checkpoint was saved while the run was healthy. Begin another run with a lower" in control.stop_because
    assert "that one" not in control.stop_because


@pytest.mark.parametrize("cut", [10, 40, 50, 80])
def test_a_resumed_watch_judges_as_one_that_was_never_interrupted(tmp_path, cut):
    history = rows(*[(0.9, 1.2)] * 4, *[(1.1, 1.2)] * 5)
    lines = [json.dumps(one) for one in history]
    (tmp_path / "metrics.jsonl").write_text(
        "\n".join(["no row", "[1]", *lines, '{"step": 90, "lo']), encoding="utf-8"
    )  # ahead of the checkpoint
    for step in range(20, cut + 1, 20):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    watch, control = watched(tmp_path, cut)
    watch.catch_up()
    assert not control.stop_because
    for one in history[cut // 10 :]:
        watch.logged(one["step"], {k: v for k, v in one.items() if k != "step"})
        if one["step"] % 20 == 0:
            watch.saved(one["step"])
        assert bool(control.stop_because) == (one["step"] == 90)
    assert control.spare_steps == {40}
    assert "of step 40: " in control.stop_because


def test_what_validation_found_last_still_stops_a_run_that_was_interrupted(tmp_path):
    history = [*rows((0.9, 1.2), (0.9, 1.2)), {"step": 20, "validation/loss": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in history))
    (tmp_path / "checkpoints" / "step-00000020").mkdir(parents=True)
    watch, control = watched(tmp_path, 20)
    watch.catch_up()
    assert "not finite: validation/loss" in control.stop_because
    assert "No checkpoint was saved while the run was healthy" in control.stop_because


# ---- in a run ----

COLLAPSE = merged(
    TINY_RUN,
    {
        "data": {"use": "memory-pairs"},
        "method": {"use": "dpo", "loss": {"use": "diffusion-dpo", "beta": 0.05}, "adapter": {"rank": 2, "targets": ["all"]}},
        "samples": {"every_steps": 0},
        "validation": {"every_steps": 5},
        "checkpoint": {"every_steps": 2, "keep": 2},
        "schedule": {"kind": "constant"},
    },
)
SHARP = {"win_ratio": 0.5, "win_steps": 6}  # a healthy run is above this from its first step on


def go(tables, host, out):
    with one_thread():
        return train(from_plain(tables, host), host=host, out=out)


def with_alarms(alarms):
    return {**COLLAPSE, "method": {**COLLAPSE["method"], "alarms": alarms}}


def test_a_run_is_stopped_stays_stopped_and_goes_on_when_its_limits_are_changed(memory_host, tmp_path):
    out = tmp_path / "run"
    for _ in range(2):  # resumed from step 4, it comes to the same
        with pytest.raises(TrainingStopped, match=r"step 6: over 6 steps the error on chosen pictures was .* No checkpoint was saved"):
            go(with_alarms(SHARP), memory_host, out)
        assert max(checkpoint_steps(out)) == 4
    assert go(with_alarms(False), memory_host, out).step == 12
    assert sorted(logged(out)) == list(range(1, 13))


def test_every_name_is_one_that_a_run_logs(memory_host, tmp_path):
    go(merged(COLLAPSE, {"run": {"steps": 5}}), memory_host, tmp_path / "run")
    found = {name for one in read_rows(tmp_path / "run" / "metrics.jsonl") for name in one}
    names = {value for name, value in vars(telemetry).items() if name.isupper() and isinstance(value, str) and value.startswith("dpo/")}
    drift = {telemetry.VALIDATION + telemetry.DRIFT.format(d) for d in range(10)}
    assert names - {telemetry.DRIFT} | drift | {telemetry.LOSS, "validation/loss", "validation/dpo/margin"} <= found


def test_another_method_is_not_watched(memory_host, tmp_path):
    tables = {**COLLAPSE, "data": {"use": "memory-pictures"}, "method": {"use": "sft", "adapter": {"rank": 2, "targets": ["all"]}}}
    assert go(tables, memory_host, tmp_path / "run").step == 12


# ---- on the collapse that the rules are made for ----


def test_the_alarm_sounds_as_plain_preference_collapses_and_stays_silent_over_anchored_one():
    config = CollapseConfig(marks=tuple(range(10, 101, 10)), pretrain_steps=600, batch=128, held_out=512, samples=50)
    measures, _ = run_seed(0, config, [arm for arm in arms((0.05,)) if arm.name in ("plain 0.05", "anchored 0.05")])
    histories = {arm: [row(m.step, m.win_ratio, m.lose_ratio) for m in measures if m.arm == arm] for arm in ("plain 0.05", "anchored 0.05")}
    assert [judge(histories["anchored 0.05"][: i + 1]) for i in range(10)] == [None] * 10
    first = next(found for i in range(10) if (found := judge(histories["plain 0.05"][: i + 1])) is not None)
    assert first.step < 100
    assert ratios(histories["plain 0.05"][-1])[0] > 1.5  # it was right
