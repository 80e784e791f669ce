"""What core offers as prompt encoders, with their config structs. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta

from ernie_core.config.base import Config, Count, PositiveInt
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import hookimpl


class Ministral3Config(Config):
    """The frozen language model of a released pipeline."""

    path: str
    """A pipeline folder: its ``text_encoder`` and ``tokenizer`` are read and never written."""
    batch_size: PositiveInt = 16
    """Prompts per forward pass."""


class BytesConfig(Config):
    """A small prompt encoder that is trained with the model. It reads UTF-8, so it needs no vocabulary and knows every script."""

    width: PositiveInt = 256
    """E: channels of a text token."""
    byte_width: PositiveInt = 96
    """Channels of a byte's embedding before a word's bytes are summed."""
    word_bytes: Annotated[int, Meta(ge=4, le=64)] = 16
    """Longer words take several tokens."""
    max_tokens: PositiveInt = 256
    """Longer prompts are cut, with a warning."""
    mixer_layers: Count = 1
    """Layers that let neighbouring words see each other (a masked convolution over 5 tokens)."""


@hookimpl
def ernie_register_tokenizers() -> Iterable[Entry]:
    yield Entry("ministral3", "Ministral 3 of a released pipeline, frozen", Ministral3Config, "ernie_core.text.ministral3:build_ministral3")
    yield Entry("bytes", "UTF-8 bytes pooled into words, trained with the model", BytesConfig, "ernie_core.text.bytes:build_bytes")
