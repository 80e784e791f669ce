"""Plain torch: the op set that defines the numbers, term by term as in diffusers' ErnieImage transformer (spec section 1.5, steps 8 and 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Optimizer

from ernie_core.model.layout import SequenceLayout
from ernie_core.ops.varlen import varlen_attention, varlen_usable

FUSED_ADAMW_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})  # where torch.optim.AdamW(fused=True) exists since torch 2.5


class ReferenceOps:
    """Runs everywhere. Under ``torch.compile`` it is also the one to use: the compiler does the fusing."""

    name = "reference"

    def __init__(self, reason: str = "chosen by name") -> None:
        self.reason = reason

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def rms_norm_modulate(self, x_BSD: Tensor, weight_D: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
        mean_square_BS1 = x_BSD.float().pow(2).mean(-1, keepdim=True)
        y_BSD = (x_BSD * torch.rsqrt(mean_square_BS1 + eps)).to(weight_D.dtype) * weight_D
        return (y_BSD.float() * (1 + scale.float()) + shift.float()).to(x_BSD.dtype)

    def qk_norm_rope(
        self, qkv_BSE: Tensor, norm_q_K: Tensor, norm_k_K: Tensor, rope: Tensor, *, heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        q_BSAK, k_BSAK, v_BSAK = (part.unflatten(-1, (heads, -1)) for part in qkv_BSE.chunk(3, dim=-1))
        cos, sin = rope.unbind(0)
        head_dim = norm_q_K.shape
        q_BSAK = rotate(F.rms_norm(q_BSAK, head_dim, norm_q_K, eps), cos, sin)
        k_BSAK = rotate(F.rms_norm(k_BSAK, head_dim, norm_k_K, eps), cos, sin)
        return q_BSAK, k_BSAK, v_BSAK

    def attention(
        self, q_BSAK: Tensor, k_BSAK: Tensor, v_BSAK: Tensor, *, layout: SequenceLayout, mask_B11S: Tensor | None, offsets: Tensor | None
    ) -> Tensor:
        if not layout.packed:
            return sdpa(q_BSAK, k_BSAK, v_BSAK, mask_B11S).flatten(2)
        if offsets is not None and varlen_usable(q_BSAK):
            return varlen_attention(q_BSAK[0], k_BSAK[0], v_BSAK[0], offsets, layout.longest).flatten(1)[None]
        return grouped_attention(q_BSAK, k_BSAK, v_BSAK, layout)

    def geglu(self, gate_up_BSF: Tensor) -> Tensor:
        gate_BSF, up_BSF = gate_up_BSF.chunk(2, dim=-1)
        return up_BSF * F.gelu(gate_BSF)

    def gated_residual(self, x_BSD: Tensor, y_BSD: Tensor, gate: Tensor) -> Tensor:
        return x_BSD + (gate.float() * y_BSD.float()).to(y_BSD.dtype)

    def final_norm(self, x_BSD: Tensor, scale: Tensor, shift: Tensor, *, eps: float) -> Tensor:
        return F.layer_norm(x_BSD, x_BSD.shape[-1:], eps=eps) * (1 + scale) + shift

    def adamw(
        self,
        param_groups: Iterable[Mapping[str, Any]],
        *,
        learning_rate: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> Optimizer:
        groups = [dict(group) for group in param_groups]
        params = [p for group in groups for p in group["params"]]
        fused = all(p.is_floating_point() and p.device.type in FUSED_ADAMW_DEVICES for p in params)
        return AdamW(groups, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)


def sdpa(q_BSAK: Tensor, k_BSAK: Tensor, v_BSAK: Tensor, mask_B11S: Tensor | None = None) -> Tensor:
    """Attention of [B, S, A, K] tensors. The heads axis is moved by a view, so nothing is copied."""
    out_BASK = F.scaled_dot_product_attention(q_BSAK.transpose(1, 2), k_BSAK.transpose(1, 2), v_BSAK.transpose(1, 2), attn_mask=mask_B11S)
    return out_BASK.transpose(1, 2)


def grouped_attention(q_1SAK: Tensor, k_1SAK: Tensor, v_1SAK: Tensor, layout: SequenceLayout) -> Tensor:
    """Attention of a packed row, one call per group of equal lengths: each group is a view of the row, without padding and without a mask."""
    sizes = [group.tokens for group in layout.groups]
    outs = []
    # split, not slicing: its backward writes one gradient per tensor instead of one zero-padded copy per group.
    for group, q, k, v in zip(layout.groups, *(t[0].split(sizes) for t in (q_1SAK, k_1SAK, v_1SAK))):
        shape = (len(group.samples), group.seq_len)
        outs.append(sdpa(q.unflatten(0, shape), k.unflatten(0, shape), v.unflatten(0, shape)).flatten(0, 1).flatten(1))
    return torch.cat(outs)[None]


def rotate(x_BSAK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x_BSAK.chunk(2, dim=-1)
    return x_BSAK * cos + torch.cat((-high, low), dim=-1) * sin
