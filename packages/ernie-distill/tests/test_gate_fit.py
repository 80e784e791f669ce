"""Mixture regression, against what is known in closed form."""

import itertools

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from ernie_core.api import ConfigError
from ernie_core.rng import Rng
from ernie_distill.gate_config import FitConfig
from ernie_distill.gates.fit import Points, best_constant, error_of, fit, gram_of, load_table, relative, simplex_minimum

PLAIN = FitConfig(held_out=0.0, floor=0.02, hidden=16, steps=300, learning_rate=0.02, weight_decay=0.0)


def normal(stream, *shape):
    return torch.from_numpy(Rng(3).at(stream, 0).normal(0, shape)).double()


def points(predictions_PKD, targets_PD, features_PF, *, domains=None, held_P=None):
    count = len(targets_PD)
    return Points(
        gram_of(predictions_PKD, targets_PD),
        features_PF.float(),
        torch.linspace(0, 1, count),
        domains or [""] * count,
        torch.zeros(count, dtype=torch.bool) if held_P is None else held_P,
    )


def half_spaces(count=400, dim=6, noise=1.0):
    """Two teachers: one right where the first feature is positive, the other where it is negative."""
    features_PF, targets_PD = normal("features", count, 4), normal("targets", count, dim)
    wrong = targets_PD + noise * normal("wrong", count, dim)
    first = (features_PF[:, :1] > 0).expand(-1, dim)
    predictions_PKD = torch.stack([torch.where(first, targets_PD, wrong), torch.where(first, wrong, targets_PD)], 1)
    return points(predictions_PKD, targets_PD, features_PF, domains=["a" if f > 0 else "b" for f in features_PF[:, 0]])


def test_the_gram_is_the_error_of_every_mixture():
    predictions_PKD, targets_PD = normal("predictions", 7, 3, 5), normal("targets", 7, 5)
    weights_PK = torch.softmax(normal("weights", 7, 3), 1)
    direct_P = (targets_PD - (weights_PK[..., None] * predictions_PKD).sum(1)).square().mean(1)
    torch.testing.assert_close(error_of(gram_of(predictions_PKD, targets_PD), weights_PK), direct_P)


def test_relative_errors_are_one_on_the_mean_over_teachers_and_leave_the_best_weights():
    gram_PKK = gram_of(normal("predictions", 7, 3, 5) * 100, normal("targets", 7, 5))
    torch.testing.assert_close(relative(gram_PKK).diagonal(dim1=1, dim2=2).mean(1), torch.ones(7).double())
    torch.testing.assert_close(simplex_minimum(relative(gram_PKK)), simplex_minimum(gram_PKK), rtol=0, atol=1e-6)
    assert torch.equal(relative(torch.zeros(2, 3, 3).double()), torch.zeros(2, 3, 3).double())


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6), st.floats(-4, 0))
@settings(max_examples=40, deadline=None)
def test_the_oracle_is_the_minimum_on_the_simplex(seed, teachers, dim, likeness):
    """Against scipy's SLSQP, also for teachers that hardly differ or that span fewer dimensions than they are."""
    draws = Rng(seed).at("oracle", 0)
    common = draws.normal(0, (1, dim))
    errors_KD = torch.from_numpy(common + 10**likeness * draws.normal(1, (teachers, dim))).double()
    gram_KK = errors_KD @ errors_KD.T
    weights_K = simplex_minimum(gram_KK[None])[0]
    assert weights_K.min() >= 0
    assert float(weights_K.sum()) == pytest.approx(1, abs=1e-12)
    found = minimize(
        lambda w: w @ gram_KK.numpy() @ w,
        np.full(teachers, 1 / teachers),
        jac=lambda w: 2 * gram_KK.numpy() @ w,
        bounds=[(0, 1)] * teachers,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(teachers)},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    ours = float(weights_K @ gram_KK @ weights_K)
    assert ours <= float(gram_KK.diagonal().min()) + 1e-12
    assert ours <= found.fun + 1e-6 * float(gram_KK.diagonal().mean())


