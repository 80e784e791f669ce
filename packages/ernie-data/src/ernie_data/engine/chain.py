"""The chain of a build's stages, in a form that travels to workers: where each stage is built, and its options as tables."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, cast

import msgspec

from ernie_core.api import Config, Entry
from ernie_data.engine.stage import DataStage
from ernie_data.engine.unit import WorkUnit, digest


class Link(msgspec.Struct, frozen=True):
    """One stage of a chain. ``build`` and ``config`` are "module:attribute" of the builder and of the struct of its options."""

    name: str
    build: str
    config: str
    options: dict[str, Any]

    @classmethod
    def of(cls, entry: Entry, options: Config) -> Link:
        config = f"{entry.config.__module__}:{entry.config.__qualname__}"
        return cls(entry.name, entry.build, config, msgspec.to_builtins(options))

    def build_stage(self) -> DataStage:
        """The stage, not yet set up."""
        return cast(DataStage, _named(self.build)(msgspec.convert(self.options, _named(self.config))))


class Chain:
    """All stages in order, with what names their units."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = tuple(links)
        self.codes = tuple(link.build_stage().code for link in links)
        self.configs = tuple(digest(link.options) for link in links)

    def __len__(self) -> int:
        return len(self.links)

    def unit(self, stage: int, content: str) -> WorkUnit:
        """The unit of a stage whose input has the given hash."""
        return WorkUnit(self.links[stage].name, content, self.configs[stage], self.codes[stage])

    def about(self) -> list[dict[str, Any]]:
        """For the dataset's description."""
        return [{"stage": link.name, "options": link.options, "code": code} for link, code in zip(self.links, self.codes)]


def _named(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
