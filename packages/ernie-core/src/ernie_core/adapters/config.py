"""Options of an adapter. Light: no torch."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ernie_core.config.base import Config, Positive, PositiveInt

BLOCK_LINEARS = ("to_q", "to_k", "to_v", "to_out.0", "gate_proj", "up_proj", "linear_fc2")
"""Every matrix of a transformer block."""


class AdapterConfig(Config):
    """A low-rank adapter: each target's product becomes ``W x + (alpha / rank) B A x`` (Hu et al. 2021, arXiv 2106.09685)."""

    rank: PositiveInt = 64
    alpha: Positive | None = None
    """Default: the rank, so that the scale is 1."""
    targets: Annotated[tuple[str, ...], Meta(min_length=1)] = BLOCK_LINEARS
    """Last parts of the names of linear maps, as the state dict has them without ``.weight``; "all": every linear map of the model."""

    @property
    def scale(self) -> float:
        return (self.alpha if self.alpha is not None else self.rank) / self.rank
