"""The collapse experiment in the plane: what it measures, that it is the same every time, and what collapses."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ernie_align.collapse.experiment import SUM_AT_1024, CollapseConfig, arms, run_seed, to_json
from ernie_align.collapse.picture import scatter
from ernie_align.collapse.plane import MODE_A, MODE_B, STD, draw_pairs, sample, shares
from ernie_align.collapse.summary import ALIKE, markdown, summarise
from ernie_align.collapse.summary import to_json as row_to_json
from ernie_core.plane.picture import PANEL_PX
from ernie_core.plane.velocity import PlaneVelocity

SMALL = CollapseConfig(strengths=(0.05, SUM_AT_1024), marks=(100,), pretrain_steps=600, batch=128, held_out=1024, samples=500)


@pytest.fixture(scope="module")
def small():
    return run_seed(0, SMALL)


def found(measures, arm, step):
    (measure,) = (m for m in measures if (m.arm, m.step) == (arm, step))
    return measure


def test_plain_preference_at_a_small_beta_collapses_and_anchors_prevent_it(small):
    measures, _ = small
    plain, anchored = found(measures, "plain 0.05", 100), found(measures, "anchored 0.05", 100)
    assert plain.lose_ratio > 10
    assert plain.win_ratio > 2  # the chosen side is dragged along
    assert plain.accuracy > 0.95  # accuracy does not see the collapse
    assert anchored.lose_ratio < 3
    assert anchored.win_ratio < 1
    assert anchored.a > 0.6
    assert anchored.on_manifold > 0.9


def test_anchors_with_a_small_beta_are_the_weighted_fine_tuning(small):
    """Section 3.2 of the design: beta_eff .05 below anchor_lose .15 is fine-tuning at .375 : .125."""
    measures, _ = small
    anchored, control = found(measures, "anchored 0.05", 100), found(measures, ALIKE, 100)
    assert anchored.a == pytest.approx(control.a, abs=0.04)
    assert anchored.lose_ratio == pytest.approx(control.lose_ratio, rel=0.06)
    assert 0.10 < anchored.loser_coefficient < 0.15


def test_sums_saturate_at_a_tiny_margin(small):
    measures, _ = small
    assert found(measures, f"anchored {SUM_AT_1024:g}", 100).lose_ratio < 1.3
    assert found(measures, f"plain {SUM_AT_1024:g}", 100).lose_ratio < 1.3


@pytest.mark.slow
def test_the_published_table_at_one_seed():
    config = CollapseConfig()
    measures, _ = run_seed(0, config)
    plain = found(measures, "plain 0.05", 600)
    assert plain.lose_ratio > 50
    assert plain.win_ratio > 5
    assert plain.accuracy > 0.95
    for strength in config.strengths:
        anchored = found(measures, f"anchored {strength:g}", 600)
        assert anchored.lose_ratio < 3
        assert anchored.win_ratio < 1
        assert anchored.on_manifold > 0.9
    assert found(measures, "anchored 0.05", 600).a > 0.65
    assert found(measures, "plain 20", 600).on_manifold > 0.95  # plain preference does not collapse at every strength


def test_the_reference_knows_both_modes_and_comes_first(small):
    measures, _ = small
    assert (measures[0].arm, measures[0].step) == ("reference", 0)
    assert (measures[0].win_ratio, measures[0].lose_ratio, measures[0].margin) == (1.0, 1.0, 0.0)
    assert measures[0].on_manifold > 0.9
    assert 0.4 < measures[0].a < 0.6


def test_a_seed_gives_bitwise_the_same_measures_whatever_other_arms_run(small):
    measures, points = small
    (alone,) = [arm for arm in arms(SMALL.strengths) if arm.name == "anchored 0.05"]
    before = torch.random.get_rng_state()
    again, again_points = run_seed(0, SMALL, [alone])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again == [m for m in measures if m.arm in ("reference", "anchored 0.05")]
    assert all(torch.equal(drawn, points[key]) for key, drawn in again_points.items())


def test_both_sides_of_a_pair_share_noise_and_time():
    pairs = draw_pairs(3, "test", 7, 2000)
    seen = []

    def velocity(x_B2, sigma_B):
        seen.append((x_B2, sigma_B))
        return torch.zeros_like(x_B2)

    errors = pairs.errors(velocity)
    ((x_P2, sigma_P),) = seen
    assert torch.equal(*sigma_P.chunk(2))
    win_x, lose_x = x_P2.chunk(2)
    torch.testing.assert_close(win_x - lose_x, (1 - pairs.sigma_B[:, None]) * (pairs.win_B2 - pairs.lose_B2), atol=1e-5, rtol=0)
    torch.testing.assert_close(errors.win_B, (pairs.noise_B2 - pairs.win_B2).square().mean(1))
    for points, mode in ((pairs.win_B2, MODE_A), (pairs.lose_B2, MODE_B)):
        assert (points.mean(0) - torch.tensor(mode)).abs().max() < 4 * STD / math.sqrt(2000)


def test_shares_count_points_near_each_mode_and_none_that_are_not_finite():
    points = torch.tensor([[2.0, 0.9], [2.0, 1.1], [-2.5, 0.0], [0.0, 0.0], [math.nan, 0.0], [math.inf, 0.0], [2.0, 0.0], [2.1, 0.0]])
    assert shares(points) == (3 / 8, 1 / 8)


def test_samples_of_all_networks_start_from_the_same_noise():
    still = PlaneVelocity(8)
    for parameter in still.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(sample(still, 4, 10), sample(still, 4, 10))
    assert not torch.equal(sample(still, 4, 10), sample(still, 5, 10))


def test_rows_have_intervals_over_seeds_and_beta_eff(small):
    measures, _ = small
    second = [replace(m, seed=1, a=min(1.0, m.a + 0.01), lose_ratio=2 * m.lose_ratio) for m in measures]
    rows = summarise([*measures, *second], arms(SMALL.strengths))
    assert rows[0]["collapsed_seeds"] == 0
    row = next(r for r in rows if (r["arm"], r["step"]) == ("plain 0.05", 100))
    one = found(measures, "plain 0.05", 100)
    assert row["lose_ratio"].value == pytest.approx(one.lose_ratio * math.sqrt(2))
    assert row["lose_ratio"].low < one.lose_ratio
    assert row["collapsed_seeds"] == 2 * (one.on_manifold < 0.9)
    lines = list(markdown(rows))
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    text = "\n".join(lines)
    assert "| plain 0.05 | 0.05 | never stops | 100 |" in text
    assert "| anchored 0.05 | 0.05 | never repels | 100 |" in text
    assert "| anchored 26214.4 | 26,214.4 | 0.00046 | 100 |" in text
    assert set(row_to_json(row)["a_minus"]) == {ALIKE, "SFT winner only"}


def test_what_is_not_finite_becomes_null(small):
    assert to_json(replace(small[0][0], win_ratio=math.inf))["win_ratio"] is None


def test_the_picture_has_a_panel_per_arm_and_step_and_says_what_is_outside():
    cloud = torch.tensor([MODE_A]) + 0.3 * torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    points = {("reference", 0): cloud, ("an arm", 5): torch.cat([cloud, torch.full((500, 2), math.nan)])}
    with Image.open(io.BytesIO(scatter(points, ["an arm"], [0, 5]))) as picture:
        pixels = np.asarray(picture.convert("L"), np.float64)
    panel = pixels[-PANEL_PX:, -2 * PANEL_PX : -PANEL_PX]
    assert panel[:, PANEL_PX // 2 :].mean() < panel[:, : PANEL_PX // 2].mean() - 1  # A is on the right
    corners = [pixels[-16:-2, -2 * PANEL_PX + 3 : -PANEL_PX - 40], pixels[-16:-2, -PANEL_PX + 3 : -40]]
    assert corners[0].min() == 255  # nothing outside
    assert corners[1].min() < 128  # "50 % outside"
