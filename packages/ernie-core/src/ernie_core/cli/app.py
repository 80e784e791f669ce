"""What every verb receives beside its arguments: the plugin host, made when first asked for, and where to write. Light."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NoReturn, TypeVar

from ernie_core.config.base import Config
from ernie_core.config.load import Loaded, disabled_in, load_local, load_merged
from ernie_core.config.run import TrainConfig
from ernie_core.config.source import read_sources
from ernie_core.errors import ErnieError
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.host import PluginHost

C = TypeVar("C", bound=Config)


class UsageError(ErnieError):
    """A command line that cannot be understood."""

    exit_code = 2


class App:
    """One run of ``ernie``.

    Args:
        plugins: False for ``--no-plugins``.
        disable: names from ``--disable-plugins`` and ``ERNIE_DISABLE_PLUGINS``.
    """

    def __init__(self, *, plugins: bool = True, disable: Sequence[str] = ()) -> None:
        self.plugins = plugins
        self.disable = tuple(dict.fromkeys(disable))

    @property
    def flags(self) -> list[str]:
        """The global flags, to start further processes of the same run with."""
        return ([] if self.plugins else ["--no-plugins"]) + (["--disable-plugins", ",".join(self.disable)] if self.disable else [])

    @cached_property
    def host(self) -> PluginHost:
        return PluginHost.discover(plugins=self.plugins, disable=self.disable)

    def load_config(self, paths: Sequence[Path | str], overrides: Sequence[str] = ()) -> Loaded[TrainConfig]:
        """Like ``config.load.load_config``, but what the config disables is not even imported. Use ``loaded.host`` from then on.

        Raises:
            ConfigError: every problem found.
        """
        merged = read_sources([Path(p) for p in paths], overrides)
        disable = disabled_in(merged)
        if "host" in self.__dict__ or not disable:
            host = self.host.without(disable)
        else:
            host = PluginHost.discover(plugins=self.plugins, disable=(*self.disable, *disable))
        return load_merged(merged, host, TrainConfig)

    def read_config(
        self, path: Path | str, struct: type[C], *, overrides: Sequence[str] = (), local: Mapping[str, Mapping[str, Entry]] | None = None
    ) -> Loaded[C]:
        """Read the config of a verb of its own: the same syntax, merging and errors with file and line as a training config.

        Args:
            local: registries that belong to the verb and have no hook, by name: ``From("<name>")`` selects from them.

        Raises:
            ConfigError: every problem found.
        """
        return load_local(read_sources([Path(path)], overrides), self.host, struct, local=local or {})

    def out(self, text: str) -> None:
        """A result, on stdout."""
        print(text, file=sys.stdout, flush=True)

    def err(self, text: str) -> None:
        """Progress, logs and errors, on stderr."""
        print(text, file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ``UsageError``: one line and exit code 2, without the usage block before it."""

    def __init__(self, verb: str, summary: str) -> None:
        super().__init__(prog=f"ernie {verb}", description=summary, allow_abbrev=False)

    def add_verbs(self) -> Callable[[str, str], Parser]:
        """Make this a group (``ernie plugins list|check``): the returned function adds one verb with its summary."""
        group = self.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_member)
        return lambda name, summary: group.add_parser(name, summary=summary, help=summary)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}. See `{self.prog} --help`.")


def _member(*, prog: str, summary: str) -> Parser:
    return Parser(prog.removeprefix("ernie "), summary)