def test_the_best_constant_mixture_is_exact_with_a_floor():
    gram_PKK = gram_of(normal("predictions", 50, 3, 4), normal("targets", 50, 4))
    for floor in (0.0, 0.1, 0.5):
        found = (1 - floor) * best_constant(gram_PKK, floor) + floor / 3
        best = min(
            float(w @ gram_PKK.mean(0) @ w)
            for a, b in itertools.product(np.linspace(0, 1, 61), repeat=2)
            if a + b <= 1
            for w in [torch.tensor([a, b, 1 - a - b]) * (1 - floor) + floor / 3]
        )
        assert float(found @ gram_PKK.mean(0) @ found) <= best + 1e-12


@pytest.mark.parametrize("batch_size", [64, 512])
def test_two_teachers_each_right_on_a_half_space_are_told_apart(batch_size):
    found = half_spaces()
    fitted = fit(found, msgspec.structs.replace(PLAIN, batch_size=batch_size), teachers=("a", "b"))
    weights_PK = fitted.network(found.features_PF, "dm")
    right_P = torch.tensor([0 if name == "a" else 1 for name in found.domains])
    chosen = weights_PK.gather(1, right_P[:, None])[:, 0]
    assert float((chosen > 0.5).double().mean()) > 0.97
    assert float(chosen.mean()) > 0.9
    errors = fitted.errors["train"]
    assert errors["oracle"] == pytest.approx(0, abs=1e-9)
    assert errors["gate"] < 0.1 * errors["best_constant_mixture"]
    assert errors["best_constant_mixture"] < errors["best_single_teacher"]


def test_a_teacher_that_is_best_everywhere_gets_all_but_the_floor():
    targets_PD = normal("targets", 200, 5)
    errors = torch.stack([0.1 * normal("best", 200, 5), normal("worse", 200, 5), normal("worst", 200, 5) * 2], 1)
    errors[:, 1:] += 5  # a common error that no average takes away
    found = points(targets_PD[:, None] + errors, targets_PD, normal("features", 200, 4))
    for floor in (0.3, 0.03):
        fitted = fit(found, FitConfig(held_out=0.0, floor=floor, hidden=8, steps=100), teachers=("a", "b", "c"))
        weights_PK = fitted.network(found.features_PF, "dm")
        expected = torch.tensor([1 - floor + floor / 3, floor / 3, floor / 3]).double()
        torch.testing.assert_close(weights_PK, expected.expand_as(weights_PK), rtol=0, atol=2e-3)
        entropy = -(weights_PK * weights_PK.log()).sum(1)
        assert float(entropy.min()) >= float(-(expected * expected.log()).sum()) - 1e-6


@given(st.integers(0, 1000), st.booleans(), st.sampled_from([0.0, 0.05, 0.4]), st.sampled_from([0.0, 0.3]), st.sampled_from([1e-3, 0.3]))
@settings(max_examples=12, deadline=None)
def test_a_fit_is_never_worse_than_the_best_constant_mixture_where_it_learnt(seed, relatively, floor, held_out, learning_rate):
    """On noise, where there is nothing to find, and at a learning rate that destroys what was found."""
    draws = Rng(seed).at("noise", 0)
    targets = torch.from_numpy(draws.normal(0, (60, 4)))
    predictions = targets[:, None] + torch.from_numpy(draws.normal(1, (60, 3, 4)) * draws.uniform(2, (60, 1, 1)))
    held_P = torch.from_numpy(draws.uniform(4, (60,)) < held_out)
    found = points(predictions, targets, torch.from_numpy(draws.normal(3, (60, 5))), held_P=held_P)
    config = FitConfig(held_out=held_out, relative=relatively, floor=floor, hidden=8, steps=40, learning_rate=learning_rate)
    fitted = fit(found, config, teachers=("a", "b", "c"), seed=seed)
    errors = fitted.errors["train"]
    assert errors["gate"] <= errors["best_constant_mixture"] * (1 + 1e-6)
    assert errors["oracle"] <= errors["gate"]
    assert errors["oracle"] <= errors["best_single_teacher"] + 1e-9
    assert (fitted.errors["held_out"] is None) == (not held_P.any())


