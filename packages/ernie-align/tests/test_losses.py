"""The mathematics of the preference losses: values, gradients against the closed form, units, bounds, and that wrong variants are caught."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_align.collapse.plane import ELEMENTS, PlanePairs, PlaneVelocity, draw_pairs
from ernie_align.losses import (
    anchored_dpo,
    beta_eff,
    dpo,
    hinge_anchored_dpo,
    ipo,
    linear_dpo,
    linear_weight,
    loser_coefficient,
    margin,
    reduced,
    stopping_margin,
    weighted_sft_warning,
)
from ernie_core.flow.losses import PairError

D_AT_1024 = 128 * 64 * 64
STRENGTHS = [0.05, 0.15, 0.3, 1.0, 20.0, 0.05 * D_AT_1024]
REPORT = {"anchor_win": 0.35, "anchor_lose": 0.15}


def errors(*values, dtype=torch.float64, elements=8):
    """Policy and reference from win, lose, win_ref, lose_ref, each a number or a list."""
    win, lose, win_ref, lose_ref = (torch.atleast_1d(torch.tensor(v, dtype=dtype)) for v in values)
    return PairError(win.requires_grad_(), lose.requires_grad_(), elements), PairError(win_ref, lose_ref, elements)


def random_errors(*, dtype=torch.float64, spread=1.0, count=64, seed=0):
    """Errors near 1 whose differences from the reference have a scale of ``spread``."""
    generator = torch.Generator().manual_seed(seed)
    reference = 1 + torch.rand(2, count, generator=generator, dtype=torch.float64)
    policy = reference + spread * (torch.rand(2, count, generator=generator, dtype=torch.float64) - 0.5)
    return errors(*policy.tolist(), *reference.tolist(), dtype=dtype)


def gradients(loss_B, policy):
    return torch.autograd.grad(loss_B.sum(), (policy.win_B, policy.lose_B))


# ---- the invariants of the anchored loss, as a battery that wrong variants must fail ----


def check_start(loss, strength):
    """At step 0 the margin is bitwise zero and the loss ln 2 plus the anchors of the policy."""
    policy, reference = errors([0.1, 0.7, 3.3], [0.9, 0.3, 1e-4], [0.1, 0.7, 3.3], [0.9, 0.3, 1e-4])
    expected = math.log(2) + 0.35 * policy.win_B + 0.15 * policy.lose_B
    torch.testing.assert_close(loss(policy, reference, beta_eff=strength, **REPORT), expected, rtol=0, atol=1e-12)


def check_gradient(loss, strength, dtype=torch.float64):
    """dl_win = anchor_win + beta q and dl_lose = anchor_lose - beta q, per pair, within 1e-6 of the coefficients' scale."""
    policy, reference = random_errors(dtype=dtype, spread=4 / max(strength, 1.0))
    win_B, lose_B = gradients(loss(policy, reference, beta_eff=strength, **REPORT), policy)
    q_B = torch.sigmoid(-strength * margin(policy, reference).detach().double())
    tolerance = {"rtol": 0, "atol": 1e-6 * max(strength, 1.0)}
    torch.testing.assert_close(win_B.double(), 0.35 + strength * q_B, **tolerance)
    torch.testing.assert_close(lose_B.double(), 0.15 - strength * q_B, **tolerance)


def check_value(loss, strength):
    """One pair by hand: M = (0.9 - 0.5) - (0.2 - 0.3) = 0.5."""
    policy, reference = errors(0.2, 0.9, 0.3, 0.5)
    expected = math.log1p(math.exp(-strength * 0.5)) + 0.35 * 0.2 + 0.15 * 0.9
    assert loss(policy, reference, beta_eff=strength, **REPORT).item() == pytest.approx(expected, abs=1e-12)


CHECKS = (check_start, check_gradient, check_value)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("check", CHECKS)
def test_the_anchored_loss_keeps_its_invariants(check, strength):
    check(anchored_dpo, strength)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_gradient_is_the_closed_form_in_float32_too(strength):
    check_gradient(anchored_dpo, strength, torch.float32)


