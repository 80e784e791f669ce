"""The plugin host: discovers plugins, isolates the broken ones, and is the only way core calls a hook. A value passed down, never a global.

Discovery loads every entry point itself, because pluggy's loader stops at the first bad one and skips a second of the same name silently.
A plugin is accepted whole or not at all; what was wrong with it is remembered as ``Failed`` and told when somebody asks for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ernie_core.config.base import Config, Selection
from ernie_core.config.plain import to_plain
from ernie_core.errors import ConfigError, MissingComponent, PluginError, Problem
from ernie_core.plugins.discovery import Found, find_plugins
from ernie_core.plugins.entry import Command, Entry
from ernie_core.plugins.examine import Rejected, check_api, check_entries, check_hooks, collect, explain, import_plugin, resolve_build
from ernie_core.plugins.hookspecs import REGISTRIES, EnvironmentCheck, RunView
from ernie_core.plugins.missing import missing_package
from ernie_core.plugins.observers import HookCaller
from ernie_core.plugins.registry import CORE, Conflict, Failed, Offer, Source, did_you_mean, noun, settle
from ernie_core.redact import secrets_in

BUILTIN = (
    "ernie_core.model.entries",
    "ernie_core.ops.entries",
    "ernie_core.text.entries",
    "ernie_core.latent.entries",
    "ernie_core.flow.entries",
    "ernie_core.sampling.entries",
    "ernie_core.train.entries",
    "ernie_core.train.observers",
    "ernie_core.parallel.entries",
    "ernie_core.cli.entries",
)
SECRET_ADVICE = "a config must not hold secrets: remove it, and put it into an environment variable"
HEAVY = ("torch", "diffusers", "transformers")
DISABLE_VARIABLE = "ERNIE_DISABLE_PLUGINS"


@dataclass(frozen=True)
class Plugin:
    """An accepted plugin: its parts are modules or objects with hook implementations."""

    source: Source
    parts: tuple[Any, ...]
    offers: tuple[Offer, ...]
    heavy: tuple[str, ...] = ()  # slow packages that it imported merely by being found


@dataclass(frozen=True)
class PluginHost:
    """Everything that is installed and usable, and what is not and why."""

    plugins: tuple[Plugin, ...]  # core first, then by name
    failures: tuple[Failed, ...]
    conflicts: tuple[Conflict, ...]
    disabled: tuple[Found, ...]
    registries: Mapping[str, Mapping[str, Offer]]
    hooks: HookCaller = field(repr=False, compare=False)

    @classmethod
    def discover(cls, *, plugins: bool = True, disable: Sequence[str] = ()) -> PluginHost:
        """Load core's components and every installed plugin that is not disabled. A bad plugin never raises: see ``failures``.

        Args:
            plugins: False loads core alone (``--no-plugins``).
            disable: names of plugins that must not even be imported.
        """
        found, failures = find_plugins() if plugins else ((), ())
        wanted = [item for item in found if item.source.plugin not in disable]
        accepted = []
        failed = [f for f in failures if f.name not in disable]
        for item in wanted:
            loaded = load_plugin(item)
            (failed if isinstance(loaded, Failed) else accepted).append(loaded)
        disabled = tuple(item for item in found if item.source.plugin in disable)
        return _assemble(_core(), accepted, failed, disabled)

    def without(self, disable: Sequence[str]) -> PluginHost:
        """The same host less some plugins (``[plugins] disable``)."""
        gone = [p for p in self.plugins[1:] if p.source.plugin in disable]
        gone_failed = [f for f in self.failures if f.name in disable]
        if not gone and not gone_failed:
            return self
        accepted = [p for p in self.plugins[1:] if p.source.plugin not in disable]
        failed = [f for f in self.failures if f.name not in disable]
        disabled = [Found(p.source, "") for p in gone] + [Found(Source(f.name, f.distribution, f.version), "") for f in gone_failed]
        return _assemble(self.plugins[0], accepted, failed, (*self.disabled, *disabled))

    def entries(self, registry: str) -> Mapping[str, Entry]:
        """All usable components of one registry, by name."""
        _known(registry)
        return {name: offer.entry for name, offer in sorted(self.registries.get(registry, {}).items())}

    def commands(self) -> Mapping[str, Command]:
        return self.entries("commands")

    def offer(self, registry: str, name: str) -> Offer:
        """The component and who offers it.

        Raises:
            MissingComponent: nobody offers it; says what is near, what is installed, and which plugin failed.
            PluginError: several plugins offer it.
        """
        _known(registry)
        offer = self.registries.get(registry, {}).get(name)
        if offer is not None:
            return offer
        for conflict in self.conflicts:
            if (conflict.registry, conflict.name) == (registry, name):
                raise PluginError(str(conflict))
        raise MissingComponent(self._missing(registry, name))

    def entry(self, registry: str, name: str) -> Entry:
        return self.offer(registry, name).entry

    def load(self, registry: str, name: str) -> Any:
        """Import the implementation of a component or command: the callable that ``build`` names."""
        offer = self.offer(registry, name)
        what = f'the {noun(registry)} "{name}"'
        try:
            return resolve_build(offer.entry.build)
        except ModuleNotFoundError as error:
            missing = missing_package(error, what=what, distribution=offer.source.distribution)
            if missing is None:
                raise
            raise missing from error
        except Rejected as error:
            raise PluginError(f"{what} of plugin `{offer.source.plugin}` ({offer.source}) cannot be built: {error.reason}.") from error

    def build(self, registry: str, selection: Selection, context: Any) -> Any:
        """Import and call the selected component's ``build(config, context)``."""
        entry = self.entry(registry, selection.use)
        options = selection.options if selection.options is not None else default_options(entry)
        if not isinstance(options, entry.config):
            raise ConfigError(
                f'the {noun(registry)} "{selection.use}" is configured by {entry.config.__name__}, found {type(options).__name__}'
            )
        build = self.load(registry, selection.use)
        try:
            return build(options, context)
        except ModuleNotFoundError as error:
            what = f'the {noun(registry)} "{selection.use}"'
            missing = missing_package(error, what=what, distribution=self.offer(registry, selection.use).source.distribution)
            if missing is None:
                raise
            raise missing from error

    def plugin_set(self) -> dict[str, str]:
        """Plugin name to "distribution version", for manifests: another plugin set is another experiment."""
        return {p.source.plugin: str(p.source) for p in self.plugins}

    def check_config(self, config: Config) -> list[Problem]:
        """Problems of a decoded config that its types cannot tell: secrets in it, and whatever plugins find."""
        secrets = [Problem("config", f"`{key}`: {SECRET_ADVICE}") for key in secrets_in(to_plain(config))]
        return secrets + self.hooks.check_config(config)

    def check_environment(self) -> list[EnvironmentCheck]:
        """What core and plugins say of this machine."""
        return self.hooks.check_environment()

    def run_started(self, run: RunView) -> None:
        self.hooks.switch_all_on()
        self.hooks.observe("ernie_run_started", run=run)

    def step_finished(self, run: RunView, step: int, metrics: Mapping[str, float]) -> None:
        self.hooks.observe("ernie_step_finished", run=run, step=step, metrics=MappingProxyType(dict(metrics)))

    def checkpoint_saved(self, run: RunView, step: int, path: Path) -> None:
        self.hooks.observe("ernie_checkpoint_saved", run=run, step=step, path=path)

    def run_finished(self, run: RunView, step: int, reason: str) -> None:
        self.hooks.observe("ernie_run_finished", run=run, step=step, reason=reason)

    def _missing(self, registry: str, name: str) -> str:
        offers = self.registries.get(registry, {})
        text = f'no {noun(registry)} is called "{name}"{did_you_mean(name, offers) or "."}'
        text += " Installed: " + ", ".join(f"{n} ({o.source})" for n, o in sorted(offers.items())) if offers else " None is installed"
        known = [f for f in self.failures if (registry, name) in f.offers]
        unknown = [f for f in self.failures if not f.offers or (not offers and registry in {r for r, _ in f.offers})]
        for failure in known or unknown:
            text += f". {failure}" if known else f". It may belong to a plugin that failed: {failure}"
        if self.disabled:
            text += ". Switched off: " + ", ".join(f"{d.source.plugin} ({d.source})" for d in self.disabled)
        return text


