"""The op set ``fused``: Triton kernels for norms, modulation, rotation, GEGLU and gates, with their gradients.

What is rounded differs from ``reference`` only in the rotation, which is computed in float32 and rounded once. Under ``torch.compile`` the
reference's formulas are used, since the compiler fuses them itself.

The kernels are checked against ``reference`` in Triton's interpreter on a CPU. They have not been run on a GPU by this project yet.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from ernie_core.ops import triton_kernels as kernels
from ernie_core.ops.reference import ReferenceOps

RUN = 32  # tokens summed by one program in backward
COLUMNS = 1024  # of one GEGLU program


class FusedOps(ReferenceOps):
    name = "fused"

    def rms_norm_modulate(self, x_BSD: Tensor, weight_D: Tensor, shift: Tensor, scale: Tensor, *, eps: float) -> Tensor:
        if torch.compiler.is_compiling():
            return super().rms_norm_modulate(x_BSD, weight_D, shift, scale, eps=eps)
        return RmsNormModulate.apply(x_BSD, weight_D, shift, scale, eps)

    def qk_norm_rope(
        self, qkv_BSE: Tensor, norm_q_K: Tensor, norm_k_K: Tensor, rope: Tensor, *, heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if torch.compiler.is_compiling():
            return super().qk_norm_rope(qkv_BSE, norm_q_K, norm_k_K, rope, heads=heads, eps=eps)
        return QkNormRope.apply(qkv_BSE, norm_q_K, norm_k_K, rope, heads, eps)

    def geglu(self, gate_up_BSF: Tensor) -> Tensor:
        return super().geglu(gate_up_BSF) if torch.compiler.is_compiling() else GeGlu.apply(gate_up_BSF)

    def gated_residual(self, x_BSD: Tensor, y_BSD: Tensor, gate: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().gated_residual(x_BSD, y_BSD, gate)
        return GatedResidual.apply(x_BSD, y_BSD, gate)


class RmsNormModulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BSD: Tensor, weight_D: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        x_BSD, shift, scale = x_BSD.contiguous(), _dense_rows(shift), _dense_rows(scale)
        batch, tokens, width = x_BSD.shape
        out_BSD, inverse = torch.empty_like(x_BSD), x_BSD.new_empty(batch * tokens, dtype=torch.float32)
        kernels.rms_norm_modulate_forward[(batch * tokens,)](
            x_BSD, weight_D, shift, scale, out_BSD, inverse, tokens, *_strides(shift), *_strides(scale), eps,
            WIDTH=width, BLOCK=triton.next_power_of_2(width),
        )  # fmt: skip
        ctx.save_for_backward(x_BSD, weight_D, scale, inverse)
        ctx.shift_shape = shift.shape
        return out_BSD

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BSD: Tensor) -> tuple[Tensor | None, ...]:
        x_BSD, weight_D, scale, inverse = ctx.saved_tensors
        batch, tokens, width = x_BSD.shape
        per_token = scale.shape[1] > 1 or ctx.shift_shape[1] > 1
        runs = triton.cdiv(tokens, RUN)
        dx_BSD = torch.empty_like(x_BSD)
        dweight = _partial(x_BSD, batch, runs)
        dshift, dscale = (_partial(x_BSD, batch, tokens if per_token else runs) for _ in range(2))
        kernels.rms_norm_modulate_backward[(batch, runs)](
            g_BSD.contiguous(), x_BSD, weight_D, scale, inverse, dx_BSD, dweight, dshift, dscale, tokens, *_strides(scale),
            WIDTH=width, BLOCK=triton.next_power_of_2(width), RUN=RUN, PER_TOKEN=per_token,
        )  # fmt: skip
        dtype = scale.dtype
        return (
            dx_BSD,
            dweight.sum((0, 1)).to(weight_D.dtype),
            _reduce(dshift, ctx.shift_shape, dtype),
            _reduce(dscale, scale.shape, dtype),
            None,
        )


class GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BSD: Tensor, y_BSD: Tensor, gate: Tensor) -> Tensor:
        x_BSD, y_BSD, gate = x_BSD.contiguous(), y_BSD.contiguous(), _dense_rows(gate)
        batch, tokens, width = x_BSD.shape
        out_BSD = torch.empty_like(x_BSD)
        kernels.gated_residual_forward[(batch * tokens,)](
            x_BSD, y_BSD, gate, out_BSD, tokens, *_strides(gate), WIDTH=width, BLOCK=triton.next_power_of_2(width)
        )
        ctx.save_for_backward(y_BSD, gate)
        return out_BSD

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y_BSD, gate = ctx.saved_tensors
        batch, tokens, width = y_BSD.shape
        per_token, runs = gate.shape[1] > 1, triton.cdiv(tokens, RUN)
        dy_BSD, dgate = torch.empty_like(y_BSD), _partial(y_BSD, batch, tokens if per_token else runs)
        kernels.gated_residual_backward[(batch, runs)](
            g_BSD.contiguous(), y_BSD, gate, dy_BSD, dgate, tokens, *_strides(gate),
            WIDTH=width, BLOCK=triton.next_power_of_2(width), RUN=RUN, PER_TOKEN=per_token,
        )  # fmt: skip
        return g_BSD, dy_BSD, _reduce(dgate, gate.shape, gate.dtype)


class GeGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up_BSF: Tensor) -> Tensor:
        gate_up_BSF = gate_up_BSF.contiguous()
        *rows, double = gate_up_BSF.shape
        out_BSF = gate_up_BSF.new_empty(*rows, double // 2)
        kernels.geglu_forward[_geglu_grid(gate_up_BSF)](gate_up_BSF, out_BSF, WIDTH=double // 2, BLOCK=COLUMNS)
        ctx.save_for_backward(gate_up_BSF)
        return out_BSF

    @staticmethod
    @once_differentiable
    def backward(ctx, g_BSF: Tensor) -> Tensor:
        (gate_up_BSF,) = ctx.saved_tensors
        grad = torch.empty_like(gate_up_BSF)
        kernels.geglu_backward[_geglu_grid(gate_up_BSF)](g_BSF.contiguous(), gate_up_BSF, grad, WIDTH=grad.shape[-1] // 2, BLOCK=COLUMNS)
        return grad


class QkNormRope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, qkv_BSE: Tensor, norm_q_K: Tensor, norm_k_K: Tensor, rope: Tensor, heads: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv_BSE, rope = qkv_BSE.contiguous(), rope.contiguous()
        batch, tokens, _ = qkv_BSE.shape
        width = qkv_BSE.shape[-1] // 3
        outs, inverses = [], []
        for part, weight_K in enumerate((norm_q_K, norm_k_K)):
            outs.append(qkv_BSE.new_empty(batch, tokens, heads, width // heads))
            inverses.append(qkv_BSE.new_empty(batch * tokens, heads, dtype=torch.float32))
            kernels.norm_rotate_forward[(batch * tokens,)](
                qkv_BSE[..., part * width :], weight_K, rope, outs[part], inverses[part], tokens, 3 * width, *_rope_strides(rope), eps,
                **_tile(heads, width),
            )  # fmt: skip
        ctx.save_for_backward(qkv_BSE, norm_q_K, norm_k_K, rope, *inverses)
        ctx.heads = heads
        return outs[0], outs[1], qkv_BSE[..., 2 * width :].unflatten(-1, (heads, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx, gq_BSAK: Tensor, gk_BSAK: Tensor, gv_BSAK: Tensor) -> tuple[Tensor | None, ...]:
        qkv_BSE, norm_q_K, norm_k_K, rope, *inverses = ctx.saved_tensors
        batch, tokens, _ = qkv_BSE.shape
        width, rows = qkv_BSE.shape[-1] // 3, batch * tokens
        dqkv_BSE = torch.empty_like(qkv_BSE)
        dqkv_BSE[..., 2 * width :] = gv_BSAK.flatten(2)
        dnorms = []
        for part, (g_BSAK, weight_K) in enumerate(((gq_BSAK, norm_q_K), (gk_BSAK, norm_k_K))):
            runs = triton.cdiv(rows, RUN)
            dweight = weight_K.new_empty(runs, weight_K.shape[0], dtype=torch.float32)
            kernels.norm_rotate_backward[(runs,)](
                g_BSAK.contiguous(), qkv_BSE[..., part * width :], weight_K, rope, inverses[part], dqkv_BSE[..., part * width :], dweight,
                rows, tokens, 3 * width, *_rope_strides(rope), **_tile(ctx.heads, width), RUN=RUN,
            )  # fmt: skip
            dnorms.append(dweight.sum(0).to(weight_K.dtype))
        return dqkv_BSE, dnorms[0], dnorms[1], None, None, None


def _dense_rows(broadcast: Tensor) -> Tensor:
    """Columns side by side, as the kernels read them; a chunk of a wider row stays a view."""
    return broadcast if broadcast.stride(-1) == 1 else broadcast.contiguous()


def _strides(broadcast: Tensor) -> tuple[int, int]:
    """Strides of sample and token; 0 where one value serves all."""
    return (broadcast.stride(0) if broadcast.shape[0] > 1 else 0, broadcast.stride(1) if broadcast.shape[1] > 1 else 0)


def _rope_strides(rope: Tensor) -> tuple[int, int]:
    """Strides of sample and from cosines to sines of [2, 1 or B, S, 1, K]."""
    return (rope.stride(1) if rope.shape[1] > 1 else 0, rope.stride(0))


def _tile(heads: int, width: int) -> dict[str, int]:
    half = width // heads // 2
    return {"HEADS": heads, "HALF": half, "HEADS_BLOCK": triton.next_power_of_2(heads), "HALF_BLOCK": triton.next_power_of_2(half)}


def _partial(like_BSD: Tensor, batch: int, parts: int) -> Tensor:
    return like_BSD.new_empty(batch, parts, like_BSD.shape[-1], dtype=torch.float32)


def _reduce(partial: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Finish the sum of a broadcast tensor's gradient: over runs or tokens, and over samples if it was shared."""
    if shape[1] == 1:
        partial = partial.sum(1, keepdim=True)
    return partial.sum_to_size(shape).to(dtype)


def _geglu_grid(gate_up_BSF: Tensor) -> tuple[int, int]:
    return gate_up_BSF.shape[:-1].numel(), triton.cdiv(gate_up_BSF.shape[-1] // 2, COLUMNS)