def _with_margin(change):
    def loss(policy, reference, *, beta_eff, anchor_win, anchor_lose):
        return -F.logsigmoid(beta_eff * change(policy, reference)) + anchor_win * policy.win_B + anchor_lose * policy.lose_B

    return loss


def _with_anchors(change):
    def loss(policy, reference, *, beta_eff, anchor_win, anchor_lose):
        return dpo(policy, reference, beta_eff=beta_eff) + change(policy, reference, anchor_win, anchor_lose)

    return loss


WRONG = {
    "a factor of one half": _with_margin(lambda p, r: 0.5 * margin(p, r)),
    "the margin's sign": _with_margin(lambda p, r: -margin(p, r)),
    "a sum taken for a mean": _with_margin(lambda p, r: margin(p, r) * p.elements),
    "no reference": _with_margin(lambda p, r: p.lose_B - p.win_B),
    "the reference's sides swapped": _with_margin(lambda p, r: (p.lose_B - r.win_B) - (p.win_B - r.lose_B)),
    "one margin for the whole batch": _with_margin(lambda p, r: margin(p, r).mean().expand(len(p.win_B))),
    "no gradient through the rejected side": _with_margin(lambda p, r: (p.lose_B.detach() - r.lose_B) - (p.win_B - r.win_B)),
    "errors in bfloat16": _with_margin(lambda p, r: margin(p, r).bfloat16().to(p.win_B)),
    "anchors on the reference": _with_anchors(lambda p, r, a, b: a * r.win_B + b * r.lose_B),
    "anchors swapped": _with_anchors(lambda p, r, a, b: a * p.lose_B + b * p.win_B),
    "anchors as sums": _with_anchors(lambda p, r, a, b: (a * p.win_B + b * p.lose_B) * p.elements),
    "an anchor subtracted": _with_anchors(lambda p, r, a, b: a * p.win_B - b * p.lose_B),
    "no anchor on the rejected side": _with_anchors(lambda p, r, a, b: a * p.win_B),
    "anchors averaged over the batch": _with_anchors(lambda p, r, a, b: (a * p.win_B + b * p.lose_B) / len(p.win_B)),
    "hinges for anchors": _with_anchors(lambda p, r, a, b: a * F.relu(p.win_B - r.win_B) + b * F.relu(p.lose_B - r.lose_B)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_implementation_fails_the_battery(name):
    failed = []
    for check in CHECKS:
        try:
            check(WRONG[name], 20.0)
        except AssertionError:
            failed.append(check.__name__)
    assert "check_gradient" in failed or "check_value" in failed, f"{name}: not caught"


# ---- the margin ----


def test_the_margin_is_bitwise_zero_where_policy_and_reference_agree():
    values = torch.rand(2, 1000, generator=torch.Generator().manual_seed(3))
    same = PairError(values[0], values[1], 8)
    assert torch.equal(margin(same, PairError(values[0].clone(), values[1].clone(), 8)), torch.zeros(1000))


def test_a_margin_is_positive_where_the_policy_improved_more_on_the_chosen_side():
    assert margin(*errors(0.1, 0.5, 0.3, 0.5)).item() == pytest.approx(0.2)
    assert margin(*errors(0.3, 0.4, 0.3, 0.5)).item() == pytest.approx(-0.1)


def test_swapping_chosen_and_rejected_flips_the_margin():
    policy, reference = random_errors(dtype=torch.float32)
    swapped = margin(PairError(policy.lose_B, policy.win_B, 8), PairError(reference.lose_B, reference.win_B, 8))
    assert torch.equal(swapped, -margin(policy, reference))


def test_the_reference_gets_no_gradient_and_may_not_ask_for_one():
    policy, reference = errors(0.2, 0.9, 0.3, 0.5)
    anchored_dpo(policy, reference, beta_eff=1.0, **REPORT).backward()
    assert reference.win_B.grad is None
    assert reference.lose_B.grad is None
    with pytest.raises(ValueError, match=r"reference\.win_B carries a gradient.*no_grad"):
        margin(policy, policy)


@pytest.mark.parametrize(
    ("policy", "reference", "message"),
    [
        (PairError(torch.ones(4), torch.ones(4), 8), PairError(torch.ones(3), torch.ones(3), 8), "four vectors"),
        (PairError(torch.ones(4, 1), torch.ones(4, 1), 8), PairError(torch.ones(4, 1), torch.ones(4, 1), 8), "four vectors"),
        (PairError(torch.ones(4), torch.ones(1), 8), PairError(torch.ones(4), torch.ones(4), 8), "four vectors"),
        (PairError(torch.ones(4), torch.ones(4), 8), PairError(torch.ones(4), torch.ones(4), 16), "of 8 numbers, the reference's of 16"),
        (PairError(torch.ones(4).bfloat16(), torch.ones(4), 8), PairError(torch.ones(4), torch.ones(4), 8), r"win_B is torch\.bfloat16"),
        (
            PairError(torch.ones(4), torch.ones(4), 8),
            PairError(torch.ones(4), torch.ones(4).half(), 8),
            r"reference\.lose_B is torch\.float16",
        ),
    ],
)
def test_errors_that_do_not_belong_together_are_refused(policy, reference, message):
    with pytest.raises(ValueError, match=message):
        margin(policy, reference)


@pytest.mark.parametrize("place", range(4))
def test_an_error_that_is_not_a_number_is_never_hidden(place):
    values = [0.2, 0.9, 0.3, 0.5]
    values[place] = math.nan
    policy, reference = errors(*values)
    for loss_B in (
        anchored_dpo(policy, reference, beta_eff=1.0, **REPORT),
        hinge_anchored_dpo(policy, reference, beta_eff=1.0, slack=0.1, **REPORT),
        linear_dpo(policy, reference, beta=1.0, floor=0.1),
        ipo(policy, reference, beta=1.0),
    ):
        assert loss_B.isnan().all()


# ---- limits and bounds ----


def test_identical_samples_on_both_sides_give_no_preference_gradient_but_equal_errors_do_not():
    torch.manual_seed(0)
    network, reference = PlaneVelocity(16), PlaneVelocity(16)
    pairs = draw_pairs(0, "test", 0, 32)
    same = PlanePairs(pairs.win_B2, pairs.win_B2, pairs.noise_B2, pairs.sigma_B)

    def gradient(drawn):
        with torch.no_grad():
            reference_errors = drawn.errors(reference)
        loss = dpo(drawn.errors(network), reference_errors, beta_eff=0.5).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])

    assert gradient(same).abs().max() < 1e-5
    assert gradient(pairs).abs().max() > 1e-1
    win, lose = torch.tensor([1.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    equal = PairError(win, lose, ELEMENTS)
    dpo(equal, PairError(win.detach(), lose.detach(), ELEMENTS), beta_eff=2.0).backward()
    assert (win.grad.item(), lose.grad.item()) == (1.0, -1.0)


def test_a_vanishing_beta_leaves_anchored_fine_tuning():
    policy, reference = random_errors()
    win_B, lose_B = gradients(anchored_dpo(policy, reference, beta_eff=1e-9, **REPORT), policy)
    torch.testing.assert_close(win_B, torch.full_like(win_B, 0.35), rtol=0, atol=2e-9)
    torch.testing.assert_close(lose_B, torch.full_like(lose_B, 0.15), rtol=0, atol=2e-9)


strengths = st.floats(-3, 5).map(lambda x: 10**x)
anchors = st.floats(0, 2)
error = st.floats(0, 50)


@settings(max_examples=150, deadline=None)
@given(strengths, anchors, anchors, error, error, error, error)
def test_coefficients_over_all_ranges(strength, anchor_win, anchor_lose, win, lose, win_ref, lose_ref):
    policy, reference = errors(win, lose, win_ref, lose_ref)
    loss_B = anchored_dpo(policy, reference, beta_eff=strength, anchor_win=anchor_win, anchor_lose=anchor_lose)
    to_win, to_lose = (g.item() for g in gradients(loss_B, policy))
    assert math.isfinite(loss_B.item())
    assert loss_B.item() >= 0
    pushed = to_win - anchor_win  # beta q
    assert -1e-9 * strength <= pushed <= strength * (1 + 1e-9)
    assert to_lose == pytest.approx(anchor_lose - pushed, abs=1e-9 * max(1, strength))
    closed = loser_coefficient(margin(policy, reference).detach(), beta_eff=strength, anchor_lose=anchor_lose).item()
    assert to_lose == pytest.approx(closed, abs=1e-6 * max(1, strength))
    if strength <= anchor_lose:
        assert to_lose >= 0  # never repelled


@settings(max_examples=150, deadline=None)
@given(strengths, st.floats(1e-3, 2))
def test_the_loser_coefficient_changes_its_sign_at_the_stopping_margin(strength, anchor_lose):
    stop = stopping_margin(strength, anchor_lose)
    if strength <= anchor_lose:
        assert stop is None
        return
    if strength < anchor_lose * (1 + 1e-6):
        return  # the coefficient is within rounding of 0 everywhere
    before, at, after = loser_coefficient(
        torch.tensor([stop - 0.1 / strength, stop, stop + 0.1 / strength], dtype=torch.float64), beta_eff=strength, anchor_lose=anchor_lose
    ).tolist()
    assert before < 0 < after
    assert abs(at) < 1e-9 * strength
    assert (stop > 0) == (strength > 2 * anchor_lose) or stop == pytest.approx(0, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(strengths, st.floats(-20, 20), st.floats(0.01, 5))
def test_a_larger_margin_never_costs_more(strength, at, step):
    policy, reference = errors([1.0, 1.0], [1.0 + at, 1.0 + at + step], [1.0, 1.0], [1.0, 1.0])
    smaller, larger = dpo(policy, reference, beta_eff=strength).tolist()
    assert larger <= smaller


# ---- units ----


def test_beta_eff_of_every_pair_of_reductions():
    assert beta_eff(0.05, "sum", "mean", D_AT_1024) == pytest.approx(26_214.4)
    assert beta_eff(0.05, "mean", "mean", D_AT_1024) == 0.05
    assert beta_eff(0.05, "sum", "sum", D_AT_1024) == pytest.approx(0.05)
    assert beta_eff(0.05, "mean", "sum", 100) == pytest.approx(5e-4)


def test_doubling_the_latent_doubles_beta_eff_with_sums_alone():
    assert beta_eff(0.05, "sum", "mean", 2 * D_AT_1024) == 2 * beta_eff(0.05, "sum", "mean", D_AT_1024)
    for both in ("sum", "mean"):
        assert beta_eff(0.05, both, both, 2 * D_AT_1024) == pytest.approx(beta_eff(0.05, both, both, D_AT_1024))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.05, "sum", "mean", 8), "beta must be a positive finite number, found -0.05"),
        ((0.0, "sum", "mean", 8), "beta must be a positive"),
        ((math.nan, "sum", "mean", 8), "found nan"),
        ((math.inf, "sum", "mean", 8), "found inf"),
        ((0.05, "sum", "mean", 0), "1 or more numbers, found 0"),
        ((0.05, "total", "mean", 8), "found 'total'"),
        ((0.05, "sum", "", 8), "found ''"),
    ],
)
def test_meaningless_strengths_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        beta_eff(*arguments)


