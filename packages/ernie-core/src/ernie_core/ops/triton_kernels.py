"""Triton kernels of the op set ``fused``: one program per token (or per run of tokens where a sum is taken), float32 inside, rounded on storing.

Rows are tokens, R = B S; ``row // tokens`` is the sample. A broadcast tensor is addressed by two strides, of sample and of token, one or both 0.
Sums over tokens are taken per run of ``RUN`` tokens and finished by torch, in a fixed order: no atomics, so results are the same every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

RSQRT_2 = tl.constexpr(0.7071067811865476)
RSQRT_2PI = tl.constexpr(0.3989422804014327)


@triton.jit
def rms_norm_modulate_forward(
    x, weight, shift, scale, out, inverse, tokens, shift_b, shift_s, scale_b, scale_s, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)  # elements of a long batch exceed 32 bits
    b, s = row // tokens, row % tokens
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x_D = tl.load(x + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    w_D = tl.load(weight + column, mask=inside, other=0.0)
    r = 1.0 / tl.sqrt(tl.sum(x_D * x_D, axis=0) / WIDTH + eps)
    # The reference rounds to the weight's dtype before and after multiplying by it.
    y_D = ((x_D * r).to(w_D.dtype).to(tl.float32) * w_D.to(tl.float32)).to(w_D.dtype).to(tl.float32)
    shift_D = tl.load(shift + b * shift_b + s * shift_s + column, mask=inside, other=0.0).to(tl.float32)
    scale_D = tl.load(scale + b * scale_b + s * scale_s + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, (y_D * (1.0 + scale_D) + shift_D).to(out.dtype.element_ty), mask=inside)
    tl.store(inverse + row, r)


@triton.jit
def rms_norm_modulate_backward(
    g, x, weight, scale, inverse, dx, dweight, dshift, dscale, tokens, scale_b, scale_s,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr, PER_TOKEN: tl.constexpr,
):  # fmt: skip
    """dx per row; dweight per run [B, runs, D]; dshift and dscale per token or per run."""
    b, run, runs = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    w_D = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    dweight_D = tl.zeros([BLOCK], dtype=tl.float32)
    dshift_D = tl.zeros([BLOCK], dtype=tl.float32)
    dscale_D = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(RUN):
        s = run * RUN + i
        row = b * tokens + s
        here = column < tl.where(s < tokens, WIDTH, 0)  # nothing beyond the last token
        r = tl.load(inverse + b * tokens + tl.minimum(s, tokens - 1))
        xhat_D = tl.load(x + row * WIDTH + column, mask=here, other=0.0).to(tl.float32) * r
        g_D = tl.load(g + row * WIDTH + column, mask=here, other=0.0).to(tl.float32)
        one_D = 1.0 + tl.load(scale + b * scale_b + s * scale_s + column, mask=here, other=0.0).to(tl.float32)
        gm_D = g_D * one_D * w_D
        dx_D = r * (gm_D - xhat_D * (tl.sum(gm_D * xhat_D, axis=0) / WIDTH))
        tl.store(dx + row * WIDTH + column, dx_D.to(dx.dtype.element_ty), mask=here)
        dweight_D += g_D * one_D * xhat_D
        if PER_TOKEN:
            tl.store(dshift + row * WIDTH + column, g_D, mask=here)
            tl.store(dscale + row * WIDTH + column, g_D * xhat_D * w_D, mask=here)
        else:
            dshift_D += g_D
            dscale_D += g_D * xhat_D * w_D
    at = (b * runs + run) * WIDTH + column
    tl.store(dweight + at, dweight_D, mask=inside)
    if not PER_TOKEN:
        tl.store(dshift + at, dshift_D, mask=inside)
        tl.store(dscale + at, dscale_D, mask=inside)


@triton.jit
def gated_residual_forward(x, y, gate, out, tokens, gate_b, gate_s, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)  # elements of a long batch exceed 32 bits
    b, s = row // tokens, row % tokens
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    gate_D = tl.load(gate + b * gate_b + s * gate_s + column, mask=inside, other=0.0).to(tl.float32)
    y_D = tl.load(y + row * WIDTH + column, mask=inside, other=0.0)
    x_D = tl.load(x + row * WIDTH + column, mask=inside, other=0.0)
    product_D = (gate_D * y_D.to(tl.float32)).to(y_D.dtype)
    tl.store(out + row * WIDTH + column, (x_D.to(tl.float32) + product_D.to(tl.float32)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gated_residual_backward(
    g, y, gate, dy, dgate, tokens, gate_b, gate_s, WIDTH: tl.constexpr, BLOCK: tl.constexpr, RUN: tl.constexpr, PER_TOKEN: tl.constexpr
):
    b, run, runs = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.num_programs(1)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    dgate_D = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(RUN):
        s = run * RUN + i
        row = b * tokens + s
        here = column < tl.where(s < tokens, WIDTH, 0)  # nothing beyond the last token
        g_D = tl.load(g + row * WIDTH + column, mask=here, other=0.0).to(tl.float32)
        y_D = tl.load(y + row * WIDTH + column, mask=here, other=0.0).to(tl.float32)
        gate_D = tl.load(gate + b * gate_b + s * gate_s + column, mask=here, other=0.0).to(tl.float32)
        tl.store(dy + row * WIDTH + column, (g_D * gate_D).to(dy.dtype.element_ty), mask=here)
        if PER_TOKEN:
            tl.store(dgate + row * WIDTH + column, g_D * y_D, mask=here)
        else:
            dgate_D += g_D * y_D
    if not PER_TOKEN:
        tl.store(dgate + (b * runs + run) * WIDTH + column, dgate_D, mask=inside)


@triton.jit
def geglu_forward(gate_up, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)  # elements of a long batch exceed 32 bits
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    gate_F = tl.load(gate_up + row * 2 * WIDTH + column, mask=inside, other=0.0)
    up_F = tl.load(gate_up + row * 2 * WIDTH + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    wide_F = gate_F.to(tl.float32)
    active_F = (0.5 * wide_F * (1.0 + tl.erf(wide_F * RSQRT_2))).to(gate_F.dtype).to(tl.float32)
    tl.store(out + row * WIDTH + column, (up_F * active_F).to(out.dtype.element_ty), mask=inside)


@triton.jit
def geglu_backward(g, gate_up, dgate_up, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)  # elements of a long batch exceed 32 bits
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    g_F = tl.load(g + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    gate_F = tl.load(gate_up + row * 2 * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    up_F = tl.load(gate_up + row * 2 * WIDTH + WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    normal_F = 0.5 * (1.0 + tl.erf(gate_F * RSQRT_2))
    slope_F = normal_F + gate_F * RSQRT_2PI * tl.exp(-0.5 * gate_F * gate_F)
    dtype = dgate_up.dtype.element_ty
    tl.store(dgate_up + row * 2 * WIDTH + column, (g_F * up_F * slope_F).to(dtype), mask=inside)
    tl.store(dgate_up + row * 2 * WIDTH + WIDTH + column, (g_F * gate_F * normal_F).to(dtype), mask=inside)


@triton.jit
def norm_rotate_forward(
    x, weight, rope, out, inverse, tokens, x_row, rope_b, rope_sin, eps,
    HEADS: tl.constexpr, HALF: tl.constexpr, HEADS_BLOCK: tl.constexpr, HALF_BLOCK: tl.constexpr,
):  # fmt: skip
    """One token's heads [A, K] as two halves; ``x`` may be a column range of a wider row (``x_row`` apart), ``out`` is dense."""
    row = tl.program_id(0).to(tl.int64)  # elements of a long batch exceed 32 bits
    b, s = row // tokens, row % tokens
    head, k = tl.arange(0, HEADS_BLOCK)[:, None], tl.arange(0, HALF_BLOCK)[None, :]
    inside, lane = (head < HEADS) & (k < HALF), k < HALF
    place = head * 2 * HALF + k
    low = tl.load(x + row * x_row + place, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x + row * x_row + place + HALF, mask=inside, other=0.0).to(tl.float32)
    r_A = 1.0 / tl.sqrt((tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)) / (2 * HALF) + eps)
    low = low * r_A[:, None] * tl.load(weight + k, mask=lane, other=0.0).to(tl.float32)
    high = high * r_A[:, None] * tl.load(weight + k + HALF, mask=lane, other=0.0).to(tl.float32)
    table = rope + b * rope_b + s * 2 * HALF + k
    cos_low, cos_high = tl.load(table, mask=lane, other=0.0).to(tl.float32), tl.load(table + HALF, mask=lane, other=0.0).to(tl.float32)
    table += rope_sin
    sin_low, sin_high = tl.load(table, mask=lane, other=0.0).to(tl.float32), tl.load(table + HALF, mask=lane, other=0.0).to(tl.float32)
    dtype = out.dtype.element_ty
    tl.store(out + row * 2 * HEADS * HALF + place, (low * cos_low - high * sin_low).to(dtype), mask=inside)
    tl.store(out + row * 2 * HEADS * HALF + place + HALF, (high * cos_high + low * sin_high).to(dtype), mask=inside)
    tl.store(inverse + row * HEADS + tl.arange(0, HEADS_BLOCK), r_A, mask=tl.arange(0, HEADS_BLOCK) < HEADS)