def load_plugin(found: Found) -> Plugin | Failed:
    """Import and check one plugin. Never raises but for Ctrl-C."""
    source = found.source
    before = {name for name in HEAVY if name in sys.modules}
    try:
        part = import_plugin(found.target, source)
        check_api(part, source)
        check_hooks(part)
        offers = collect(part, source)
        check_entries(offers)
    except Rejected as error:
        return Failed(source.plugin, source.distribution, source.version, error.phase, error.reason, tuple(o.key for o in error.offers))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module-level __getattr__, a property or a metaclass can raise anything anywhere
        return Failed(source.plugin, source.distribution, source.version, "check", f"it failed while it was checked: {explain(error)}.")
    return Plugin(source, (part,), offers, tuple(name for name in HEAVY if name in sys.modules and name not in before))


def require_healthy(host: PluginHost, *, allow_failed: bool = False) -> None:
    """Refuse to train beside a failed plugin or a withheld name: another plugin set is another experiment.

    Raises:
        PluginError: listing every failure and conflict.
    """
    wrong = [*map(str, host.failures), *map(str, host.conflicts)]
    if wrong and not allow_failed:
        raise PluginError(
            "\n".join(wrong) + "\nTraining does not start with a broken plugin: repair or uninstall it, disable it ([plugins] disable = "
            '["name"]), or set plugins.allow_failed = true.'
        )


