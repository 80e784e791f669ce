"""Core's own DiT block, offered through the same hook as anyone's. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterable

from ernie_core.config.base import Config
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import hookimpl


class SharedAdaLNConfig(Config):
    """``{ use = "ernie-shared-adaln" }``: no options, its sizes are the model's."""


@hookimpl
def ernie_register_dit_blocks() -> Iterable[Entry]:
    yield Entry(
        "ernie-shared-adaln",
        "attention and GEGLU with one adaLN modulation shared by all layers, as released",
        SharedAdaLNConfig,
        "ernie_core.model.block:build_shared_adaln",
    )
