"""torch's variable-length attention, where this torch and this device have it (torch 2.10 and later, CUDA, half precision)."""

from __future__ import annotations

import torch
from torch import Tensor

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10, or a build without flash attention
    varlen_attn = None


def varlen_usable(q: Tensor) -> bool:
    """Flash kernels want CUDA of compute capability 8.0 or more, half precision and a head size that is a multiple of 8, at most 256."""
    if varlen_attn is None or not q.is_cuda or q.dtype not in (torch.float16, torch.bfloat16):
        return False
    return q.shape[-1] % 8 == 0 and q.shape[-1] <= 256 and torch.version.hip is None and torch.cuda.get_device_capability(q.device)[0] >= 8


def varlen_attention(q_SAK: Tensor, k_SAK: Tensor, v_SAK: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """[S, A, K]; ``offsets`` int32 [B + 1] on the device, ``longest`` the longest sample, a Python int."""
    return varlen_attn(q_SAK, k_SAK, v_SAK.contiguous(), offsets, offsets, longest, longest)