def test_reduced_errors_are_sums_and_keep_a_bitwise_zero_margin():
    policy, _ = random_errors(dtype=torch.float32)
    win_B, lose_B = policy.win_B.detach(), policy.lose_B.detach()
    summed = reduced(PairError(win_B, lose_B, 8), "sum", 7)
    torch.testing.assert_close(summed.win_B, 7 * win_B)
    assert torch.equal(margin(summed, reduced(PairError(win_B.clone(), lose_B.clone(), 8), "sum", 7)), torch.zeros(64))
    assert reduced(policy, "mean", 7) is policy


def test_known_stopping_margins():
    assert stopping_margin(1.0, 0.15) == pytest.approx(1.7346, abs=1e-4)
    assert stopping_margin(0.05 * D_AT_1024, 0.15) == pytest.approx(4.6e-4, abs=1e-5)
    assert stopping_margin(0.3, 0.15) == pytest.approx(0.0)
    assert stopping_margin(0.05, 0.15) is None
    assert stopping_margin(0.15, 0.15) is None
    assert stopping_margin(1.0, 0.0) == math.inf


def test_the_warning_says_what_a_small_beta_means():
    assert weighted_sft_warning(0.1501, 0.15, 0.35) is None
    text = weighted_sft_warning(0.05, 0.15, 0.35)
    assert "trained TOWARDS" in text
    assert "0.375 : 0.125 (75 % : 25 %)" in text
    assert "2 x anchor_lose = 0.3" in text


