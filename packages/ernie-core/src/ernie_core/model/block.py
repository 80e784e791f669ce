"""The transformer block ``ernie-shared-adaln``, and what every block receives (spec section 1.5, step 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ernie_core.config.base import Config
from ernie_core.model.fusion import FusedLinear, name_apart
from ernie_core.model.layout import SequenceLayout
from ernie_core.ops.opset import OpSet
from ernie_core.plugins.hookspecs import BlockContext


@dataclass(frozen=True)
class BlockInputs:
    """What is the same for all blocks of one forward pass. ``block(x_BSD, inputs) -> x_BSD``.

    ``modulation`` is shift, scale, gate of attention, then shift, scale, gate of the feed-forward part, each broadcastable to x_BSD:
    [B, 1, D] usually, [1, 1, D] when all samples share one time, [1, S, D] when samples of different times are packed into one row.
    ``rope`` is [2, 1 or B, S, 1, K]. ``mask_B11S`` is given only when ``layout.needs_mask``, ``offsets`` only when ``layout.packed``.
    """

    modulation: tuple[Tensor, ...]
    rope: Tensor
    layout: SequenceLayout
    ops: OpSet
    mask_B11S: Tensor | None = None
    offsets: Tensor | None = None


class SharedAdaLNBlock(nn.Module):
    """Attention and GEGLU, each with RMS norm, a modulation shared by all layers, and a gated residual.

    x = x + gate_a * Attention(rms(x) * w_a * (1 + scale_a) + shift_a)
    x = x + gate_m * FeedForward(rms(x) * w_m * (1 + scale_m) + shift_m)
    """

    def __init__(self, width: int, *, heads: int, ffn_width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.adaLN_sa_ln = NormWeight(width)
        self.self_attention = SelfAttention(width, heads=heads, eps=eps)
        self.adaLN_mlp_ln = NormWeight(width)
        self.mlp = FeedForward(width, ffn_width=ffn_width)

    def forward(self, x_BSD: Tensor, inputs: BlockInputs) -> Tensor:
        ops = inputs.ops
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = inputs.modulation
        y_BSD = ops.rms_norm_modulate(x_BSD, self.adaLN_sa_ln.weight, shift_a, scale_a, eps=self.eps)
        x_BSD = ops.gated_residual(x_BSD, self.self_attention(y_BSD, inputs), gate_a)
        y_BSD = ops.rms_norm_modulate(x_BSD, self.adaLN_mlp_ln.weight, shift_m, scale_m, eps=self.eps)
        return ops.gated_residual(x_BSD, self.mlp(y_BSD, ops), gate_m)


class NormWeight(nn.Module):
    """The learned scale of an RMS norm; the norm itself is an op, fused with what follows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class OpLinear(nn.Linear):
    """A linear map without bias whose product is the op set's."""

    def forward(self, x: Tensor, ops: OpSet) -> Tensor:
        return ops.linear(x, self.weight)


class SelfAttention(nn.Module):
    """Attention over image and text tokens together, with RMS norm on queries and keys; its weights are shared by the heads."""

    def __init__(self, width: int, *, heads: int, eps: float) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.to_qkv = FusedLinear(width, {"to_q": width, "to_k": width, "to_v": width})
        self.norm_q = NormWeight(width // heads)
        self.norm_k = NormWeight(width // heads)
        self.to_out = nn.ModuleList([OpLinear(width, width, bias=False)])
        name_apart(self, "to_qkv")

    def forward(self, x_BSD: Tensor, inputs: BlockInputs) -> Tensor:
        q_BSAK, k_BSAK, v_BSAK = inputs.ops.qk_norm_rope(
            self.to_qkv(x_BSD, inputs.ops), self.norm_q.weight, self.norm_k.weight, inputs.rope, heads=self.heads, eps=self.eps
        )
        y_BSD = inputs.ops.attention(q_BSAK, k_BSAK, v_BSAK, layout=inputs.layout, mask_B11S=inputs.mask_B11S, offsets=inputs.offsets)
        return self.to_out[0](y_BSD, inputs.ops)


class FeedForward(nn.Module):
    """``fc2(up(y) * gelu(gate(y)))``, without biases."""

    def __init__(self, width: int, *, ffn_width: int) -> None:
        super().__init__()
        self.gate_up = FusedLinear(width, {"gate_proj": ffn_width, "up_proj": ffn_width})
        self.linear_fc2 = OpLinear(ffn_width, width, bias=False)
        name_apart(self, "gate_up")

    def forward(self, x_BSD: Tensor, ops: OpSet) -> Tensor:
        return self.linear_fc2(ops.geglu(self.gate_up(x_BSD, ops)), ops)


def build_shared_adaln(config: Config, context: BlockContext) -> SharedAdaLNBlock:
    return SharedAdaLNBlock(context.hidden_size, heads=context.num_attention_heads, ffn_width=context.ffn_hidden_size, eps=context.eps)