def test_what_was_held_out_decides_when_to_stop():
    """Features are noise: whatever is learnt from them is memory, and what was held out tells."""
    targets = normal("targets", 80, 4)
    predictions = targets[:, None] + normal("predictions", 80, 2, 4)
    held_P = torch.arange(80) % 2 == 0
    found = points(predictions, targets, normal("features", 80, 40), held_P=held_P)
    options = {"floor": 0.0, "hidden": 64, "steps": 300, "learning_rate": 0.02}
    memorised = fit(
        points(predictions[~held_P], targets[~held_P], found.features_PF[~held_P]), FitConfig(held_out=0.0, **options), teachers=("a", "b")
    )
    stopped = fit(found, FitConfig(held_out=0.5, **options), teachers=("a", "b"))
    test = relative(found.gram_PKK[held_P])

    def error(fitted):
        return float(error_of(test, fitted.network(found.features_PF[held_P], "dm")).mean())

    assert error(stopped) <= stopped.errors["held_out"]["best_constant_mixture"] * (1 + 1e-6)
    assert error(memorised) > 1.2 * error(stopped)


def test_a_fit_is_a_function_of_its_points():
    one, two, other = (fit(half_spaces(), PLAIN, teachers=("a", "b"), seed=seed).network for seed in (0, 0, 1))
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.inner.weight, other.inner.weight)


def test_rewards_decide_guidance_by_domain():
    rewards = {"a": {"one": 0.0, "two": 1.0}, "b": {"one": 2.0, "two": 0.0}}
    found = half_spaces()
    fitted = fit(
        found,
        FitConfig(held_out=0.0, floor=0.0, hidden=16, steps=400, learning_rate=0.02, guidance_rewards=rewards, temperature=0.5),
        teachers=("one", "two"),
    )
    table = {row["domain"]: row for row in load_table(found, fitted.network, rewarded=True) if row["sigma"] == [0.5, 0.6]}
    assert table["a"]["ca"][1] == pytest.approx(1 / (1 + np.exp(-2)), abs=0.05)
    assert table["b"]["ca"][0] == pytest.approx(1 / (1 + np.exp(-4)), abs=0.05)
    assert table["a"]["dm"][0] > 0.9, "matching goes by errors all the same"


def test_the_load_table_counts_every_point_once():
    found = half_spaces(count=130)
    fitted = fit(found, PLAIN, teachers=("a", "b"))
    table = load_table(found, fitted.network, rewarded=False)
    assert sum(row["points"] for row in table) == 130
    assert {(row["domain"], tuple(row["sigma"])) for row in table} <= {(d, (i / 10, (i + 1) / 10)) for d in "ab" for i in range(10)}
    assert all(sum(row["dm"]) == pytest.approx(1) and row["dm"] == row["ca"] for row in table)
    mean = sum(row["points"] * row["dm"][0] for row in table) / 130
    assert mean == pytest.approx(float(fitted.network(found.features_PF, "dm")[:, 0].mean()))


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"a": {"one": 1.0, "two": 0.0}}, "none for domain `b`, which is in the data; there are some for a"),
        ({"a": {"one": 1.0}, "b": {"one": 1.0, "two": 0.0}}, "for domain `a` they name one; expected one for each teacher: one, two"),
        ({"a": {"one": 1.0, "two": 0.0}, "b": {"one": 1.0, "two": 0.0, "x": 1.0}}, "for domain `b` they name one, two, x"),
    ],
)
def test_rewards_must_cover_domains_and_teachers(rewards, message):
    with pytest.raises(ConfigError, match=f"fit.guidance_rewards: {message}"):
        fit(half_spaces(), FitConfig(held_out=0.0, guidance_rewards=rewards), teachers=("one", "two"))


@pytest.mark.parametrize("held", [0, 400])
def test_a_share_that_holds_out_nothing_or_all_is_told(held):
    found = half_spaces()
    split = Points(found.gram_PKK, found.features_PF, found.sigma_P, found.domains, torch.arange(400) < held)
    with pytest.raises(ConfigError, match=f"of 400 points {held} are held out; raise method.gate.fit.points"):
        fit(split, FitConfig(held_out=0.2), teachers=("a", "b"))