# ---- the alternatives ----


def test_hinge_anchors_act_only_above_the_reference_and_the_slack():
    policy, reference = errors([0.5, 1.05, 1.2], [0.5, 1.05, 1.2], [1.0] * 3, [1.0] * 3)
    win_B, lose_B = gradients(hinge_anchored_dpo(policy, reference, beta_eff=1e-12, slack=0.1, **REPORT), policy)
    torch.testing.assert_close(win_B, torch.tensor([0, 0, 0.35], dtype=torch.float64))
    torch.testing.assert_close(lose_B, torch.tensor([0, 0, 0.15], dtype=torch.float64))


def test_hinge_anchors_leave_the_first_step_to_the_preference():
    policy, reference = errors([0.4], [0.7], [0.4], [0.7])
    win_B, lose_B = gradients(hinge_anchored_dpo(policy, reference, beta_eff=2.0, slack=0.0, **REPORT), policy)
    assert (win_B.item(), lose_B.item()) == (1.0, -1.0)


def test_linear_dpo_weighs_with_a_clipped_line_that_carries_no_gradient():
    margins = torch.tensor([-9.0, -0.5, 0.0, 0.5, 9.0], dtype=torch.float64)
    torch.testing.assert_close(linear_weight(margins, beta=2.0, floor=0.1), torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1], dtype=torch.float64))
    policy, reference = random_errors(spread=3.0)
    weight_B = linear_weight(margin(policy, reference), beta=0.7, floor=0.05)
    win_B, lose_B = gradients(linear_dpo(policy, reference, beta=0.7, floor=0.05), policy)
    torch.testing.assert_close(win_B, weight_B)
    torch.testing.assert_close(lose_B, -weight_B)
    assert weight_B.std() > 0.1


def test_the_linear_weight_follows_the_sigmoid_it_replaces():
    margins = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)
    assert (linear_weight(margins, beta=1.0, floor=0.0) - torch.sigmoid(-margins)).abs().max() < 0.035


def test_ipo_aims_at_its_target_margin_from_both_sides():
    policy, reference = errors([1.0] * 3, [1.0, 1.05, 1.3], [1.0] * 3, [1.0] * 3)
    loss_B = ipo(policy, reference, beta=10.0)
    torch.testing.assert_close(loss_B, torch.tensor([0.0025, 0.0, 0.0625], dtype=torch.float64))
    _, lose_B = gradients(loss_B, policy)
    torch.testing.assert_close(lose_B, torch.tensor([-0.1, 0.0, 0.5], dtype=torch.float64), atol=1e-12, rtol=0)
