"""What a plugin hands to a registration hook: a name, a config struct and where the implementation lives. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ernie_core.config.base import Config
from ernie_core.errors import PluginError

NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")
BUILD = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Entry:
    """One component under one global name.

    Args:
        name: what a config writes in ``use = "..."``; lower case letters, digits, ``-`` and ``_``.
        summary: one line for ``ernie plugins list``.
        config: the struct that decodes the rest of the ``{ use = "..." }`` table.
        build: ``"module:attribute"`` of a callable ``build(config, context)``, imported only when a config selects the name.
        kind: a sub-type the caller checks, such as ``"flow"`` or ``"pair"`` for losses.
    """

    name: str
    summary: str
    config: type[Config]
    build: str
    kind: str = ""

    def __post_init__(self) -> None:
        _check(self.name, self.summary, self.build)
        if not (isinstance(self.config, type) and issubclass(self.config, Config)):
            raise PluginError(f"entry `{self.name}`: config must be a subclass of ernie_core.api.Config, found {self.config!r}")


@dataclass(frozen=True)
class Command:
    """A command-line verb: ``build`` names a callable ``main(argv, app: ernie_core.cli.app.App) -> exit code``."""

    name: str
    summary: str
    build: str

    def __post_init__(self) -> None:
        _check(self.name, self.summary, self.build)


def _check(name: object, summary: object, build: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(f"entry name {name!r}: expected lower case letters, digits, `-` and `_`")
    if not isinstance(summary, str) or not summary.strip():
        raise PluginError(f"entry `{name}`: summary must be a line of text, found {summary!r}")
    if not isinstance(build, str) or not BUILD.fullmatch(build):
        raise PluginError(f'entry `{name}`: build must read "package.module:attribute", found {build!r}')
