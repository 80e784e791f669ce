"""Prompts as tensors. Distillation looks at no picture: a record gives its captions, its domain and the size of its bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ernie_core.api import DataError, Part
from ernie_core.flow.matching import FlowMatching
from ernie_core.rng import StepRng
from ernie_core.text.embeddings import TextEmbeddings


@dataclass(frozen=True)
class PromptBatch:
    """B prompts.

    Attributes:
        domains: by sample, "" where the data source names none.
        shape_CHW: of a latent.
        indices: places in the global batch of ``total`` samples.
    """

    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    text: TextEmbeddings
    shape_CHW: tuple[int, int, int]
    indices: tuple[int, ...]
    total: int

    def __len__(self) -> int:
        return len(self.prompts)


def read_prompts(part: Part, matching: FlowMatching, rng: StepRng, styles: Mapping[str, float] | None) -> PromptBatch:
    """
    Raises:
        DataError: a record without a prompt, or buckets of different sizes.
    """
    prompts = matching.prompts(part, rng, styles=styles)
    for record, prompt in zip(part.records, prompts, strict=True):
        if not prompt.strip():
            raise DataError(
                f"record `{record.key}` has no prompt: the student is trained for prompts only, without one there is nothing to learn"
            )
    sizes = {record.pixels.shape[:2] for record in part.records}
    if len(sizes) > 1:
        raise DataError(f"a batch mixes picture sizes {sorted(sizes)}: a data source must return one bucket per step")
    height, width = next(iter(sizes))
    per_token = matching.codec.pixels_per_token
    return PromptBatch(
        prompts,
        tuple(record.category for record in part.records),
        matching.frozen_text(prompts),
        (matching.codec.channels, height // per_token, width // per_token),
        tuple(part.indices),
        part.stage.batch_size,
    )
