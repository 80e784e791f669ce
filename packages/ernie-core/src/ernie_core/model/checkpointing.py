"""Recomputing activations in backward, block by block.

none       keep everything
selective  keep the results of matrix products and attention, recompute norms, rotations and gates: most of the memory, little of the time
full       keep only each block's input
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from ernie_core.ops.onednn import onednn_usable
from ernie_core.ops.varlen import varlen_attn

if TYPE_CHECKING:
    from ernie_core.model.block import BlockInputs

aten = torch.ops.aten
KEPT = (
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._flash_attention_forward.default,
)


@cache
def kept_ops() -> list[torch._ops.OpOverload]:
    """Operators whose results ``selective`` keeps."""
    kept = list(KEPT)
    if onednn_usable():
        kept.append(torch.ops.mkldnn._linear_pointwise.default)
    if varlen_attn is not None and hasattr(torch.ops.torch_attn, "_varlen_attn"):
        kept.append(torch.ops.torch_attn._varlen_attn.default)
    return kept


def run_block(block: nn.Module, x_BSD: Tensor, inputs: BlockInputs, *, mode: str) -> Tensor:
    """``block(x, inputs)`` under one of the modes above. Blocks draw no random numbers, so no random state is kept."""
    if mode == "none":
        return block(x_BSD, inputs)
    if mode == "full":
        return checkpoint(block, x_BSD, inputs, use_reentrant=False, preserve_rng_state=False)
    if mode == "selective":
        contexts = partial(create_selective_checkpoint_contexts, kept_ops())
        return checkpoint(block, x_BSD, inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    raise ValueError(f"checkpointing = {mode!r}: expected none, selective or full")
