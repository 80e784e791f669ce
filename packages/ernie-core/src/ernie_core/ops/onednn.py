"""Matrix products through oneDNN, where this torch has it.

torch computes float32 products on x86 with MKL, which on processors of other makers than Intel uses narrower vector instructions: on an AMD Zen 5
oneDNN's were about twice as fast at the sizes of this model. torch itself calls this operator from compiled code; it is not part of its documented
interface, so it is looked up and tried once, and without it everything falls back to ``torch.mm``.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 32
"""Row counts are rounded up to a multiple of this with zero rows: oneDNN compiles a kernel per shape (milliseconds), and packed batches have a
different number of tokens in every step. At 2,560 tokens that is at most 1.2 % more work, in matrix products only."""

SMALLEST = 256
"""Fewer rows than this go to ``torch.mm``: there is little to gain, and a kernel per shape to lose."""


@cache
def onednn_usable() -> bool:
    """Whether the operator exists and gives the right numbers here. The answer does not depend on timing, so a resumed run takes the same path."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    x, weight = torch.linspace(-1, 1, 12).view(3, 4), torch.linspace(0, 1, 8).view(2, 4)
    try:
        return torch.allclose(_product(x, weight), x @ weight.t(), atol=1e-5)
    except (RuntimeError, TypeError):  # another signature, or a processor that oneDNN does not know
        return False


class OneDnnLinear(torch.autograd.Function):
    """``x @ weight.T`` with both gradients, for float32 on a CPU and at least ``SMALLEST`` rows."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        rows_RK = padded_rows(x)
        ctx.save_for_backward(rows_RK, weight)
        ctx.shape = x.shape
        return _product(rows_RK, weight)[: x.shape[:-1].numel()].view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows_RK, weight = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad
        grad_RN = padded_rows(grad)
        grad_x = _product(grad_RN, weight.t())[: ctx.shape[:-1].numel()].view(ctx.shape) if needs_x else None
        return grad_x, _transposed_product(grad_RN, rows_RK) if needs_weight else None


def padded_rows(x: Tensor) -> Tensor:
    """[..., K] to [R, K] with R a multiple of ``ROWS``; zero rows at the end, a copy only if they are needed."""
    rows = x.reshape(-1, x.shape[-1])
    missing = -rows.shape[0] % ROWS
    if not missing:
        return rows.contiguous()
    padded = rows.new_empty(rows.shape[0] + missing, rows.shape[1])
    padded[:-missing] = rows
    padded[-missing:] = 0
    return padded


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _transposed_product(grad_RN: Tensor, x_RK: Tensor) -> Tensor:
    """``grad.T @ x``; the smaller side becomes the rows of the product, which is the faster way round."""
    if grad_RN.shape[1] > x_RK.shape[1]:
        return _product(x_RK.t(), grad_RN.t()).t().contiguous()
    return _product(grad_RN.t(), x_RK.t())
