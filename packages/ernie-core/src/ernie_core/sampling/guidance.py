r"""Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): ``v = v_uncond + g (v_cond - v_uncond)``.

The unconditional half is the encoding of "", one token, not zeros: zeros would be another model. Other sources write ``c + w (c - u)``, so w = g - 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ernie_core.flow.path import model_time
from ernie_core.model.layout import SequenceLayout
from ernie_core.text.embeddings import TextEmbeddings, concatenate

VelocityFn = Callable[[Tensor, float], Tensor]


def guided_velocity(transformer: nn.Module, cond: TextEmbeddings, uncond: TextEmbeddings | None, guidance_scale: float) -> VelocityFn:
    """The velocity a sampler integrates, for pictures that have one prompt each.

    Above a scale of 1 both halves go through the model as one batch, unconditional first, with every prompt at its own length (no padding is computed, no mask).
    At 1 or below there is no guidance: one conditional pass.

    Args:
        transformer: ``(hidden_states_BCHW, timestep_1, text_BTE, lens_B, layout) -> v_BCHW`` with a ``config`` that has ``patch_size``; it is called in its
            parameters' dtype.
        cond: the prompts, B of them.
        uncond: the encoding of "", once (it is repeated) or B times. May be None if the scale is at most 1.
        guidance_scale: g.

    Returns:
        ``velocity_fn(x_BCHW, sigma) -> v_BCHW`` in the transformer's dtype. Gradients flow unless the caller turns them off.
    """
    guided = guidance_scale > 1
    if guided and uncond is None:
        raise ValueError(f"guidance_scale = {guidance_scale} needs the encoding of the empty prompt")
    dtype = next(transformer.parameters()).dtype
    text = cond
    if guided:
        text = concatenate(uncond if len(uncond) == len(cond) else uncond.rows([0] * len(cond)), cond)
    text = text.to(dtype=dtype)
    lens_B = text.lens_B
    patch = transformer.config.patch_size
    layouts: dict[tuple[int, int], SequenceLayout] = {}

    def velocity_fn(x_BCHW: Tensor, sigma: float) -> Tensor:
        grid = (x_BCHW.shape[2] // patch, x_BCHW.shape[3] // patch)
        if grid not in layouts:
            layouts[grid] = SequenceLayout.plan(grid, text.lens)
        x_in = x_BCHW.to(dtype)
        x_in = torch.cat([x_in, x_in]) if guided else x_in
        # One time for the whole batch: modulation is computed once. Filled on the device: a copy from the host would wait for it in every step.
        time_1 = model_time(torch.full((1,), sigma, dtype=torch.float32, device=x_in.device), dtype)
        v = transformer(x_in, time_1, text.text_BTE, lens_B, layouts[grid])
        if not guided:
            return v
        v_uncond, v_cond = v.chunk(2)
        return v_uncond + guidance_scale * (v_cond - v_uncond)

    return velocity_fn
