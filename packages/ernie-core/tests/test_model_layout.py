"""What is computed and what is not: packing, masks, token counts, and no reading back from the device."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.model.layout import SequenceLayout, packed_offsets, padding_mask
from ernie_core.ops.cpu_fused import CpuFusedOps
from ernie_core.ops.reference import ReferenceOps

CONFIG = DiTConfig(
    hidden_size=32,
    num_attention_heads=2,
    num_layers=2,
    ffn_hidden_size=48,
    in_channels=4,
    out_channels=4,
    text_in_dim=12,
    rope_axes_dim=(4, 6, 6),
)
GRID = (4, 3)


def call(model: ErnieDiT, text_lens: tuple[int, ...], layout: SequenceLayout | None, width: int | None = None) -> torch.Tensor:
    batch = len(text_lens)
    text = torch.randn(batch, width or max(text_lens), 12, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(batch, 4, *GRID, generator=torch.Generator().manual_seed(1))
    return model(latents, torch.full((batch,), 500.0), text, torch.tensor(text_lens), layout)


class Spy:
    """Records every attention call: whether it had a mask, and how many query tokens it computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.masks: list[object] = []
        self.tokens = 0
        real = F.scaled_dot_product_attention

        def spy(q, k, v, attn_mask=None, **rest):
            self.masks.append(attn_mask)
            self.tokens += q.shape[0] * q.shape[2]
            return real(q, k, v, attn_mask=attn_mask, **rest)

        monkeypatch.setattr(F, "scaled_dot_product_attention", spy)


@pytest.mark.parametrize("ops", [ReferenceOps(), CpuFusedOps()], ids=lambda ops: ops.name)
@pytest.mark.parametrize(
    "text_lens",
    [(5, 5, 5), (1,) * 4 + (16,) * 4, (3, 9, 1, 9, 700), tuple(range(1, 17))],
    ids=["equal", "guidance 1 + 16", "one long", "all different"],
)
def test_attention_gets_no_mask_and_computes_only_real_tokens(text_lens, ops, monkeypatch):
    spy = Spy(monkeypatch)
    call(ErnieDiT(CONFIG, ops=ops), text_lens, SequenceLayout.plan(GRID, text_lens), width=max(text_lens) + 2)
    real = sum(GRID[0] * GRID[1] + n for n in text_lens)
    assert spy.masks
    assert spy.masks == [None] * len(spy.masks)
    assert real * CONFIG.num_layers <= spy.tokens <= 1.02 * real * CONFIG.num_layers


def test_blocks_see_only_real_tokens():
    """The same count where the other work happens: in the matrix products of the blocks."""
    seen = []
    model = ErnieDiT(CONFIG)
    model.layers[0].mlp.gate_up.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:-1].numel()))
    text_lens = (3, 9, 1)
    call(model, text_lens, SequenceLayout.plan(GRID, text_lens), width=20)
    assert seen == [3 * 12 + 13]


def test_padded_mixed_lengths_do_get_a_mask(monkeypatch):
    spy = Spy(monkeypatch)
    call(ErnieDiT(CONFIG), (3, 5), SequenceLayout(GRID, (3, 5), packed=False))
    assert all(mask is not None for mask in spy.masks)


class NoScalarOps(TorchDispatchMode):
    """Refuses operators that make the host wait for the device."""

    forbidden = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in self.forbidden:
            raise AssertionError(f"{func._schema.name} waits for the device")
        return func(*args, **(kwargs or {}))


class NoScalarMethods(TorchFunctionMode):
    """Refuses the methods that do the same; on a CPU some of them never reach an operator."""

    forbidden = (torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__bool__, torch.Tensor.__int__)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.forbidden:
            raise AssertionError(f"{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("packed", [True, False])
def test_nothing_is_read_back_when_a_layout_is_given(packed, checkpointing):
    model = ErnieDiT(CONFIG)
    model.checkpointing = checkpointing
    layout = SequenceLayout(GRID, (3, 5, 3), packed=packed)
    with NoScalarOps(), NoScalarMethods():
        call(model, (3, 5, 3), layout).square().sum().backward()


def test_without_a_layout_the_lengths_are_read():
    """And the two modes notice it, so the test above can fail."""
    with NoScalarMethods(), pytest.raises(AssertionError, match="tolist waits for the device"):
        call(ErnieDiT(CONFIG), (3, 5, 3), None)
    with NoScalarOps(), pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"):
        torch.ones(2).sum().item()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_groups_cover_every_sample_once_and_in_packed_order(text_lens, rows, columns):
    layout = SequenceLayout.plan((rows, columns), text_lens)
    assert layout.packed == (len(set(text_lens)) > 1)
    assert [b for g in layout.groups for b in g.samples] == list(layout.order)
    assert sorted(layout.order) == list(range(len(text_lens)))
    starts = [g.start for g in layout.groups]
    assert starts == [sum(g.tokens for g in layout.groups[:i]) for i in range(len(starts))]
    assert sum(g.tokens for g in layout.groups) == layout.real_tokens == len(text_lens) * rows * columns + sum(text_lens)
    offsets = packed_offsets(layout, torch.device("cpu"))
    assert offsets.dtype == torch.int32
    assert offsets.diff().tolist() == [rows * columns + layout.text_lens[b] for b in layout.order]
    mask = padding_mask(layout, torch.tensor(text_lens))
    assert mask.sum(-1).flatten().tolist() == [rows * columns + n for n in text_lens]


def test_a_layout_is_hashable_and_equal_by_value():
    assert hash(SequenceLayout.plan((2, 3), [1, 2])) == hash(SequenceLayout((2, 3), (1, 2), packed=True))


@pytest.mark.parametrize(("grid", "lens"), [((0, 3), (1,)), ((2, 3), ()), ((2, 3), (-1, 2))])
def test_impossible_layouts_are_refused(grid, lens):
    with pytest.raises(ValueError, match=r"grid = |text_lens = "):
        SequenceLayout(grid, lens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": SequenceLayout((4, 4), (2, 2))}, r"layout: grid \(4, 4\) and 2 samples; hidden_states: grid \(4, 3\) and 2 samples"),
        ({"layout": SequenceLayout(GRID, (2, 7))}, r"text_bth \(2, 2, 12\): expected 2 samples of at least 7 tokens"),
        ({"timestep_B": torch.zeros(3)}, r"timestep \(3,\): expected \(2,\), or \(1,\)"),
        ({"hidden_states_BCHW": torch.zeros(2, 5, 4, 3)}, "expected 4 channels"),
        ({"text_lens_B": None}, "give text_lens or a layout"),
    ],
)
def test_shapes_that_contradict_each_other_are_refused(change, message):
    good = {
        "hidden_states_BCHW": torch.zeros(2, 4, 4, 3),
        "timestep_B": torch.zeros(2),
        "text_bth_BTE": torch.zeros(2, 2, 12),
        "text_lens_B": torch.tensor([2, 2]),
    }
    with pytest.raises(ValueError, match=message):
        ErnieDiT(CONFIG)(**(good | change))


def test_sides_that_the_patch_does_not_divide_are_refused():
    config = DiTConfig(**{f: getattr(CONFIG, f) for f in CONFIG.__struct_fields__ if f != "patch_size"}, patch_size=2)
    with pytest.raises(ValueError, match="sides that are multiples of 2"):
        ErnieDiT(config)(torch.zeros(1, 4, 4, 3), torch.zeros(1), torch.zeros(1, 2, 12), torch.tensor([2]))
