"""From TOML files and ``--set`` to a checked ``TrainConfig``, or every problem at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ernie_core.config.base import Config
from ernie_core.config.decode import BAD, Decoder
from ernie_core.config.locate import Path as Key
from ernie_core.config.plain import to_plain, to_table
from ernie_core.config.run import TrainConfig
from ernie_core.config.source import Merged, read_sources
from ernie_core.errors import ConfigError, MissingComponent, Problem
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.host import PluginHost
from ernie_core.plugins.registry import did_you_mean, noun

C = TypeVar("C", bound=Config)

__all__ = ["Loaded", "disabled_in", "from_plain", "load_config", "load_merged", "to_plain", "to_table"]


@dataclass(frozen=True)
class Loaded(Generic[C]):
    """A decoded config, the host it was decoded with (less ``[plugins] disable``), and the origin of every value that was written."""

    config: C
    host: PluginHost
    origins: Mapping[Key, str]

    def origin(self, key: Key) -> str:
        """Where a value was written: "run.toml:14", "--set a.b=v" or "default"."""
        return self.origins.get(key, "default")

    def place(self, key: Key, path: str, *, beside: Path) -> str:
        """A path that a config names: relative ones are seen from the config's folder, those of ``--set`` from the folder the command was given in."""
        return path if self.origin(key).startswith("--set") else str(beside / path)


def load_config(paths: Sequence[Path | str], overrides: Sequence[str], host: PluginHost) -> Loaded[TrainConfig]:
    """Read, merge, decode and check a training config.

    Raises:
        ConfigError: every problem with its file and line, the key, what was expected and the nearest known name.
    """
    merged = read_sources([Path(p) for p in paths], overrides)
    return load_merged(merged, host.without(disabled_in(merged)), TrainConfig)


def load_merged(merged: Merged, host: PluginHost, struct: type[C]) -> Loaded[C]:
    """Decode what ``read_sources`` gave. ``host`` must already be without the plugins that ``disabled_in`` names."""
    decoder = Decoder(host.entry, merged.where, noun)
    config = BAD if merged.unreadable else decoder.struct(struct, merged.values, ())
    problems = [*merged.problems, *decoder.problems, *_required(merged, host)]
    if not problems:
        problems = host.check_config(config)
    if problems:
        raise ConfigError(_in_order(problems))
    return Loaded(config, host, dict(merged.origins))


def load_local(merged: Merged, host: PluginHost, struct: type[C], *, local: Mapping[str, Mapping[str, Entry]]) -> Loaded[C]:
    """Decode a config that is not a training config. ``local``: registries that exist for it alone, looked at before the host's.

    Raises:
        ConfigError: as ``load_config``.
    """

    def entry(registry: str, name: str) -> Entry:
        if registry not in local:
            return host.entry(registry, name)
        if name not in local[registry]:
            hint = did_you_mean(name, local[registry]) or "."
            raise MissingComponent(f'no {noun(registry)} is called "{name}"{hint} Known: {", ".join(local[registry])}')
        return local[registry][name]

    decoder = Decoder(entry, merged.where, noun)
    config = BAD if merged.unreadable else decoder.struct(struct, merged.values, ())
    if problems := [*merged.problems, *decoder.problems]:
        raise ConfigError(_in_order(problems))
    return Loaded(config, host, dict(merged.origins))


def from_plain(plain: Mapping[str, Any], host: PluginHost, *, struct: type[C] = TrainConfig, where: str = "config") -> C:
    """The inverse of ``to_plain``, for configs stored in checkpoints.

    Raises:
        ConfigError: as ``load_config``, with ``where`` in the place of file and line.
    """
    decoder = Decoder(host.entry, lambda key: where, noun)
    config = decoder.struct(struct, plain, ())
    if decoder.problems:
        raise ConfigError(decoder.problems)
    return config


def disabled_in(merged: Merged) -> tuple[str, ...]:
    """``[plugins] disable`` as written; read before decoding, because it decides which plugins may be imported at all."""
    table = merged.values.get("plugins")
    names = table.get("disable") if isinstance(table, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _required(merged: Merged, host: PluginHost) -> list[Problem]:
    table = merged.values.get("plugins")
    names = table.get("require") if isinstance(table, dict) else None
    present = host.plugin_set()
    problems = []
    for index, name in enumerate(names if isinstance(names, list) else ()):
        if isinstance(name, str) and name not in present:
            failed = [str(f) for f in host.failures if f.name == name] or [f"installed: {', '.join(sorted(present))}"]
            problems.append(
                Problem(merged.where(("plugins", "require", index)), f"`plugins.require`: no usable plugin `{name}`; {'; '.join(failed)}")
            )
    return problems


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    """By file and line, each once."""

    def place(problem: Problem) -> tuple[str, int]:
        file, colon, line = problem.where.rpartition(":")
        return (file, int(line)) if colon and line.isdecimal() else (problem.where, 0)

    return sorted(dict.fromkeys(problems), key=place)
