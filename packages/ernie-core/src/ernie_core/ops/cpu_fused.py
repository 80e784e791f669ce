"""The fast op set for float32 on a CPU: oneDNN matrix products and hand-written gradients with few passes over memory.

The formulas are those of ``reference`` regrouped, so numbers agree up to rounding. Other dtypes go to ``reference``, whose roundings are part of
the contract, and so does code under ``torch.compile``, which fuses by itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ernie_core.ops.onednn import SMALLEST, OneDnnLinear, onednn_usable
from ernie_core.ops.reference import ReferenceOps

gelu_backward_into = torch.ops.aten.gelu_backward.grad_input


class CpuFusedOps(ReferenceOps):
    name = "cpu-fused"

    def __init__(self, reason: str = "chosen by name") -> None:
        self.onednn = onednn_usable()
        super().__init__(f"{reason}; matrix products by {'oneDNN' if self.onednn else 'torch.mm'}")

    def linear(self, x: Tensor, weight: Tensor) -> Tensor:
        if not _applies(x) or not self.onednn or x.shape[:-1].numel() < SMALLEST:
            return super().linear(x, weight)
        return OneDnnLinear.apply(x, weight)

    def rms_norm_modulate(self, x_BSD: Tensor, weight_D: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
        if not _applies(x_BSD):
            return super().rms_norm_modulate(x_BSD, weight_D, shift, scale, eps=eps)
        if torch.is_grad_enabled():
            return RmsNormModulate.apply(x_BSD, weight_D, shift, scale, eps)
        xhat_BSD, _ = _rms_normalise(x_BSD, eps)
        return torch.addcmul(shift, xhat_BSD, weight_D * (1 + scale), out=xhat_BSD)

    def qk_norm_rope(
        self, qkv_BSE: Tensor, norm_q_K: Tensor, norm_k_K: Tensor, rope: Tensor, *, heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not _applies(qkv_BSE):
            return super().qk_norm_rope(qkv_BSE, norm_q_K, norm_k_K, rope, heads=heads, eps=eps)
        return QkNormRope.apply(qkv_BSE, norm_q_K, norm_k_K, rope, heads, eps)

    def geglu(self, gate_up_BSF: Tensor) -> Tensor:
        if not _applies(gate_up_BSF):
            return super().geglu(gate_up_BSF)
        if torch.is_grad_enabled():
            return GeGlu.apply(gate_up_BSF)
        gate_BSF, up_BSF = gate_up_BSF.chunk(2, dim=-1)
        return F.gelu(gate_BSF).mul_(up_BSF)

    def gated_residual(self, x_BSD: Tensor, y_BSD: Tensor, gate: Tensor) -> Tensor:
        if not _applies(x_BSD):
            return super().gated_residual(x_BSD, y_BSD, gate)
        return torch.addcmul(x_BSD, gate, y_BSD)


def _applies(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling()


class RmsNormModulate(torch.autograd.Function):
    """y = xhat m + shift with xhat = x / rms(x), m = weight (1 + scale).

    dx = (g m - xhat mean(g m xhat)) / rms(x),  dm = g xhat,  dshift = g, summed over the broadcast axes.
    """

    @staticmethod
    def forward(ctx, x_BSD: Tensor, weight_D: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        xhat_BSD, inverse_BS1 = _rms_normalise(x_BSD, eps)
        m = weight_D * (1 + scale)
        ctx.save_for_backward(xhat_BSD, inverse_BS1, m, weight_D, scale)
        ctx.shift_shape = shift.shape
        return torch.addcmul(shift, xhat_BSD, m)

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BSD: Tensor) -> tuple[Tensor | None, ...]:
        xhat_BSD, inverse_BS1, m, weight_D, scale = ctx.saved_tensors
        dm_full = g_BSD * xhat_BSD
        mean_BS1 = (dm_full * m).mean(-1, keepdim=True)
        dx_BSD = torch.addcmul(g_BSD * m, xhat_BSD, mean_BS1, value=-1).mul_(inverse_BS1)
        dm = dm_full.sum_to_size(m.shape)
        dweight_D = (dm * (1 + scale)).sum_to_size(weight_D.shape)
        return dx_BSD, dweight_D, g_BSD.sum_to_size(ctx.shift_shape), (dm * weight_D).sum_to_size(scale.shape), None


class QkNormRope(torch.autograd.Function):
    """Both norms and both rotations; the three gradients are written into one buffer, ready for one matrix product."""

    @staticmethod
    def forward(
        ctx, qkv_BSE: Tensor, norm_q_K: Tensor, norm_k_K: Tensor, rope: Tensor, heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v_BSAK = qkv_BSE.unflatten(-1, (3, heads, -1)).unbind(2)
        (qhat, q_inverse), (khat, k_inverse) = _rms_normalise(q, eps), _rms_normalise(k, eps)
        ctx.save_for_backward(qhat, q_inverse, khat, k_inverse, norm_q_K, norm_k_K, rope)
        return _rotate(qhat, norm_q_K, rope), _rotate(khat, norm_k_K, rope), v_BSAK

    @staticmethod
    @once_differentiable
    def backward(ctx, gq_BSAK: Tensor, gk_BSAK: Tensor, gv_BSAK: Tensor) -> tuple[Tensor | None, ...]:
        qhat, q_inverse, khat, k_inverse, norm_q_K, norm_k_K, rope = ctx.saved_tensors
        batch, seq, heads, size = qhat.shape
        dqkv = qhat.new_empty(batch, seq, 3, heads, size)
        dnorm_q_K = _norm_rotate_backward(gq_BSAK, qhat, q_inverse, norm_q_K, rope, out=dqkv[:, :, 0])
        dnorm_k_K = _norm_rotate_backward(gk_BSAK, khat, k_inverse, norm_k_K, rope, out=dqkv[:, :, 1])
        dqkv[:, :, 2] = gv_BSAK
        return dqkv.flatten(2), dnorm_q_K, dnorm_k_K, None, None, None


class GeGlu(torch.autograd.Function):
    """up * gelu(gate); both gradients are written into one buffer."""

    @staticmethod
    def forward(ctx, gate_up_BSF: Tensor) -> Tensor:
        gate_BSF, up_BSF = gate_up_BSF.chunk(2, dim=-1)
        active_BSF = F.gelu(gate_BSF)
        ctx.save_for_backward(gate_up_BSF, active_BSF)
        return active_BSF * up_BSF

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BSF: Tensor) -> Tensor:
        gate_up_BSF, active_BSF = ctx.saved_tensors
        gate_BSF, up_BSF = gate_up_BSF.chunk(2, dim=-1)
        grad = torch.empty_like(gate_up_BSF)
        dgate_BSF, dup_BSF = grad.chunk(2, dim=-1)
        torch.mul(g_BSF, active_BSF, out=dup_BSF)
        gelu_backward_into(g_BSF * up_BSF, gate_BSF, grad_input=dgate_BSF)
        return grad


def _rms_normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) over the last axis, and 1 / rms(x). The norm reads x once, without writing its squares."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return x * inverse, inverse


def _rotate(xhat_BSAK: Tensor, weight_K: Tensor, rope: Tensor) -> Tensor:
    """(xhat weight) cos + (-hi, lo) sin, the weight folded into the small tables."""
    half = weight_K.shape[0] // 2
    cos, sin = rope.unbind(0)
    out = xhat_BSAK * (cos * weight_K)
    low, high = xhat_BSAK[..., :half], xhat_BSAK[..., half:]
    out[..., :half].addcmul_(high, sin[..., :half] * weight_K[half:], value=-1)
    out[..., half:].addcmul_(low, sin[..., half:] * weight_K[:half])
    return out


def _norm_rotate_backward(
    g_BSAK: Tensor, xhat_BSAK: Tensor, inverse_BSA1: Tensor, weight_K: Tensor, rope: Tensor, *, out: Tensor
) -> Tensor:
    """Writes the gradient of the input into ``out`` and returns that of the weight."""
    half = weight_K.shape[0] // 2
    cos, sin = rope.unbind(0)
    r_BSAK = g_BSAK * cos  # gradient of xhat * weight: the transposed rotation
    r_BSAK[..., :half].addcmul_(g_BSAK[..., half:], sin[..., half:])
    r_BSAK[..., half:].addcmul_(g_BSAK[..., :half], sin[..., :half], value=-1)
    dweight_full = r_BSAK * xhat_BSAK
    r_BSAK.mul_(weight_K)
    mean_BSA1 = (dweight_full @ weight_K).div_(weight_K.shape[0])[..., None]
    torch.mul(r_BSAK.addcmul_(xhat_BSAK, mean_BSA1, value=-1), inverse_BSA1, out=out)
    return dweight_full.sum((0, 1, 2))
