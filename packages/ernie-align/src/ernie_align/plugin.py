"""What ernie-align offers to the plugin host. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterator

from ernie_align import entries
from ernie_core.api import Entry, hookimpl

ERNIE_API = (0, 1)


@hookimpl
def ernie_register_methods() -> Iterator[Entry]:
    yield from entries.METHODS


@hookimpl
def ernie_register_losses() -> Iterator[Entry]:
    yield from entries.LOSSES


@hookimpl
def ernie_register_data_sources() -> Iterator[Entry]:
    yield from entries.DATA_SOURCES
