"""Adapters: laws of low rank, switching by pointer, q, k and v apart, merging and extracting, and a base that never moves."""

import hashlib

import pytest
import torch

from ernie_core.adapters.algebra import extract, merged
from ernie_core.adapters.bank import AdapterBank, linear_maps
from ernie_core.adapters.config import AdapterConfig
from ernie_core.errors import ConfigError, WeightsError
from ernie_core.model.dit import ErnieDiT
from ernie_core.testing.tiny import TEXT_WIDTH, tiny_dit


def model(seed: int = 0) -> ErnieDiT:
    return tiny_dit(seed=seed).requires_grad_(False)


def run(dit: ErnieDiT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(2, 16, 4, 6, generator=generator), torch.randn(2, 5, TEXT_WIDTH, generator=generator)
    return dit(latents, torch.tensor([300.0, 700.0]), text, torch.tensor([5, 3]))


def randomise(adapter, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def fingerprint(dit: ErnieDiT) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in dit.state_dict().values())).hexdigest()


def test_a_new_adapter_changes_nothing_bit_for_bit_and_the_base_keeps_its_names():
    dit = model()
    before, keys = run(dit), list(dit.state_dict())
    bank = AdapterBank(dit)
    bank.add("a", AdapterConfig(rank=4), seed=1)
    with bank.using("a"):
        assert torch.equal(run(dit), before)
    assert list(dit.state_dict()) == keys


@pytest.mark.parametrize("targets", [("to_k",), ("to_q", "to_v"), ("to_out.0",), ("up_proj",), AdapterConfig().targets, ("all",)])
def test_an_active_adapter_equals_merged_weights(targets):
    dit = model()
    bank = AdapterBank(dit)
    adapter = bank.add("a", AdapterConfig(rank=3, alpha=6.0, targets=targets))
    randomise(adapter)
    plain = run(dit)
    other = model(seed=5)
    other.load_state_dict(merged(dit.state_dict(), adapter, strength=0.5))
    with bank.using(a=0.5):
        adapted = run(dit)
    torch.testing.assert_close(adapted, run(other), atol=1e-5, rtol=1e-5)
    assert (adapted - plain).abs().max() > 1e-3
    assert torch.equal(run(dit), plain), "outside `using` the adapter counts no more"


def test_adapters_are_switched_and_added_by_name():
    dit = model()
    bank = AdapterBank(dit)
    first, second = bank.add("first", AdapterConfig(rank=2)), bank.add("second", AdapterConfig(rank=5, targets=("to_v", "linear_fc2")))
    randomise(first, 3)
    randomise(second, 4)
    other = model(seed=5)
    other.load_state_dict(merged(merged(dit.state_dict(), first), second, strength=2.0))
    with bank.using("first", second=2.0):
        both = run(dit)
        with bank.using("second"):
            alone = run(dit)
        assert torch.equal(run(dit), both), "the outer choice comes back"
        with bank.using():
            plain = run(dit)
    torch.testing.assert_close(both, run(other), atol=2e-5, rtol=1e-5)
    assert not torch.equal(alone, both)
    assert torch.equal(plain, run(dit))


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_only_the_active_adapter_gets_a_gradient_and_the_base_never_moves(checkpointing):
    dit = model()
    dit.checkpointing = checkpointing
    bank = AdapterBank(dit)
    active, idle = bank.add("active", AdapterConfig(rank=2)), bank.add("idle", AdapterConfig(rank=2))
    randomise(active)
    before = fingerprint(dit)
    with bank.using("active"):
        run(dit).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in active.parameters())
    assert all(p.grad is None for p in [*idle.parameters(), *dit.parameters()])
    torch.optim.SGD(active.parameters(), lr=0.1).step()
    assert fingerprint(dit) == before


