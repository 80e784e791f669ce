"""Initial weights, checkpointing, fused parameters and compilation of the transformer."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ernie_core.errors import WeightsError
from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.model.fusion import fusion_of
from ernie_core.model.layout import SequenceLayout
from ernie_core.ops.cpu_fused import CpuFusedOps
from ernie_core.ops.reference import ReferenceOps

CONFIG = DiTConfig(
    hidden_size=32,
    num_attention_heads=2,
    num_layers=3,
    ffn_hidden_size=48,
    in_channels=4,
    out_channels=4,
    text_in_dim=12,
    rope_axes_dim=(4, 6, 6),
)
LAYOUT = SequenceLayout.plan((9, 10), (3, 5, 3))


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(model: nn.Module) -> torch.Tensor:
    return model(draw(3, 4, 9, 10, seed=1), torch.tensor([10.0, 500.0, 990.0]), draw(3, 5, 12, seed=2), None, LAYOUT)


def trained(ops: ReferenceOps | None = None) -> ErnieDiT:
    """A model whose zero-initialised maps have moved, so that every part takes part."""
    model = ErnieDiT(CONFIG, ops=ops)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(0.1 * draw(*p.shape, seed=100 + i))
    return model


def gradients(model: ErnieDiT) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (run(model) * draw(3, 4, 9, 10, seed=3)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_a_fresh_model_returns_exactly_zero_and_only_final_linear_gets_a_gradient():
    model = ErnieDiT(CONFIG)
    assert not run(model).any()
    with_gradient = {name for name, g in gradients(model).items() if g.any()}
    assert with_gradient == {"final_linear.weight", "final_linear.bias"}


def test_all_layers_learn_from_the_third_step_on():
    model = ErnieDiT(CONFIG)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        gradients(model)
        optimizer.step()
    assert all(g.any() for g in gradients(model).values())


def test_initial_weights_are_a_function_of_the_seed_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = ErnieDiT(CONFIG, seed=7), ErnieDiT(CONFIG, seed=7), ErnieDiT(CONFIG, seed=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))
    assert not torch.equal(one.x_embedder.proj.weight, other.x_embedder.proj.weight)


def test_initial_weights_have_the_bounds_of_torchs_linear_maps():
    model = ErnieDiT(CONFIG)
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1 and not name.startswith(("adaLN_modulation", "final_linear")):
            bound = (tensor.numel() / tensor.shape[0]) ** -0.5
            assert 0.9 * bound < tensor.abs().max() <= bound, name


@pytest.mark.parametrize("ops", [ReferenceOps(), CpuFusedOps()], ids=lambda ops: ops.name)
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_gives_the_same_gradients(mode, ops):
    model = trained(ops)
    expected = gradients(model)
    model.checkpointing = mode
    assert all(torch.allclose(g, expected[name], rtol=1e-5, atol=1e-6) for name, g in gradients(model).items())


class Counter(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def test_selective_recomputes_activations_but_no_matrix_product_and_full_recomputes_both():
    calls = {}
    for mode in ("none", "selective", "full"):
        model = trained()
        model.checkpointing = mode
        with Counter() as counter:
            run(model).sum().backward()
        calls[mode] = counter.calls
    layers = CONFIG.num_layers
    gelu = {mode: c["aten::gelu"] for mode, c in calls.items()}
    products = {mode: c["aten::mm"] for mode, c in calls.items()}
    assert gelu == {"none": layers, "selective": 2 * layers, "full": 2 * layers}
    assert products["selective"] == products["none"]
    assert products["full"] >= products["none"] + 3 * layers  # the last product's result is not needed again


def test_an_unknown_checkpointing_mode_is_refused():
    model = ErnieDiT(CONFIG)
    model.checkpointing = "some"
    with pytest.raises(ValueError, match="expected none, selective or full"):
        run(model)


def test_the_state_dict_is_made_of_views_and_loads_back():
    model = trained()
    state = model.state_dict()
    assert (
        state["layers.0.self_attention.to_k.weight"].untyped_storage().data_ptr() == model.layers[0].self_attention.to_qkv.weight.data_ptr()
    )
    assert not [name for name in state if "to_qkv" in name or "gate_up" in name]
    other = ErnieDiT(CONFIG, seed=3)
    other.load_state_dict(state)
    assert torch.equal(run(other), run(model))
    duplicate = copy.deepcopy(model)
    duplicate.load_state_dict(ErnieDiT(CONFIG, seed=4).state_dict())
    assert torch.equal(run(other), run(model))
    assert not torch.equal(run(duplicate), run(model))


def test_loading_on_the_meta_device_assigns():
    with torch.device("meta"):
        model = ErnieDiT(CONFIG)
    model.load_state_dict(trained().state_dict(), assign=True)
    assert torch.equal(run(model), run(trained()))


def test_a_wrong_part_is_named_when_loading():
    state = trained().state_dict()
    state["layers.1.mlp.up_proj.weight"] = torch.zeros(47, 32)
    with pytest.raises(RuntimeError, match=r"layers\.1\.mlp\.up_proj\.weight: found \(47, 32\), expected \(48, 32\)"):
        ErnieDiT(CONFIG).load_state_dict(state)


def test_fusion_maps_gradients_and_optimiser_state_both_ways():
    model = trained()
    fusion = fusion_of(model)
    fused = gradients(model)
    apart = fusion.split(fused)
    assert apart.keys() == model.state_dict().keys()
    assert all(apart[name].shape == tensor.shape for name, tensor in model.state_dict().items())
    back = fusion.merge(apart)
    assert back.keys() == fused.keys()
    assert all(torch.equal(back[name], fused[name]) for name in fused)
    steps = {name: torch.tensor(4.0) for name in fused}
    assert fusion.merge(fusion.split(steps)) == steps


def test_fusion_refuses_missing_parts_and_different_step_counts():
    fusion = fusion_of(ErnieDiT(CONFIG))
    name = "layers.0.self_attention.to_"
    with pytest.raises(WeightsError, match=r"to_qkv\.weight needs all of .*; found only layers\.0\.self_attention\.to_q\.weight"):
        fusion.merge({f"{name}q.weight": torch.zeros(32, 32)})
    with pytest.raises(WeightsError, match="hold different scalars"):
        fusion.merge({f"{name}{part}.weight": float(i) for i, part in enumerate("qkv")})


def test_another_block_for_one_layer():
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.tensor(0.25))

        def forward(self, x_BSD, inputs):
            return x_BSD + self.by * inputs.modulation[0]

    model = ErnieDiT(CONFIG, make_block=lambda layer: Shift() if layer == 1 else None)
    assert [type(block).__name__ for block in model.layers] == ["SharedAdaLNBlock", "Shift", "SharedAdaLNBlock"]
    assert "layers.1.by" in model.state_dict()
    assert run(model).shape == (3, 4, 9, 10)


def test_the_forward_pass_is_one_graph():
    model = trained()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(run(compiled), run(model), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("clang") is None, reason="inductor needs a C++ compiler on a CPU")
def test_the_compiled_model_gives_the_same_numbers():
    model = trained()
    compiled = torch.compile(model, fullgraph=True)
    expected = gradients(model)
    model.zero_grad()
    (run(compiled) * draw(3, 4, 9, 10, seed=3)).sum().backward()
    assert all((p.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() for name, p in model.named_parameters())