def disabled_by_environment(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Names in ``ERNIE_DISABLE_PLUGINS``, separated by commas."""
    return tuple(name.strip() for name in environ.get(DISABLE_VARIABLE, "").split(",") if name.strip())


def default_options(entry: Entry) -> Config:
    """A component's options when nothing is given.

    Raises:
        ConfigError: when an option has no default.
    """
    try:
        return entry.config()
    except (TypeError, ValueError) as error:
        raise ConfigError(f'"{entry.name}" cannot be used without options: {error}') from error


def _core() -> Plugin:
    source = Source(CORE, "ernie-core", metadata.version("ernie-core"))
    parts = [import_module(name) for name in BUILTIN]
    offers = [offer for part in parts for offer in collect(part, source)]
    return Plugin(source, tuple(parts), tuple(offers))


def _assemble(core: Plugin, accepted: Sequence[Plugin], failed: Sequence[Failed], disabled: tuple[Found, ...]) -> PluginHost:
    # Plugins that were dropped for reusing core's names stay dropped: `failed` holds them already when a host is narrowed.
    registries, clashes, conflicts = settle(core.offers, {p.source: p.offers for p in accepted})
    clashed = {failure.name for failure in clashes}
    plugins = (core, *sorted((p for p in accepted if p.source.plugin not in clashed), key=lambda p: p.source.plugin))
    failures = tuple(sorted((*failed, *clashes), key=lambda f: (f.name, f.distribution)))
    return PluginHost(plugins, failures, conflicts, disabled, MappingProxyType(registries), HookCaller(plugins_parts(plugins)))


def plugins_parts(plugins: Sequence[Plugin]) -> Iterator[tuple[str, Any]]:
    for plugin in plugins:
        for part in plugin.parts:
            yield plugin.source.plugin, part


def _known(registry: str) -> None:
    if registry not in REGISTRIES:
        raise MissingComponent(
            f"there is no registry `{registry}`{did_you_mean(registry, REGISTRIES, '`')}. Known: {', '.join(REGISTRIES)}"
        )
