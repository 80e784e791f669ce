"""The moving average follows its formula, in float32."""

import pytest
import torch

from ernie_core.train.ema import Ema, Follower, decay_at
from ernie_core.train.method import EmaConfig, Network


def masters(value):
    return [("w", torch.full((3,), value)), ("b", torch.tensor([2 * value]))]


def test_a_constant_weight_is_its_own_average():
    ema = Ema(EmaConfig(decay=0.9), masters(1.5))
    for _ in range(50):
        ema.update(masters(1.5))
    assert all(torch.equal(ema.values[n], m) for n, m in masters(1.5))


def test_the_step_response_matches_the_closed_form():
    config = EmaConfig(decay=0.99)
    ema, expected = Ema(config, masters(0.0)), 0.0
    for n in range(1, 400):
        ema.update(masters(1.0))
        decay = min(0.99, 1 - (1 + n) ** (-2 / 3))
        assert decay_at(config, n) == decay
        expected = decay * expected + (1 - decay)
    assert ema.values["w"][0].item() == pytest.approx(expected, rel=1e-5)
    assert ema.updates == 399


def test_the_average_does_not_freeze_where_bfloat16_would():
    ema = Ema(EmaConfig(decay=0.9999), [("w", torch.ones(1))])
    ema.updates = 10**7
    for _ in range(100):
        ema.update([("w", torch.full((1,), 1.01))])
    assert 1e-5 < ema.values["w"].item() - 1 < 1e-3


def test_the_average_is_a_copy_of_the_weights_not_a_view():
    weights = masters(1.0)
    ema = Ema(EmaConfig(), weights)
    weights[0][1].add_(5)
    assert ema.values["w"][0] == 1


def test_a_follower_averages_in_float32_at_a_constant_decay_and_computes_in_its_own_type():
    module = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    follower = Follower(
        Network("reference", module, trained=False, follows="policy"), EmaConfig(decay=0.999), [("weight", torch.ones(1, 1))]
    )
    assert follower.leader == "policy"
    for _ in range(100):
        follower.update([("weight", torch.full((1, 1), 2.0))])
    expected = 2 - 0.999**100
    assert follower.values["weight"].item() == pytest.approx(expected, rel=1e-5)
    assert module.weight.dtype == torch.bfloat16
    assert module.weight.item() == pytest.approx(expected, rel=2**-8)
    assert follower.updates == 100