def test_gradients_are_those_of_the_merged_product():
    """d/dA and d/dB by the chain rule from the merged weight's gradient."""
    dit = model()
    bank = AdapterBank(dit)
    adapter = bank.add("a", AdapterConfig(rank=3, alpha=1.5, targets=("to_k",)))
    randomise(adapter)
    with bank.using("a"):
        run(dit).square().sum().backward()
    other = model(seed=5)
    other.load_state_dict(merged(dit.state_dict(), adapter))
    other.requires_grad_(True)
    run(other).square().sum().backward()
    name = "layers.1.self_attention.to_k"
    target, low_rank = adapter.targets[name], adapter.low_rank(name)
    gradient = other.get_submodule(target.module).weight.grad[target.rows]
    torch.testing.assert_close(low_rank.lora_B.weight.grad, 0.5 * gradient @ low_rank.lora_A.weight.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(low_rank.lora_A.weight.grad, 0.5 * low_rank.lora_B.weight.T @ gradient, atol=1e-4, rtol=1e-4)


def test_initial_factors_depend_on_seed_and_name_alone():
    first, second = AdapterBank(model(0)), AdapterBank(model(1))
    torch.manual_seed(7)
    one = first.add("x", AdapterConfig(rank=2), seed=4).state_dict()
    other = second.add("y", AdapterConfig(rank=2, targets=("to_k", "to_q")), seed=4).state_dict()
    assert all(torch.equal(one[key], value) for key, value in other.items())
    third = first.add("z", AdapterConfig(rank=2), seed=5).state_dict()
    assert not torch.equal(one["layers.0.self_attention.to_q.lora_A.weight"], third["layers.0.self_attention.to_q.lora_A.weight"])


def test_an_adapter_is_extracted_from_weights_that_it_was_merged_into():
    dit = model()
    adapter = AdapterBank(dit).add("a", AdapterConfig(rank=4, alpha=2.0))
    randomise(adapter)
    tuned = merged(dit.state_dict(), adapter)
    found = AdapterBank(dit).add("b", AdapterConfig(rank=4, alpha=2.0))
    assert extract(dit.state_dict(), tuned, found).left_out < 1e-9
    for key, value in merged(dit.state_dict(), found).items():
        torch.testing.assert_close(value, tuned[key], atol=1e-5, rtol=1e-5)
    narrow = AdapterBank(dit).add("c", AdapterConfig(rank=1, alpha=2.0))
    assert 0.1 < extract(dit.state_dict(), tuned, narrow).left_out < 0.9


def test_what_an_adapter_cannot_carry_is_refused():
    dit = model()
    bank = AdapterBank(dit)
    adapter = bank.add("a", AdapterConfig(rank=2, targets=("to_k",)))
    tuned = {**dit.state_dict(), "final_linear.bias": dit.state_dict()["final_linear.bias"] + 1}
    with pytest.raises(WeightsError, match=r"1 tensors beyond the adapter's targets were tuned too, such as final_linear\.bias"):
        extract(dit.state_dict(), tuned, adapter)
    with pytest.raises(
        WeightsError, match=r"the base has no weight layers\.0\.self_attention\.to_k\.weight; the adapter belongs to another model"
    ):
        merged({}, adapter)
    with pytest.raises(WeightsError, match=r"to_k\.weight: found \(8, 8\), the adapter was made for \(64, 64\)"):
        merged({**dit.state_dict(), "layers.0.self_attention.to_k.weight": torch.zeros(8, 8)}, adapter)


def test_wrong_names_are_refused_with_what_there_is():
    bank = AdapterBank(model())
    bank.add("a", AdapterConfig(rank=2))
    with pytest.raises(ConfigError, match=r"there is an adapter called `a` already"):
        bank.add("a", AdapterConfig(rank=2))
    with pytest.raises(ConfigError, match=r"no linear map is called `to_x`; there are .*self_attention\.to_q"):
        bank.add("b", AdapterConfig(rank=2, targets=("to_x",)))
    with pytest.raises(ConfigError, match=r"there is no adapter called `b`; adapters: a"), bank.using("b"):
        pass


def test_every_linear_map_has_the_reference_name_of_its_weight():
    dit = model()
    weights = {key.removesuffix(".weight") for key, value in dit.state_dict().items() if key.endswith(".weight") and value.ndim == 2}
    assert set(linear_maps(dit)) == weights
