"""The laws of weights hold for whatever numbers come, and what breaks them is told with what was found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ernie_core.api import ConfigError
from ernie_distill.gates.weights import check_weights, from_logs, on_simplex, truncate, within_budget

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 6))
PLACES = st.one_of(st.just(()), st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 3)))


@st.composite
def scores(draw, largest=2.0**127):
    shape = draw(SIZES) + draw(PLACES)
    values = st.one_of(st.just(0.0), st.floats(0, largest, width=32), st.floats(0, min(largest, 1.0), width=32))
    return torch.from_numpy(draw(arrays(np.float32, shape, elements=values)))


@given(scores())
@settings(max_examples=100, deadline=None)
def test_anything_not_negative_comes_onto_the_simplex_in_proportion(found):
    weights = on_simplex(found)
    check_weights(weights, "dm", found.shape[1], None)
    total = found.double().sum(1, keepdim=True)
    expected = torch.where(total > 0, found.double() / torch.where(total > 0, total, 1.0), 0.0)
    expected[:, 0] = torch.where(total[:, 0] > 0, expected[:, 0], 1.0)
    torch.testing.assert_close(weights.double(), expected, rtol=0, atol=1e-7)


@given(scores(), st.floats(-1e6, 1e6))
@settings(max_examples=60, deadline=None)
def test_logarithms_give_the_same_whatever_is_added_to_them(found, shift):
    weights = from_logs(found.double().log() + shift)
    torch.testing.assert_close(weights, on_simplex(found), rtol=0, atol=1e-5)


def test_scores_that_nobody_has_go_to_the_generalist():
    assert on_simplex(torch.zeros(2, 3)).tolist() == [[1, 0, 0], [1, 0, 0]]
    assert from_logs(torch.full((1, 3), -torch.inf)).tolist() == [[1, 0, 0]]
    mixed = on_simplex(torch.tensor([[[[[0.0, 1.0]]], [[[0.0, 3.0]]]]]))
    assert mixed[0, :, 0, 0, 0].tolist() == [1, 0]
    assert mixed[0, :, 0, 0, 1].tolist() == [0.25, 0.75]


@pytest.mark.parametrize("bad", [-1e-3, float("nan"), float("inf")])
def test_scores_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="expected finite numbers >= 0"):
        on_simplex(torch.tensor([[0.5, bad]]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logarithms_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match=r"found NaN or \+inf"):
        from_logs(torch.tensor([[0.5, bad]]))


@given(scores(largest=1.0), st.floats(0.1, 4.0))
@settings(max_examples=100, deadline=None)
def test_a_budget_only_ever_scales_down_and_only_above_itself(found, budget):
    weights = within_budget(found, budget)
    total, before = weights.double().sum(1), found.double().sum(1)
    assert (total <= budget + 1e-6).all()
    fits = (before <= budget)[:, None].expand_as(found)
    assert torch.equal(weights[fits], found[fits])
    torch.testing.assert_close(total, before.clamp(max=budget), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights.double() * before[:, None], found.double() * total[:, None], rtol=0, atol=1e-5)
    check_weights(weights, "ca", found.shape[1], budget)
    assert torch.equal(within_budget(found, None), found)


@given(scores(largest=1.0), st.integers(1, 4), st.floats(0, 0.9))
@settings(max_examples=100, deadline=None)
def test_truncation_keeps_every_sum_and_at_most_so_many_teachers(found, active, above):
    for weights, exact in ((on_simplex(found), True), (found, False)):
        less = truncate(weights, active, above)
        torch.testing.assert_close(less.double().sum(1), weights.double().sum(1), rtol=1e-6, atol=1e-6)
        if exact:
            assert (less.double().sum(1) - 1).abs().max() <= 1e-6
        asked_BK = less.flatten(2).amax(2) > 0 if less.ndim > 2 else less > 0
        assert (asked_BK.sum(1) <= active).all()
        most_BK = weights.double().flatten(2).amax(2) if weights.ndim > 2 else weights.double()
        for b in range(len(found)):
            kept = [k for k in range(found.shape[1]) if asked_BK[b, k]]
            gone = [k for k in range(found.shape[1]) if not asked_BK[b, k] and most_BK[b, k] > 0]
            assert all(most_BK[b, k] >= most_BK[b, j] for k in kept for j in gone)
            assert kept or not most_BK[b].any()
            assert all(most_BK[b, k] >= above for k in kept[1:] if most_BK[b, k] < most_BK[b].max())


@given(scores(largest=1.0))
@settings(max_examples=100, deadline=None)
def test_truncation_of_nothing_changes_nothing(found):
    torch.testing.assert_close(truncate(found, found.shape[1], 0.0), found, rtol=1e-6, atol=1e-7)


def test_truncation_in_numbers():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    torch.testing.assert_close(truncate(weights, 2, 0.0), torch.tensor([[0, 0, 3 / 7, 4 / 7]]))
    torch.testing.assert_close(truncate(weights, 3, 0.25), torch.tensor([[0, 0, 3 / 7, 4 / 7]]))
    torch.testing.assert_close(truncate(weights, 4, 0.9), torch.tensor([[0, 0, 0, 1.0]]))
    torch.testing.assert_close(truncate(torch.tensor([[0.5, 0.5]]), 1, 0.0), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(truncate(torch.tensor([[0.2, 0.1, 0.05]]), 2, 0.0), torch.tensor([[0.7 / 3, 0.35 / 3, 0]]))


def test_truncation_by_place_keeps_who_leads_in_a_small_region():
    """A text expert in 1 place of 20, beside an art expert and the generalist's leak."""
    everywhere = torch.ones(1, 1, 1, 4, 5)
    inside = torch.zeros(1, 1, 1, 4, 5)
    inside[..., 0, 0] = 1
    weights = torch.cat([0.1 * everywhere, 0.9 * (1 - inside), 0.9 * inside], 1)
    kept = truncate(weights, 2, 1e-3)
    assert kept[0, :, 0, 0, 0].tolist() == [0, 0, 1]
    assert kept[0, :, 0, 1, 1].tolist() == [0, 1, 0]


