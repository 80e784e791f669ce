"""Options of the stage `embed`. Light: no torch, no Pillow."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.api import Config, Entry, PositiveInt

Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$")]


class EmbedConfig(Config):
    """``use = "embed"``: a vector of length 1 for every picture, for categories and semantic duplicates."""

    model: Literal["tiny", "siglip", "dino"] = "tiny"
    """"tiny": fixed features of colour, edges and layout, 236 numbers, no downloads. "siglip": the picture tower of SigLIP or SigLIP 2; "dino": DINOv2
    or DINOv3; both through transformers."""
    path: str | None = None
    """A model's folder, or a hub id such as ``google/siglip-so400m-patch14-384`` together with ``revision``. Of "siglip" and "dino" only."""
    revision: Commit | None = None
    """The commit of a hub id, in full: a branch or a tag may change."""
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = "auto"
    """"auto": the first CUDA device if there is one, else the CPU."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """In which the model computes; vectors are stored as float32."""
    batch_size: PositiveInt = 16
    """Pictures per forward pass. What else is in a pass changes a vector by rounding at most."""

    def __post_init__(self) -> None:
        if self.model == "tiny" and (self.path is not None or self.revision is not None):
            raise ValueError('the model "tiny" is fixed and takes no `path` and no `revision`')
        if self.model != "tiny" and self.path is None:
            raise ValueError(f'the model "{self.model}" needs a `path`: a folder, or a hub id with its `revision`')


STAGES = (Entry("embed", "a vector for every picture", EmbedConfig, "ernie_data.embed.stage:build"),)
