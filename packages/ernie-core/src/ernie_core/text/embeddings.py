"""``TextEmbeddings``: what a prompt encoder returns and the model reads. Right-padded with zeros; lengths are host integers, so nothing syncs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class TextEmbeddings:
    """Embeddings of B prompts.

    ``text_BTE`` is padded on the right with zeros to the longest prompt; ``lens[b]`` >= 1 tokens of row b are real.
    """

    text_BTE: Tensor
    lens: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.text_BTE.ndim != 3 or len(self.lens) != self.text_BTE.shape[0]:
            raise ValueError(f"text [B, T, E] with B lengths expected, found {tuple(self.text_BTE.shape)} with {len(self.lens)} lengths")

    def __len__(self) -> int:
        return len(self.lens)

    @property
    def lens_B(self) -> Tensor:
        """Lengths as an int64 tensor on the embeddings' device."""
        return torch.tensor(self.lens, dtype=torch.int64, device=self.text_BTE.device)

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> TextEmbeddings:
        return TextEmbeddings(self.text_BTE.to(device=device, dtype=dtype), self.lens)

    def rows(self, indices: Sequence[int]) -> TextEmbeddings:
        """These prompts, in this order, repeats allowed; padding is cut to the longest of them."""
        lens = tuple(self.lens[i] for i in indices)
        return TextEmbeddings(self.text_BTE[list(indices), : max(lens, default=0)], lens)

    def unpadded(self) -> list[Tensor]:
        """Each prompt's tokens [T_b, E]."""
        return [row_TE[:length] for row_TE, length in zip(self.text_BTE, self.lens)]


def pad_right(texts: Sequence[Tensor]) -> TextEmbeddings:
    """Stack prompts' tokens [T_b, E] into one batch, zeros after each."""
    lens = tuple(text_TE.shape[0] for text_TE in texts)
    width = max(lens)
    return TextEmbeddings(torch.stack([F.pad(text_TE, (0, 0, 0, width - text_TE.shape[0])) for text_TE in texts]), lens)


def concatenate(first: TextEmbeddings, second: TextEmbeddings) -> TextEmbeddings:
    """The rows of ``first``, then those of ``second``, padded to the longer of the two."""
    width = max(first.text_BTE.shape[1], second.text_BTE.shape[1])
    padded = [F.pad(t.text_BTE, (0, 0, 0, width - t.text_BTE.shape[1])) for t in (first, second)]
    return TextEmbeddings(torch.cat(padded), first.lens + second.lens)