def test_truncation_by_place_leaves_no_place_empty_and_prefers_the_larger_mean():
    weights = torch.tensor([[[[[1.0, 0.0, 0.0]]], [[[0.0, 1.0, 1.0]]]]])
    assert truncate(weights, 1, 0.0)[0, :, 0, 0].tolist() == [[0, 0, 0], [1, 1, 1]]
    weights = torch.tensor([[[[[0.0, 1.0, 1.0]]], [[[1.0, 0.0, 0.0]]]]])
    assert truncate(weights, 1, 0.0)[0, :, 0, 0].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert torch.equal(truncate(weights, 2, 0.0), weights)


@pytest.mark.parametrize(
    ("weights", "objective", "message"),
    [
        (torch.ones(2, 2) * 0.8, "dm", r"that sum to 1.6 for sample 0; they must sum to 1"),
        (torch.tensor([[0.5, 0.5], [0.5, 0.4999]]), "dm", r"that sum to 0.9999 for sample 1"),
        (torch.ones(2, 2) * 0.8, "ca", r"that sum to 1.6 for sample 0, more than guidance_budget = 1"),
        (torch.tensor([[1.5, -0.5]]), "dm", r"from -0.5 to 1.5 for sample 0; expected \[0, 1\]"),
        (torch.tensor([[0.5, 0.5], [torch.nan, 1.0]]), "dm", r"that are not finite, for sample 1"),
        (torch.ones(2, 3) / 3, "dm", r"of shape \[2, 3\]; expected \[B, 2\] or \[B, 2, 1, h, w\]"),
        (torch.ones(2), "dm", r"of shape \[2\]"),
        (torch.ones(1, 2, 3, 4, 4) / 2, "dm", r"of shape \[1, 2, 3, 4, 4\]"),
        (torch.ones(2, 2, dtype=torch.float64) / 2, "dm", r"in torch.float64; expected float32"),
        (torch.full((2, 2), 0.5, requires_grad=True), "dm", r"that carry gradient"),
        (torch.tensor([[[[[0.5, 0.5]]], [[[0.5, 0.7]]]]]), "dm", r"that sum to 1.2 for sample 0"),
    ],
)
def test_weights_that_break_a_law_are_told(weights, objective, message):
    with pytest.raises(ConfigError, match=f"gate x gave weights for objective {objective} {message}"):
        check_weights(weights, objective, 2, 1.0, gate="gate x")


def test_weights_of_another_batch_are_told():
    with pytest.raises(ConfigError, match=r"of shape \[3, 2\]; expected \[2, 2\] or \[2, 2, 1, h, w\]"):
        check_weights(torch.full((3, 2), 0.5), "dm", 2, 1.0, samples=2)


def test_guidance_may_sum_to_less_or_without_a_budget_to_more():
    for weights, budget in ((torch.zeros(1, 2), 1.0), (torch.ones(1, 2), None), (torch.ones(1, 2), 2.0)):
        assert check_weights(weights, "ca", 2, budget) is weights
