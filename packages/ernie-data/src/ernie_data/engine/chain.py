"""The chain of a build's stages, in a form that travels to workers: where each stage is built, and its options as tables."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import msgspec

from ernie_core.api import Config, ConfigError, DataStageContext, Entry, PluginHost, Selection, from_plain, to_plain
from ernie_data.engine.stage import DataStage
from ernie_data.engine.unit import WorkUnit, digest

SURVEY = "survey"


class Plugins(msgspec.Struct, frozen=True):
    """Which plugins a worker may load: the same as the driver's."""

    plugins: bool = True
    disable: tuple[str, ...] = ()

    def host(self) -> PluginHost:
        return PluginHost.discover(plugins=self.plugins, disable=self.disable)


class Workshop:
    """Builds stages, and what their options select. The plugin host is looked up once, when something is selected."""

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self._host: PluginHost | None = None

    @property
    def host(self) -> PluginHost:
        if self._host is None:
            self._host = self.plugins.host()
        return self._host

    def build(self, registry: str, selection: Selection, context: Any) -> Any:
        return self.host.build(registry, selection, context)


class Link(msgspec.Struct, frozen=True):
    """One stage of a chain. ``build`` and ``config`` are "module:attribute" of the builder and of the struct of its options; ``known`` names the columns
    of earlier stages with their types, once the link is part of a ``Chain``.
    """

    name: str
    build: str
    config: str
    options: dict[str, Any]
    known: dict[str, str] = {}

    @classmethod
    def of(cls, entry: Entry, options: Config) -> Link:
        config = f"{entry.config.__module__}:{entry.config.__qualname__}"
        return cls(entry.name, entry.build, config, to_plain(options))

    def build_stage(self, workshop: Workshop, survey: Path | None = None) -> DataStage:
        """The stage, not yet set up."""
        struct = _named(self.config)
        options = (
            from_plain(self.options, workshop.host, struct=struct) if _selects(self.options) else msgspec.convert(self.options, struct)
        )
        return cast(DataStage, _named(self.build)(options, DataStageContext(workshop.build, survey, self.known)))


class Chain:
    """All stages in order, with what names their units.

    Raises:
        ConfigError: a stage needs a column that no earlier stage gives, or a stage that stands twice gives one column twice.
    """

    def __init__(self, links: Sequence[Link], workshop: Workshop) -> None:
        stages: list[DataStage] = []
        placed: list[Link] = []
        known: dict[str, str] = {}
        for link in links:
            placed.append(msgspec.structs.replace(link, known=dict(known)))
            stages.append(stage := placed[-1].build_stage(workshop))
            if missing := [name for name in stage.needs if name not in known]:
                raise ConfigError(
                    f"the stage `{link.name}` needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}, which no earlier stage gives; "
                    f"columns so far: {', '.join(sorted(known))}"
                )
            for other, its in zip(placed[:-1], stages[:-1]):
                if other.build == link.build and (both := stage.columns.keys() & its.columns.keys()):
                    raise ConfigError(
                        f"the stages `{other.name}` and `{link.name}` both give the column {min(both)}; give the second one another name for it, "
                        "or leave it out"
                    )
            known.update(stage.columns)
        self.links = tuple(placed)
        self.codes = tuple(stage.code for stage in stages)
        self.configs = tuple(digest(link.options) for link in links)
        self.surveys = tuple(stage.surveys for stage in stages)
        self.actors = tuple(stage.actor for stage in stages)
        self.columns = tuple(dict(stage.columns) for stage in stages)

    def __len__(self) -> int:
        return len(self.links)

    def unit(self, stage: int, content: str) -> WorkUnit:
        """The unit of a stage whose input has the given hash."""
        return WorkUnit(self.links[stage].name, content, self.configs[stage], self.codes[stage])

    def survey(self, stage: int, content: str) -> WorkUnit:
        """The unit of a stage's survey of a dataset with the given hash."""
        return WorkUnit(self.links[stage].name, digest([SURVEY, content]), self.configs[stage], self.codes[stage])

    def about(self) -> list[dict[str, Any]]:
        """For the dataset's description."""
        return [
            {"stage": link.name, "options": link.options, "code": code, "columns": columns}
            for link, code, columns in zip(self.links, self.codes, self.columns)
        ]


def _selects(options: Any) -> bool:
    if isinstance(options, dict):
        return "use" in options or any(_selects(value) for value in options.values())
    return isinstance(options, list) and any(_selects(value) for value in options)


def _named(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
