"""The preference losses as a config selects them: reductions, what they tell about themselves, refusals."""

import math
from importlib import import_module

import msgspec
import pytest
import torch

from ernie_align.entries import LOSSES
from ernie_align.loss_config import AnchoredDpoConfig, HingeAnchorsConfig
from ernie_align.losses import anchored_dpo, reduced
from ernie_align.preference import build_anchored, build_hinge
from ernie_core.api import ConfigError, PluginHost, PureContext, Selection
from ernie_core.flow.losses import PairError

CONTEXT = PureContext()
D = 128 * 64 * 64
NAMES = [entry.name for entry in LOSSES]


def build(name, **options):
    (entry,) = (entry for entry in LOSSES if entry.name == name)
    module, _, attribute = entry.build.partition(":")
    return getattr(import_module(module), attribute)(msgspec.convert(options, entry.config), CONTEXT)


def some_errors(*, count=32, elements=D, spread=0.02, seed=0):
    generator = torch.Generator().manual_seed(seed)
    reference = 1 + torch.rand(2, count, generator=generator, dtype=torch.float64)
    policy = reference + spread * (torch.rand(2, count, generator=generator, dtype=torch.float64) - 0.5)
    win_B, lose_B = policy[0].requires_grad_(), policy[1].requires_grad_()
    return PairError(win_B, lose_B, elements), PairError(reference[0], reference[1], elements)


