"""Retention, drift and their intervals, by hand and against core's own bootstrap; what pixels tell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.stats import bootstrap_interval
from ernie_distill.drift.measure import Ratio, Resamples, compared, estimate, over_domains, regressions, retention
from ernie_distill.drift.pictures import SIDE, mean_distance, pixel_facts

CLUSTERS = [f"c{i // 2}" for i in range(80)]  # two prompts each
RESAMPLES = Resamples.draw(CLUSTERS, resamples=400)
ONES = np.ones(80)
rng = np.random.default_rng(0)


def mean(values):
    return Ratio.of(np.asarray(values, float), ONES, RESAMPLES)


def level(value):
    return mean(np.full(80, value))


# ---- retention ----


def test_retention_by_hand():
    teachers = {"generalist": level(0.5), "text": level(0.9), "art": level(0.4)}
    found = retention(level(0.7), teachers, level(0.1))
    assert (found.teacher, found.value) == ("text", pytest.approx(0.6 / 0.8))
    assert np.allclose(found.found_R, 0.75)
    assert retention(level(0.7), {"generalist": level(0.5)}, level(0.1)).value == pytest.approx(1.5)  # better than it
    assert retention(level(0.45), teachers, None).value == pytest.approx(0.5)


@pytest.mark.parametrize("floor", [0.9, 0.95])
def test_without_a_teacher_above_the_floor_there_is_nothing_to_retain(floor):
    found = retention(level(0.7), {"generalist": level(0.5), "text": level(0.9)}, level(floor))
    assert found.value is None
    assert found.reason == f"`text`, the best teacher, scores 0.9, not above the floor of {floor:g}: there is nothing to retain"
    assert estimate(found.value, found.found_R, clusters=40, reason=found.reason).to_json()["reason"] == found.reason
    assert "`generalist` scores 0.5" in retention(level(0.7), {"generalist": level(0.5)}, level(0.9)).reason


def test_drift_is_the_worst_domain_and_spread_the_deviation_over_domains():
    teacher = {"generalist": level(0.8)}
    retained = {
        "text": retention(level(0.4), teacher, None),
        "art": retention(level(0.8), teacher, None),
        "photo": retention(level(0.6), teacher, None),
    }
    drift, spread, worst = over_domains(retained, clusters=40)
    assert (worst, drift.value) == ("text", pytest.approx(0.5))
    assert spread.value == pytest.approx(np.std([0.5, 1.0, 0.75]))
    assert (drift.low, drift.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_domains_without_a_retention_are_left_out_of_drift():
    none = retention(level(0.4), {"generalist": level(0.0)}, None)
    drift, _, worst = over_domains({"text": none, "art": retention(level(0.4), {"generalist": level(0.5)}, None)}, clusters=40)
    assert (worst, drift.value) == ("art", pytest.approx(0.2))
    drift, spread, worst = over_domains({"text": none}, clusters=40)
    assert (drift.value, spread.value, worst) == (None, None, None)
    assert drift.reason == "no domain has a retention"


# ---- intervals ----


def test_intervals_of_means_are_those_of_cores_bootstrap():
    values = rng.normal(size=80)
    found = mean(values)
    ours = estimate(found.value, found.found_R, clusters=40)
    core = bootstrap_interval(values, CLUSTERS, resamples=400)
    assert (ours.value, ours.low, ours.high) == pytest.approx((core.value, core.low, core.high), abs=1e-12)


def test_prompts_of_a_cluster_come_together():
    assert np.array_equal(RESAMPLES.counts_RP[:, ::2], RESAMPLES.counts_RP[:, 1::2])
    assert (RESAMPLES.counts_RP.sum(axis=1) == 80).all()
    assert np.array_equal(RESAMPLES.counts_RP, Resamples.draw(CLUSTERS, resamples=400).counts_RP)
    assert not np.array_equal(RESAMPLES.counts_RP, Resamples.draw(CLUSTERS, resamples=400, seed=1).counts_RP)


def test_a_student_that_is_its_teacher_retains_all_of_it_with_certainty():
    values = rng.uniform(size=80)
    found = retention(mean(values), {"generalist": mean(values)}, None)
    retained = estimate(found.value, found.found_R, clusters=40)
    assert (retained.value, retained.low, retained.high) == pytest.approx((1, 1, 1))


def test_intervals_of_paired_models_are_narrower_than_of_strangers():
    hardness = rng.uniform(0.2, 1, 80)
    teacher, student = mean(hardness), mean(0.9 * hardness + 0.01 * rng.normal(size=80))
    stranger = mean(0.9 * rng.permutation(hardness))
    widths = []
    for one in (student, stranger):
        found = retention(one, {"generalist": teacher}, None)
        interval = estimate(found.value, found.found_R, clusters=40)
        widths.append(interval.high - interval.low)
    assert widths[0] < 0.2 * widths[1]


def test_intervals_hold_the_true_retention_about_as_often_as_they_say():
    """True: scores .8 and .6 over a floor of .2, so .4 / .6. Prompts of a cluster share their hardness."""
    hits, runs = 0, 400
    for _ in range(runs):
        shared = np.repeat(rng.normal(0, 0.2, 40), 2)
        student, teacher, floor = (
            mean(value + shared * scale + rng.normal(0, 0.1, 80)) for value, scale in ((0.6, 0.8), (0.8, 1.0), (0.2, 0.1))
        )
        found = retention(student, {"generalist": teacher}, floor)
        interval = estimate(found.value, found.found_R, clusters=40)
        hits += interval.low <= 2 / 3 <= interval.high
    assert 0.90 <= hits / runs <= 0.985


def test_a_single_cluster_or_too_many_empty_resamples_give_no_interval():
    one = estimate(0.5, np.full(10, 0.5), clusters=1)
    assert (one.value, one.low) == (0.5, None)
    assert "one cluster" in one.reason
    rare = np.zeros(80)
    rare[:2] = 1  # one cluster of 40: absent in a third of the resamples
    found = Ratio.of(rare, rare, RESAMPLES)
    assert "not defined in" in estimate(found.value, found.found_R, clusters=2).reason


# ---- prompts ----


def test_shares_of_prompts_that_are_worse_or_better_by_more_than_delta():
    teacher_P, student_P, counted_P = np.full(80, 0.5), np.full(80, 0.5), np.ones(80)
    student_P[:10], student_P[10:16], student_P[16:40] = 0.2, 0.9, 0.4  # .4 is lower by delta, and not by more
    found = regressions(student_P, teacher_P, counted_P, RESAMPLES, delta=0.1, clusters=40)
    assert (found.worse.value, found.better.value) == (10 / 80, 6 / 80)
    assert found.worse.low < 10 / 80 < found.worse.high
    counted_P[40:] = 0
    assert regressions(student_P, teacher_P, counted_P, RESAMPLES, delta=0.0, clusters=20).worse.value == 34 / 40


def test_a_ratio_to_nothing_is_not_defined():
    found = compared(level(0.5), level(0.0), clusters=40)
    assert (found.value, found.reason) == (None, "it is not defined")


# ---- pixels ----


def test_contrast_and_clipping_of_a_picture_by_hand():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:, 0] = 255  # red jumps from black to full, the others are constant
    pixels[..., 2] = 7
    found = pixel_facts(pixels)
    assert found.std == pytest.approx(0.5 / 3)
    assert found.clipped == pytest.approx(2 / 3)


def test_distance_of_pictures_by_hand():
    black, white = (pixel_facts(np.full((32, 48, 3), value, np.uint8)) for value in (0, 255))
    assert mean_distance([black, white]) == pytest.approx(1)
    assert mean_distance([black, white, white]) == pytest.approx(2 / 3)
    assert mean_distance([black, black]) == 0
    assert mean_distance([black]) is None


@given(st.integers(1, 70), st.integers(1, 70))
@settings(deadline=None)
def test_pictures_of_any_size_are_compared_at_one_size_and_keep_their_mean(height, width):
    pixels = np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    small = pixel_facts(pixels).small
    assert small.shape == (SIDE * SIDE * 3,)
    assert small.min() >= 0
    assert small.max() <= 1
    if height % SIDE == width % SIDE == 0:
        assert small.mean() == pytest.approx(pixels.mean() / 255, abs=1e-6)


def test_fine_noise_hardly_tells_pictures_apart_and_layout_does():
    grey = np.full((64, 64, 3), 128, np.int16)
    noisy = [pixel_facts((grey + np.random.default_rng(i).integers(-20, 21, grey.shape)).astype(np.uint8)) for i in range(2)]
    left, right = grey.copy(), grey.copy()
    left[:, :32], right[:, 32:] = 148, 148
    assert mean_distance(noisy) < 0.3 * mean_distance([pixel_facts(one.astype(np.uint8)) for one in (left, right)])
