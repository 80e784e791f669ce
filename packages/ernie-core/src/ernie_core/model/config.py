"""The sizes of a transformer, under diffusers' names. Light: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ernie_core.config.base import Config, Positive, PositiveInt
from ernie_core.errors import WeightsError

DIFFUSERS_CLASS = "ErnieImageTransformer2DModel"


class DiTConfig(Config):
    """One transformer. Field names are those of diffusers' ``config.json``; ``rope_layout`` is ours.

    There are no default sizes: the defaults of diffusers' constructor are not those of the released model, and mixing them up is a classic mistake.
    """

    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    num_layers: PositiveInt
    ffn_hidden_size: PositiveInt
    in_channels: PositiveInt
    out_channels: PositiveInt
    text_in_dim: PositiveInt
    """Width E of the prompt embeddings. Equal to ``hidden_size`` there is no text projection, as in the reference."""
    rope_axes_dim: tuple[int, int, int]
    """Rotary dimensions for text position, row and column."""
    rope_theta: Positive = 256.0
    patch_size: PositiveInt = 1
    eps: Positive = 1e-6
    qk_layernorm: bool = True
    rope_layout: Literal["ernie", "standard"] = "ernie"
    """``ernie``: what the released weights were trained with (see ``model/rope.py``). ``standard``: orthogonal and relative, for new models."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size = {self.hidden_size} is not divisible by num_attention_heads = {self.num_attention_heads}")
        if self.head_dim % 2:
            raise ValueError(f"the head size hidden_size / num_attention_heads = {self.head_dim} must be even")
        axes = self.rope_axes_dim
        if sum(axes) != self.head_dim or any(d < 0 or d % 2 for d in axes):
            raise ValueError(f"rope_axes_dim = {list(axes)}: expected three even numbers with the sum {self.head_dim} (the head size)")
        if not self.qk_layernorm:
            raise ValueError(
                "qk_layernorm = false is not supported: the reference model raises with it, so there is nothing to be compatible with"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_diffusers(cls, plain: Mapping[str, Any], *, where: str = "config.json") -> DiTConfig:
        """Decode a diffusers ``config.json`` (keys with a leading underscore are its own and are ignored).

        Raises:
            WeightsError: another class, missing or unknown keys, or impossible sizes.
        """
        found = plain.get("_class_name", DIFFUSERS_CLASS)
        if found != DIFFUSERS_CLASS:
            raise WeightsError(f"{where}: found a {found}, expected an {DIFFUSERS_CLASS}")
        return cls.from_plain({k: v for k, v in plain.items() if not k.startswith("_")}, where=where)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], *, where: str) -> DiTConfig:
        """Decode ``msgspec.to_builtins`` of a config.

        Raises:
            WeightsError: missing or unknown keys, or impossible sizes.
        """
        try:
            return msgspec.convert(plain, cls)
        except (msgspec.ValidationError, ValueError) as error:
            raise WeightsError(f"{where}: {error}") from error

    def to_diffusers(self) -> dict[str, Any]:
        """The ``config.json`` that diffusers reads.

        Raises:
            WeightsError: diffusers has only the ``ernie`` rotary layout.
        """
        if self.rope_layout != "ernie":
            raise WeightsError(f'rope_layout = "{self.rope_layout}": diffusers\' {DIFFUSERS_CLASS} only computes the layout "ernie"')
        plain = msgspec.to_builtins(self)
        del plain["rope_layout"]
        theta = plain["rope_theta"]
        return {"_class_name": DIFFUSERS_CLASS, **plain, "rope_theta": int(theta) if theta == int(theta) else theta}


RELEASE = DiTConfig(
    hidden_size=4096,
    num_attention_heads=32,
    num_layers=36,
    ffn_hidden_size=12288,
    in_channels=128,
    out_channels=128,
    text_in_dim=3072,
    rope_axes_dim=(32, 48, 48),
)
"""The released ERNIE-Image: 8,033,490,048 parameters."""
