"""Where every token of a batch stands, known on the host: nothing here reads a device.

Two forms of the same batch, one sample being its image tokens followed by its text tokens:

    padded   x_BSD      one row per sample, text padded to the longest; a mask only if lengths differ
    packed   x_1SD      all samples' real tokens in one row, sorted by text length, so that samples of equal length
                        lie side by side and attention over them is a view, not a gather
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """Samples of one text length, contiguous in the packed order from token ``start`` on."""

    samples: tuple[int, ...]  # places in the batch
    text_len: int
    seq_len: int  # tokens of one sample: image + text
    start: int

    @property
    def tokens(self) -> int:
        return len(self.samples) * self.seq_len


@dataclass(frozen=True)
class SequenceLayout:
    """Built from Python ints, hashable. ``grid`` is rows x columns of image tokens, ``text_lens`` the real text tokens of each sample."""

    grid: tuple[int, int]
    text_lens: tuple[int, ...]
    packed: bool = False

    def __post_init__(self) -> None:
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"grid = {self.grid}: expected positive rows and columns of image tokens")
        if not self.text_lens or min(self.text_lens) < 0:
            raise ValueError(f"text_lens = {self.text_lens}: expected one length >= 0 per sample")
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                getattr(self, name)  # now: inside a compiled forward pass Python 3.11 would take a lock, which ends the graph

    @classmethod
    def plan(cls, grid: tuple[int, int], text_lens: Sequence[int]) -> SequenceLayout:
        """Pack when lengths differ; equal lengths need neither packing nor a mask."""
        lens = tuple(int(n) for n in text_lens)
        return cls((int(grid[0]), int(grid[1])), lens, packed=len(set(lens)) > 1)

    @property
    def batch(self) -> int:
        return len(self.text_lens)

    @property
    def image_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @cached_property
    def text_width(self) -> int:
        return max(self.text_lens)

    @cached_property
    def needs_mask(self) -> bool:
        return not self.packed and len(set(self.text_lens)) > 1

    @cached_property
    def real_tokens(self) -> int:
        return self.batch * self.image_tokens + sum(self.text_lens)

    @cached_property
    def computed_tokens(self) -> int:
        """Tokens that go through the blocks."""
        return self.real_tokens if self.packed else self.batch * (self.image_tokens + self.text_width)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Batch places in the order of the packed sequence: by text length, otherwise as they came."""
        return tuple(sorted(range(self.batch), key=lambda b: self.text_lens[b]))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        groups: list[Group] = []
        start = 0
        for length in sorted(set(self.text_lens)):
            samples = tuple(b for b in self.order if self.text_lens[b] == length)
            groups.append(Group(samples, length, self.image_tokens + length, start))
            start += groups[-1].tokens
        return tuple(groups)

    @cached_property
    def longest(self) -> int:
        return self.image_tokens + self.text_width


def padding_mask(layout: SequenceLayout, text_lens_B: Tensor) -> Tensor:
    """[B, 1, 1, S], True where a token may be attended to. Image tokens always may."""
    places_S = torch.arange(layout.longest, device=text_lens_B.device)
    return (places_S[None] < layout.image_tokens + text_lens_B[:, None])[:, None, None, :]


def packed_offsets(layout: SequenceLayout, device: torch.device) -> Tensor:
    """[B + 1] int32: where each sample of the packed order starts, and the end. Arithmetic on the device, so nothing is copied from the host."""
    pieces = [torch.arange(len(g.samples), device=device, dtype=torch.int32) * g.seq_len + g.start for g in layout.groups]
    return torch.cat([*pieces, torch.full((1,), layout.real_tokens, device=device, dtype=torch.int32)])
