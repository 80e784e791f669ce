"""Where the quoted text of a prompt is drawn: where the generalist's prediction changes when the quotes are taken out of the prompt.

Source: DiffEdit (Couairon et al. 2022, arXiv 2210.11427), section 3.2, which finds the region of an edit so; smoothing and scaling are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ernie_core.text.embeddings import TextEmbeddings
from ernie_distill.quoted import quoted, without_quoted


@torch.no_grad()
def text_region(
    predict: Callable[[Sequence[int], TextEmbeddings], Tensor],
    encode: Callable[[Sequence[str]], TextEmbeddings],
    prompts: Sequence[str],
    text: TextEmbeddings,
    like: Tensor,
) -> Tensor:
    """A mask [B, 1, h, w] in [0, 1]: the mean absolute change over channels, smoothed over 3 x 3 places, over its largest value. 0 without quotes.

    Args:
        predict: ``predict(rows, text)``: the generalist's clean samples of these rows under these prompts.
        encode: prompts to embeddings.
        like: latents [B, C, h, w].
    """
    mask = like.new_zeros((len(prompts), 1, *like.shape[-2:]), dtype=torch.float32)
    rows = [b for b, prompt in enumerate(prompts) if quoted(prompt)]
    if not rows:
        return mask
    change = predict(rows, text.rows(rows)) - predict(rows, encode([without_quoted(prompts[b]) for b in rows]))
    strength = F.avg_pool2d(F.pad(change.abs().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mask[rows] = strength / strength.flatten(1).amax(1).clamp_min(1e-12)[:, None, None, None]
    return mask
