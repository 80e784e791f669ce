"""NVIDIA Apex: its fused RMS and layer norms, and FusedAdam. The rest is ``reference``.

Apex computes a norm in float32 and rounds once, where the reference rounds before the weight: in half precision the last digit may differ.
Written against Apex's public interface; it has not been run by this project, which has had no CUDA build of Apex.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ernie_core.errors import MissingComponent
from ernie_core.ops.reference import ReferenceOps, rotate

try:
    from apex.normalization.fused_layer_norm import fused_layer_norm, fused_rms_norm_affine
    from apex.optimizers import FusedAdam
except ImportError as error:  # reached only when the extensions are there but cannot be loaded
    raise MissingComponent(
        f'ops.use = "apex": NVIDIA Apex cannot be imported ({error}); rebuild it for this torch, or set ops.use = "auto".'
    ) from error


class ApexOps(ReferenceOps):
    name = "apex"

    def rms_norm_modulate(self, x_BSD: Tensor, weight_D: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
        y_BSD = fused_rms_norm_affine(x_BSD, weight_D, weight_D.shape, eps)
        return (y_BSD.float() * (1 + scale.float()) + shift.float()).to(x_BSD.dtype)

    def qk_norm_rope(
        self, qkv_BSE: Tensor, norm_q_K: Tensor, norm_k_K: Tensor, rope: Tensor, *, heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        q_BSAK, k_BSAK, v_BSAK = (part.unflatten(-1, (heads, -1)) for part in qkv_BSE.chunk(3, dim=-1))
        cos, sin = rope.unbind(0)
        q_BSAK = fused_rms_norm_affine(q_BSAK.contiguous(), norm_q_K, norm_q_K.shape, eps)
        k_BSAK = fused_rms_norm_affine(k_BSAK.contiguous(), norm_k_K, norm_k_K.shape, eps)
        return rotate(q_BSAK, cos, sin), rotate(k_BSAK, cos, sin), v_BSAK

    def final_norm(self, x_BSD: Tensor, scale: Tensor, shift: Tensor, *, eps: float) -> Tensor:
        return fused_layer_norm(x_BSD.contiguous(), x_BSD.shape[-1:], eps) * (1 + scale) + shift

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
        return FusedAdam(groups, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, adam_w_mode=True)