@triton.jit
def norm_rotate_backward(
    g, x, weight, rope, inverse, dx, dweight, rows, tokens, x_row, rope_b, rope_sin,
    HEADS: tl.constexpr, HALF: tl.constexpr, HEADS_BLOCK: tl.constexpr, HALF_BLOCK: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """``dx`` has the row stride of ``x``; dweight per run [runs, K]."""
    run = tl.program_id(0).to(tl.int64)
    head, k = tl.arange(0, HEADS_BLOCK)[:, None], tl.arange(0, HALF_BLOCK)[None, :]
    lane = k < HALF
    place = head * 2 * HALF + k
    w_low, w_high = (
        tl.load(weight + k, mask=lane, other=0.0).to(tl.float32),
        tl.load(weight + k + HALF, mask=lane, other=0.0).to(tl.float32),
    )
    dweight_low, dweight_high = tl.zeros([HALF_BLOCK], dtype=tl.float32), tl.zeros([HALF_BLOCK], dtype=tl.float32)
    for i in range(RUN):
        row = run * RUN + i
        b, s = row // tokens, row % tokens
        heads_here = tl.where(row < rows, HEADS, 0)  # nothing beyond the last row
        inside = (head < heads_here) & lane
        here = k < tl.where(row < rows, HALF, 0)
        table = rope + b * rope_b + s * 2 * HALF + k
        cos_low, cos_high = tl.load(table, mask=here, other=0.0).to(tl.float32), tl.load(table + HALF, mask=here, other=0.0).to(tl.float32)
        table += rope_sin
        sin_low, sin_high = tl.load(table, mask=here, other=0.0).to(tl.float32), tl.load(table + HALF, mask=here, other=0.0).to(tl.float32)
        g_low = tl.load(g + row * 2 * HEADS * HALF + place, mask=inside, other=0.0).to(tl.float32)
        g_high = tl.load(g + row * 2 * HEADS * HALF + place + HALF, mask=inside, other=0.0).to(tl.float32)
        r = tl.load(inverse + row * HEADS + tl.arange(0, HEADS_BLOCK), mask=tl.arange(0, HEADS_BLOCK) < heads_here, other=0.0)[:, None]
        xhat_low = tl.load(x + row * x_row + place, mask=inside, other=0.0).to(tl.float32) * r
        xhat_high = tl.load(x + row * x_row + place + HALF, mask=inside, other=0.0).to(tl.float32) * r
        back_low = g_low * cos_low + g_high * sin_high  # the transposed rotation
        back_high = g_high * cos_high - g_low * sin_low
        dweight_low += tl.sum(back_low * xhat_low, axis=0)
        dweight_high += tl.sum(back_high * xhat_high, axis=0)
        back_low, back_high = back_low * w_low, back_high * w_high
        mean = ((tl.sum(back_low * xhat_low, axis=1) + tl.sum(back_high * xhat_high, axis=1)) / (2 * HALF))[:, None]
        dtype = dx.dtype.element_ty
        tl.store(dx + row * x_row + place, (r * (back_low - xhat_low * mean)).to(dtype), mask=inside)
        tl.store(dx + row * x_row + place + HALF, (r * (back_high - xhat_high * mean)).to(dtype), mask=inside)
    column = tl.arange(0, HALF_BLOCK)
    tl.store(dweight + run * 2 * HALF + column, dweight_low, mask=column < HALF)
    tl.store(dweight + run * 2 * HALF + HALF + column, dweight_high, mask=column < HALF)
