"""Rotary positions on three axes: text position, row, column (spec sections 1.5.4 and 1.5.5).

A text token i of a sample stands at (i, 0, 0), its image token in row y and column x at (T, y, x), where T is the sample's own number of text
tokens. Axis d has frequencies theta ** (-2 j / dim_d); the three lists are joined into K/2 angles per token.

    standard  angles [a_0 .. a_{K/2-1}, a_0 .. a_{K/2-1}]: component i is rotated with component i + K/2 by one angle
    ernie     angles [a_0, a_0, a_1, a_1, ...] but still rotated as two halves: component i gets angle a_{i // 2}, its partner i + K/2 gets
              a_{K/4 + i // 2}. That is neither orthogonal nor relative, yet the released weights were trained with it (the reference
              implementation, baidu/ERNIE-Image#6): "fixing" it breaks them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ernie_core.model.layout import SequenceLayout


def rope_table(
    layout: SequenceLayout,
    *,
    text_lens_B: Tensor | None,
    theta: float,
    axes_dim: tuple[int, int, int],
    rope_layout: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Cosines and sines of one forward pass, broadcastable to queries x_BSAK.

    Returns:
        [2, 1, S, 1, K] when all samples share one table (equal lengths, or packed), [2, B, S, 1, K] when padded to mixed lengths.
    """
    if layout.packed:
        pieces = [_positions(g.text_len, layout, device).expand(len(g.samples), -1, -1).flatten(0, 1) for g in layout.groups]
        positions_BS3 = torch.cat(pieces)[None]
    elif layout.needs_mask:
        if text_lens_B is None:
            raise ValueError("a padded layout of mixed lengths needs text_lens_B")
        positions_BS3 = _positions(layout.text_width, layout, device).repeat(layout.batch, 1, 1)
        positions_BS3[:, : layout.image_tokens, 0] = text_lens_B.to(torch.float32)[:, None]
    else:
        positions_BS3 = _positions(layout.text_width, layout, device)
    angles_BSk = torch.cat([_angles(positions_BS3[..., axis], dim, theta) for axis, dim in enumerate(axes_dim)], dim=-1)
    angles_BSK = angles_BSk.repeat_interleave(2, dim=-1) if rope_layout == "ernie" else torch.cat([angles_BSk, angles_BSk], dim=-1)
    angles_BS1K = angles_BSK[:, :, None]
    return torch.stack([angles_BS1K.cos(), angles_BS1K.sin()]).to(dtype)


def _positions(text_len: int, layout: SequenceLayout, device: torch.device) -> Tensor:
    """[1, N + text_len, 3] float32 positions of one sample."""
    rows, columns = layout.grid
    image_YX3 = torch.empty(rows, columns, 3, device=device)
    image_YX3[..., 0] = text_len
    image_YX3[..., 1] = torch.arange(rows, device=device)[:, None]
    image_YX3[..., 2] = torch.arange(columns, device=device)
    text_T3 = torch.zeros(text_len, 3, device=device)
    text_T3[:, 0] = torch.arange(text_len, device=device)
    return torch.cat([image_YX3.flatten(0, 1), text_T3])[None]


def _angles(position_BS: Tensor, dim: int, theta: float) -> Tensor:
    """[B, S, dim / 2] in float32 whatever the model's dtype: bfloat16 cannot hold the integers above 256."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=position_BS.device) / dim
    return position_BS[..., None] * (1.0 / theta**exponents)