def at_start(count=5, elements=D):
    values = torch.rand(2, count, generator=torch.Generator().manual_seed(1))
    return PairError(values[0], values[1], elements), PairError(values[0].clone(), values[1].clone(), elements)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_registered_for_pairs(name):
    host = PluginHost.discover()
    entry = host.entry("losses", name)
    assert entry.kind == "pair"
    assert host.build("losses", Selection(name, entry.config()), CONTEXT) == build(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_gives_one_number_per_pair(name):
    policy, reference = some_errors()
    loss = build(name)
    loss_B = loss(policy, reference)
    assert loss_B.shape == (32,)
    assert loss_B.isfinite().all()
    torch.testing.assert_close(
        torch.cat(
            [
                loss(
                    PairError(policy.win_B[i : i + 1], policy.lose_B[i : i + 1], D),
                    PairError(reference.win_B[i : i + 1], reference.lose_B[i : i + 1], D),
                )
                for i in range(32)
            ]
        ),
        loss_B,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_terms_loser_coefficient_is_the_gradient(name):
    policy, reference = some_errors()
    loss = build(name)
    terms = loss.terms(policy, reference)
    (gradient_B,) = torch.autograd.grad(loss(policy, reference).sum(), policy.lose_B)
    scale = max(1.0, float(gradient_B.abs().max()))
    torch.testing.assert_close(terms["loser_coefficient"], gradient_B, rtol=0, atol=1e-6 * scale)
    torch.testing.assert_close(
        terms["margin"], (policy.lose_B - reference.lose_B - policy.win_B + reference.win_B).detach(), rtol=0, atol=1e-12
    )
    assert not any(term.requires_grad for term in terms.values())
    strength = loss.beta_eff(D)
    if strength is not None and name != "hinge-anchors":
        torch.testing.assert_close(terms["loser_coefficient"], loss.anchor_lose - strength * terms["saturation"])


@pytest.mark.parametrize("name", NAMES)
def test_where_policy_and_reference_agree_the_margin_is_bitwise_zero(name):
    policy, reference = at_start()
    loss = build(name)
    assert torch.equal(loss.terms(policy, reference)["margin"], torch.zeros(5))
    expected = {
        "anchored-dpo": math.log(2) + 0.35 * policy.win_B + 0.15 * policy.lose_B,
        "hinge-anchors": torch.full((5,), math.log(2)),
        "diffusion-dpo": torch.full((5,), math.log(2)),
        "flow-dpo": torch.full((5,), math.log(2)),
        "linear-dpo": 0.5 * (policy.win_B - policy.lose_B),
        "ipo": torch.full((5,), 0.05**2),
    }
    torch.testing.assert_close(loss(policy, reference), expected[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_no_pairs_is_no_error(name):
    empty = PairError(torch.zeros(0), torch.zeros(0), D)
    assert build(name)(empty, empty).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_errors_and_a_reference_with_gradient_are_refused(name):
    policy, reference = some_errors()
    with pytest.raises(ValueError, match="carries a gradient"):
        build(name)(policy, policy)
    with pytest.raises(ValueError, match=r"win_B is torch\.bfloat16"):
        build(name)(PairError(policy.win_B.bfloat16(), policy.lose_B, D), reference)


@pytest.mark.parametrize("dpo_reduction", ["sum", "mean"])
@pytest.mark.parametrize("anchor_reduction", ["sum", "mean"])
def test_each_reduction_is_what_it_says(dpo_reduction, anchor_reduction):
    """Written out: the sigmoid sees errors in one reduction, the anchors in the other."""
    policy, reference = some_errors(elements=50)
    loss = build("anchored-dpo", beta=0.7, dpo_reduction=dpo_reduction, anchor_reduction=anchor_reduction)
    inner, outer = (50 if r == "sum" else 1 for r in (dpo_reduction, anchor_reduction))
    margin_B = inner * ((policy.lose_B - reference.lose_B) - (policy.win_B - reference.win_B))
    expected_B = torch.log1p(torch.exp(-0.7 * margin_B)) + outer * (0.35 * policy.win_B + 0.15 * policy.lose_B)
    torch.testing.assert_close(loss(policy, reference), expected_B)
    assert loss.beta_eff(50) == pytest.approx(0.7 * inner / outer)
    scaled = (reduced(errors, anchor_reduction, 50) for errors in (policy, reference))
    torch.testing.assert_close(anchored_dpo(*scaled, beta_eff=loss.beta_eff(50), anchor_win=0.35, anchor_lose=0.15), expected_B)


def test_the_coefficient_of_summed_anchors_is_in_their_units():
    policy, reference = some_errors(elements=50)
    loss = build("anchored-dpo", dpo_reduction="sum", anchor_reduction="sum")
    (gradient_B,) = torch.autograd.grad(loss(policy, reference).sum(), policy.lose_B)
    torch.testing.assert_close(50 * loss.terms(policy, reference)["loser_coefficient"], gradient_B)


def test_the_hinges_slack_is_a_mean_error_whatever_the_anchors_reduction():
    policy, reference = some_errors(elements=50, spread=0.02)
    loss = build("hinge-anchors", dpo_reduction="mean", beta=1e-9, anchor_reduction="sum", slack=0.004)
    above_B = 50 * (policy.lose_B - reference.lose_B - 0.004).clamp(min=0)
    expected_B = math.log(2) + 0.15 * above_B + 0.35 * 50 * (policy.win_B - reference.win_B - 0.004).clamp(min=0)
    assert 5 < (above_B > 0).sum() < 20
    torch.testing.assert_close(loss(policy, reference), expected_B, rtol=0, atol=1e-8)


def test_reference_elements_keep_beta_eff_through_stages_of_different_resolution():
    fixed, following = build("anchored-dpo", reference_elements=D), build("anchored-dpo")
    assert fixed.beta_eff(D // 4) == fixed.beta_eff(D) == following.beta_eff(D) == pytest.approx(26_214.4)
    assert following.beta_eff(D // 4) == pytest.approx(6_553.6)
    policy, reference = some_errors(elements=D // 4, spread=1e-4)
    small = PairError(policy.win_B, policy.lose_B, D // 4)
    full, full_reference = PairError(policy.win_B, policy.lose_B, D), PairError(reference.win_B, reference.lose_B, D)
    torch.testing.assert_close(fixed(small, reference), following(full, full_reference))
    assert not torch.allclose(following(small, reference), following(full, full_reference))


def test_the_defaults_are_the_reports():
    config = AnchoredDpoConfig()
    assert (config.beta, config.anchor_win, config.anchor_lose) == (0.05, 0.35, 0.15)
    assert (config.dpo_reduction, config.anchor_reduction) == ("sum", "mean")
    assert (build("diffusion-dpo").beta_eff(D), build("flow-dpo").beta_eff(D)) == (2500.0, 50.0)
    assert build("linear-dpo").beta_eff(D) is None
    assert build("ipo").beta_eff(D) is None


def described(name, **options):
    return "\n".join(build(name, **options).describe(D))


def test_a_run_is_told_beta_eff_and_where_the_repulsion_ends():
    text = described("anchored-dpo")
    assert "beta_eff 26214.4" in text
    assert "M* 0.00046 in mean errors" in text
    assert "524,288 numbers" in text
    assert "warning" not in text
    assert "M* 1.73 in mean errors" in described("anchored-dpo", beta=1, dpo_reduction="mean")
    assert "M* 8.78e-10 in mean errors" in described("anchored-dpo", beta=26214.4, anchor_reduction="sum")  # M* of sums, told in means


def test_a_run_is_warned_when_its_loss_is_a_weighted_fine_tuning():
    for options in ({"dpo_reduction": "mean"}, {"anchor_reduction": "sum"}):
        text = described("anchored-dpo", **options)
        assert "warning: beta_eff 0.05 is not above anchor_lose 0.15" in text
        assert "75 % : 25 %" in text


def test_other_regimes_have_their_own_words():
    assert "repelled only where the policy falls behind" in described("anchored-dpo", beta=0.2, dpo_reduction="mean")
    assert "repelled without end" in described("anchored-dpo", anchor_lose=0)
    assert "there the anchor outweighs the repulsion" in described("hinge-anchors", dpo_reduction="mean", slack=0.1)
    assert "M* 0.00046" in described("hinge-anchors")
    assert "beta_eff 2500" in described("diffusion-dpo")
    assert "beta_eff 50" in described("flow-dpo")
    assert "stays at its floor" in described("linear-dpo")
    assert "M* 0.0005 " in described("linear-dpo", floor=0)
    assert "M* 0.05 is the target" in described("ipo")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"beta": -1.0}) for name in NAMES),
        *((name, {"beta": 0.0}) for name in NAMES),
        *((name, {"beta": math.nan}) for name in NAMES),
        *((name, {"beta": math.inf}) for name in NAMES),
        ("anchored-dpo", {"anchor_lose": -0.15}),
        ("anchored-dpo", {"anchor_win": math.inf}),
        ("anchored-dpo", {"dpo_reduction": "average"}),
        ("anchored-dpo", {"reference_elements": 0}),
        ("hinge-anchors", {"slack": -0.1}),
        ("linear-dpo", {"floor": 0.5}),
    ],
)
def test_options_outside_their_range_are_refused(name, options):
    with pytest.raises(msgspec.ValidationError):
        build(name, **options)


def test_a_config_built_in_code_is_checked_too():
    with pytest.raises(ConfigError, match="beta"):
        build_anchored(AnchoredDpoConfig(beta=-0.05), CONTEXT)
    with pytest.raises(ConfigError, match="slack"):
        build_hinge(HingeAnchorsConfig(slack=-1.0), CONTEXT)
