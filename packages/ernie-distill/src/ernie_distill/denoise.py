"""A network's prediction of the clean sample, in float32 whatever it computes in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ernie_core.flow.path import model_time, x0_from_velocity
from ernie_core.model.layout import SequenceLayout
from ernie_core.text.embeddings import TextEmbeddings


def velocity(transformer: nn.Module, x_BCHW: Tensor, sigma_B: Tensor, text: TextEmbeddings) -> Tensor:
    """Velocity [B, C, h, w] in the transformer's type, each sample at its own noise level; times are not rounded to that type.

    Args:
        x_BCHW: noisy latents in the transformer's type.
        sigma_B: float32, on any device.
    """
    patch = transformer.config.patch_size
    layout = SequenceLayout.plan((x_BCHW.shape[-2] // patch, x_BCHW.shape[-1] // patch), text.lens)
    time_B = model_time(sigma_B.to(x_BCHW.device), torch.float32)
    return transformer(x_BCHW, time_B, text.text_BTE.to(x_BCHW.dtype), None, layout)


def denoise(transformer: nn.Module, x_BCHW: Tensor, sigma_B: Tensor, text: TextEmbeddings, dtype: torch.dtype) -> Tensor:
    """Clean samples [B, C, h, w], float32: ``x - sigma v`` of the x that the network saw, rounded to ``dtype``."""
    seen = x_BCHW.to(dtype)
    return x0_from_velocity(seen.float(), velocity(transformer, seen, sigma_B, text).float(), sigma_B)
