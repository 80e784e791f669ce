"""What ernie-distill offers to the plugin host. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterator

from ernie_core.api import Command, Entry, hookimpl
from ernie_distill import entries

ERNIE_API = (0, 1)


@hookimpl
def ernie_register_methods() -> Iterator[Entry]:
    yield from entries.METHODS


@hookimpl
def ernie_register_gates() -> Iterator[Entry]:
    yield from entries.GATES


@hookimpl
def ernie_register_samplers() -> Iterator[Entry]:
    yield from entries.SAMPLERS


@hookimpl
def ernie_register_commands() -> Iterator[Command]:
    yield Command("distill", "teachers, drift and report of distillation", "ernie_distill.cli:main")
