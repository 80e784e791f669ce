"""Times of the transformer and its op sets on this machine. Not part of the default test run:

    pytest packages/ernie-core/benchmarks/bench_dit.py -o addopts="--import-mode=importlib" --benchmark-only

``tools/bench/dit.py`` compares with diffusers' model; this compares op sets and layouts with each other.
"""

from __future__ import annotations

import pytest
import torch

from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.model.layout import SequenceLayout
from ernie_core.ops.select import select_ops

CONFIG = DiTConfig(
    hidden_size=192,
    num_attention_heads=6,
    num_layers=6,
    ffn_hidden_size=512,
    in_channels=48,
    out_channels=48,
    text_in_dim=128,
    rope_axes_dim=(8, 12, 12),
)
BATCH, GRID, TEXT = 32, (8, 8), 16
MIXED = tuple(1 + b % TEXT for b in range(BATCH))


def setting(ops: str, text_lens: tuple[int, ...], *, packed: bool) -> tuple[ErnieDiT, tuple[object, ...]]:
    draw = torch.Generator().manual_seed(0)
    model = ErnieDiT(CONFIG, ops=select_ops(ops, device="cpu", dtype=torch.float32))
    latents, text = torch.randn(BATCH, 48, *GRID, generator=draw), torch.randn(BATCH, TEXT, 128, generator=draw)
    return model, (latents, torch.full((BATCH,), 500.0), text, torch.tensor(text_lens), SequenceLayout(GRID, text_lens, packed))


@pytest.mark.parametrize("ops", ["reference", "cpu-fused"])
def test_forward(benchmark, ops):
    model, arguments = setting(ops, (TEXT,) * BATCH, packed=False)
    with torch.no_grad():
        benchmark(lambda: model(*arguments))


@pytest.mark.parametrize("ops", ["reference", "cpu-fused"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_forward_and_backward_of_mixed_lengths(benchmark, ops, packed):
    model, arguments = setting(ops, MIXED, packed=packed)
    benchmark(lambda: model(*arguments).square().mean().backward())


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_checkpointing(benchmark, mode):
    model, arguments = setting("cpu-fused", (TEXT,) * BATCH, packed=False)
    model.checkpointing = mode
    benchmark(lambda: model(*arguments).square().mean().backward())
