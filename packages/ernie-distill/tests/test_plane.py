"""Distillation in the plane: what is drawn and measured, that turns train whom they should, and what works at CI size."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ernie_core.plane.velocity import seeded_velocity
from ernie_core.rng import Rng
from ernie_core.sampling.samplers import euler
from ernie_core.sampling.schedule import inference_sigmas
from ernie_distill.plane.experiment import ARMS, Arm, Committee, DistilConfig, Measure, _Turns, distil, run_seed, to_json
from ernie_distill.plane.mixture import MODES, STD, TeacherConfig, draw_points, judge, labelled_velocity, mean_of_weights, modes
from ernie_distill.plane.picture import LABEL_PX, PANEL_PX, panels
from ernie_distill.plane.summary import CLAIMS, Claim, compare, comparisons, summarise, table
from ernie_distill.plane.summary import to_json as row_to_json

TINY = DistilConfig(teacher=TeacherConfig(steps=20, expert_steps=10, width=16), marks=(1, 3), fake_warmup_steps=6, batch=16, samples=64)
"""Learns nothing; for what must hold of any network."""


def networks(count):
    return [seeded_velocity(seed, width=16, labels=MODES).requires_grad_(False) for seed in range(count)]


def drawn(count=4000, **options):
    return draw_points(Rng(0).at("test", 0).generator(0), count, **options)


# ---- the mixture and its measures ----


def test_points_follow_their_labels_but_for_the_share_that_is_noise():
    points = drawn(label_noise=0.3)
    nearest_B = torch.cdist(points.x_B2, modes()).argmin(1)
    assert float((nearest_B == points.label_B).double().mean()) == pytest.approx(0.7 + 0.3 / 8, abs=0.03)
    assert torch.bincount(points.label_B, minlength=MODES).min() > 400


@pytest.mark.parametrize(("right", "known", "other"), [("x", 0, 1), ("y", 1, 0)])
def test_partial_points_have_one_coordinate_of_their_label_and_one_of_any_mode(right, known, other):
    points = drawn(right=right)
    expected_B2 = modes()[points.label_B]
    assert float((points.x_B2[:, known] - expected_B2[:, known]).std()) == pytest.approx(STD, rel=0.05)
    joint = torch.stack([points.x_B2[:, other], expected_B2[:, other]])
    assert abs(float(torch.corrcoef(joint)[0, 1])) < 0.06
    half = drawn(right="either")
    deviation_B2 = (half.x_B2 - modes()[half.label_B]).abs() < 4 * STD
    assert deviation_B2[::2, 0].all()
    assert deviation_B2[1::2, 1].all()
    assert not deviation_B2.all()


def test_true_points_are_judged_perfect_and_a_shift_by_its_length():
    label_B = torch.arange(4000) % MODES
    first, second = (modes()[label_B] + STD * torch.randn(4000, 2, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    found = judge(first, label_B, data_B2=second, teacher_B2=first + torch.tensor([0.3, 0.0]))
    assert found.accuracy > 0.99
    assert found.on_manifold == pytest.approx(0.989, abs=0.005)
    assert found.to_data < 0.03
    assert found.to_teacher == pytest.approx(0.3 * 2 / math.pi, rel=1e-2)  # the mean of |cos|
    assert found.spread == pytest.approx(1.0, abs=0.04)
    assert found.reach == pytest.approx(1.0, abs=0.01)
    wide = judge(modes()[label_B] + 1.5 * (first - modes()[label_B]), label_B, data_B2=second, teacher_B2=second)
    assert wide.spread == pytest.approx(1.243, abs=0.03)  # of a normal law cut at 2 deviations: what lies beyond NEAR is not counted
    swapped = judge(first, (label_B + 1) % MODES, data_B2=second, teacher_B2=second)
    assert swapped.accuracy < 0.01
    assert swapped.on_manifold == found.on_manifold
    assert math.isnan(swapped.spread)
    assert judge(100 * first, label_B, data_B2=second, teacher_B2=second).on_manifold == 0


# ---- committees, rollouts and turns ----


def test_a_committee_of_one_is_guided_as_any_model_and_gates_take_each_coordinate_from_one():
    x, y = networks(2)
    x_B2, label_B, sigma_B = torch.randn(8, 2), torch.arange(8), torch.full((8,), 0.6)
    alone = Committee((x,), torch.ones(1, 2), x)
    unlabelled_B = torch.full_like(label_B, MODES)
    cond, uncond = x(x_B2, sigma_B, label_B), x(x_B2, sigma_B, unlabelled_B)
    torch.testing.assert_close(alone.guided(label_B, 4.0)(x_B2, 0.6), uncond + 4 * (cond - uncond), rtol=1e-4, atol=1e-5)
    gated = Committee((x, y), torch.eye(2), x).x0(x_B2, sigma_B, label_B)
    expected = [x_B2 - 0.6 * network(x_B2, sigma_B, label_B) for network in (x, y)]
    torch.testing.assert_close(gated, torch.stack([expected[0][:, 0], expected[1][:, 1]], 1))
    weights = mean_of_weights([x, y])
    torch.testing.assert_close(weights.layers[2].weight, (x.layers[2].weight + y.layers[2].weight) / 2)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_a_rollout_passes_where_the_deployed_sampler_does_and_ends_in_its_last_clean_sample(steps):
    (student,) = networks(1)
    turns = _Turns(Arm("any", steps=steps), 0, TINY)
    states = turns.states(student, 3)
    assert states.x_SB2.shape == (steps, TINY.batch, 2)
    reached, sigmas = [], inference_sigmas(steps, 3.0)
    final = euler(labelled_velocity(student, states.label_B), states.x_SB2[0], sigmas, on_step=lambda i, sigma, x: reached.append(x))
    torch.testing.assert_close(states.x_SB2[1:], torch.stack(reached)[:-1])
    last = torch.full((TINY.batch,), steps - 1)
    torch.testing.assert_close(turns._clean(student, states, np.random.default_rng(), last), final, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arm", [Arm("DM", guidance=False), Arm("CA", match=False), Arm("both"), Arm("coupled", coupled=True)])
def test_a_turn_trains_its_own_network_only(arm):
    student, fake, x, y = (network.requires_grad_(True) for network in networks(4))
    committee, turns = Committee((x, y), torch.eye(2), x), _Turns(arm, 0, TINY)
    states = turns.states(student, 0)
    turns.fake_loss(student, fake, states, 0).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fake.parameters())
    assert all(p.grad is None for network in (student, x, y) for p in network.parameters())
    fake.zero_grad()
    turns.student_loss(student, fake, committee, states, 0).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for network in (fake, x, y) for p in network.parameters())


def test_five_fake_updates_go_before_each_of_the_student_after_the_warm_up(monkeypatch):
    (start,) = networks(1)
    seen = []
    for turn in ("fake_loss", "student_loss"):
        original = getattr(_Turns, turn)

        def noted(self, *arguments, original=original, turn=turn):
            seen.append(turn[0])
            return original(self, *arguments)

        monkeypatch.setattr(_Turns, turn, noted)
    marks = [update for update, _ in distil(Committee((start,), torch.ones(1, 2), start), ARMS[0], 0, TINY)]
    assert marks == [1, 3]
    assert "".join(seen) == "f" * 6 + "fffffs" * 3


def test_a_seed_gives_bitwise_the_same_whatever_other_arms_run():
    chosen = [arm for arm in ARMS if arm.name in ("DM + CA, 8 steps", "x and y, gates", "DM + CA, re-noising")]
    before = torch.random.get_rng_state()
    measures, points = run_seed(0, TINY, chosen)
    assert torch.equal(torch.random.get_rng_state(), before)
    alone, alone_points = run_seed(0, TINY, [arm for arm in chosen if arm.teachers == "gated"])
    theirs, again = ([str(m) for m in found if m.arm == "x and y, gates"] for found in (measures, alone))
    assert theirs == again
    assert len(again) == 3
    assert all(torch.equal(x, points[key]) for key, x in alone_points.items())
    assert {(m.update, m.sampler) for m in measures if m.arm == "DM + CA, re-noising"} == {(1, "renoise"), (3, "euler"), (3, "renoise")}
    assert measures[0].arm == "guided teacher: whole"
    assert measures[0].to_teacher == 0


# ---- tables and pictures ----


def measure(arm, seed, *, update=300, sampler="euler", accuracy=0.9, spread=1.0):
    return Measure(accuracy, 0.9, 0.1, 0.2, spread, 1.0, seed=seed, arm=arm, update=update, steps=8, sampler=sampler)


def test_rows_have_intervals_and_claims_are_paired_at_the_last_mark_in_one_sampler():
    better, worse = "DM + CA, 8 steps", "DM, 8 steps"
    measures = [measure(better, seed, accuracy=0.90 + 0.01 * seed) for seed in (0, 1, 2)]
    measures += [measure(better, 0, update=100, accuracy=0.2), measure(better, 0, sampler="renoise", accuracy=0.1, spread=math.nan)]
    measures += [measure(worse, seed, accuracy=0.60 + 0.01 * seed + 0.001 * (seed == 1)) for seed in (2, 1, 0)]
    found = compare(measures, Claim(better, worse), "accuracy")
    assert found.interval.value == pytest.approx(0.3, abs=1e-3)
    assert found.interval.low > 0.29
    assert found.p_value < 1e-4
    assert compare(measures, Claim(better, "teacher of x"), "accuracy") is None
    rows = summarise(measures)
    assert [(row["update"], row["sampler"], row["seeds"]) for row in rows] == [
        (300, "euler", 3),
        (100, "euler", 1),
        (300, "renoise", 1),
        (300, "euler", 3),
    ]
    assert rows[0]["accuracy"].value == pytest.approx(0.91)
    assert rows[2]["spread"] is None
    assert row_to_json(rows[2])["spread"] is None
    lines = list(table(rows))
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert f"| {better} | 300 | euler, 8 steps | 0.91 [" in lines[2]
    assert sum(line.startswith(f"| {better} | {worse} | +0.30 [") for line in comparisons(measures)) == 1
    assert to_json(measures[4])["spread"] is None


def test_claims_name_arms_that_exist():
    names = {arm.name for arm in ARMS} | {f"undistilled, {n} steps" for n in (2, 4, 8)}
    assert {name for claim in CLAIMS for name in (claim.better, claim.worse)} <= names
    assert len({arm.name for arm in ARMS}) == len(ARMS)


def test_the_picture_shows_every_other_label_beside_the_arms_teacher_and_leaves_empty_what_was_not_sampled():
    x_N2 = modes().repeat(50, 1) + 0.1
    points = {("guided teacher: whole", "euler, 0"): x_N2, ("an arm", "euler, 5"): x_N2 + 100, ("another", "renoise, 5"): x_N2}
    with Image.open(io.BytesIO(panels(points, [Arm("an arm"), Arm("another", teachers="x")], [5]))) as picture:
        pixels = np.asarray(picture.convert("L"), np.float64)
    assert pixels.shape == (18 + 2 * PANEL_PX, LABEL_PX + 3 * PANEL_PX)  # teacher, euler, renoise
    rows = [pixels[18 + i * PANEL_PX :][:PANEL_PX, LABEL_PX:] for i in range(2)]
    taught, sampled, missing = np.split(rows[0], 3, 1)
    middle = slice(10, -30)  # within the frame, above "100 % outside"
    assert taught[middle, middle].mean() < sampled[middle, middle].mean()  # points and circles against circles alone
    assert missing.min() == 255
    assert np.split(rows[1], 3, 1)[0].min() == 255  # no teacher of x was given
    assert int((taught == taught.min()).sum()) == 4  # points on one another are darkest: four labels of the eight


# ---- what works, at CI size ----

SMALL = DistilConfig(
    teacher=TeacherConfig(steps=1500, expert_steps=800),
    marks=(60, 150),
    learning_rate=1e-3,
    fake_learning_rate=2e-3,
    ema_decay=0.95,
    samples=1600,
)


@pytest.mark.battery
@pytest.mark.parametrize("seed", [0])
def test_guidance_needs_matching_matching_needs_guidance_and_partial_teachers_need_gates(seed):
    wanted = (
        "DM, 8 steps",
        "DM + CA, 8 steps",
        "CA alone",
        "DM, 4 steps",
        "DM + CA, 4 steps",
        "teacher of x",
        "teacher of y",
        "x and y, gates",
    )
    measures, _ = run_seed(seed, SMALL, [arm for arm in ARMS if arm.name in wanted])

    def found(arm, update=150):
        (one,) = (m for m in measures if (m.arm, m.update, m.sampler) == (arm, update, "euler"))
        return one

    assert found("undistilled, 8 steps", 0).accuracy < 0.85
    assert found("guided teacher: whole", 0).accuracy > 0.97
    for steps in (8, 4):
        both, matching = found(f"DM + CA, {steps} steps"), found(f"DM, {steps} steps")
        assert both.accuracy > 0.85
        assert both.accuracy > matching.accuracy + 0.1
        assert both.to_data < matching.to_data - 0.1
    alone = found("CA alone")
    assert alone.reach > 2
    assert alone.reach > found("CA alone", 60).reach + 0.3  # and goes on
    assert alone.on_manifold < 0.1
    gated = found("x and y, gates")
    for one in ("teacher of x", "teacher of y"):
        assert gated.accuracy > found(one).accuracy + 0.15
        assert gated.to_data < found(one).to_data - 0.2
