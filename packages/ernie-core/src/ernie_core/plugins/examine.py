"""Load one plugin and check everything it says, before anything of it is registered. Each check raises ``Rejected`` with its phase and reason.

The checks run in this order: import, api (version), hooks (names and signatures), collect (entries), config (structs), build (the module exists).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from ernie_core.config.kinds import TypeProblem, check_struct
from ernie_core.plugins.entry import Command, Entry
from ernie_core.plugins.hookspecs import API_VERSION, PROJECT, Hooks
from ernie_core.plugins.registry import Offer, Source, did_you_mean

OWN_FILES = tuple(str(Path(__file__).parents[1] / folder) for folder in ("plugins", "cli"))  # never the place of a plugin's error
MAX_ENTRIES = 1000  # per hook and plugin: a generator that never ends is an error, not a hang
HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)[1:] for name, spec in vars(Hooks).items() if name.startswith("ernie_")
}


class Rejected(Exception):
    """Why a plugin cannot be used. ``offers`` are the entries it had given by then."""

    def __init__(self, phase: str, reason: str, offers: Sequence[Offer] = ()) -> None:
        super().__init__(f"{phase}: {reason}")
        self.phase, self.reason, self.offers = phase, reason, tuple(offers)


def import_plugin(target: str, source: Source) -> Any:
    """Import the entry point's module and return the object it names. Whatever the plugin raises but Ctrl-C is a ``Rejected``.

    What it prints while it is imported goes to stderr, so that results on stdout stay readable for programs.
    """
    name, _, attributes = target.partition(":")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found: Any = importlib.import_module(name.strip())
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise Rejected(
            "import", f"it called sys.exit({error.code!r}) while it was imported. A plugin module must only define hooks."
        ) from error
    except BaseException as error:
        raise Rejected("import", f"importing {name} failed with {explain(error)}. {_import_advice(error, name, source)}") from error
    for attribute in filter(None, attributes.strip().split(".")):
        if not hasattr(found, attribute):
            raise Rejected(
                "import",
                f"its entry point names `{target}`, but {name} has no `{attributes}`. Correct the entry point in {source.distribution}.",
            )
        found = getattr(found, attribute)
    return found


def check_api(plugin: Any, source: Source) -> None:
    """``ERNIE_API = (major, minor)``: the same major version as ours, and no newer minor."""
    offered = f"{API_VERSION[0]}.{API_VERSION[1]}"
    if not hasattr(plugin, "ERNIE_API"):
        raise Rejected("api", f"it does not say for which plugin API it was written. Add `ERNIE_API = {API_VERSION}` beside its hooks.")
    version = plugin.ERNIE_API
    if not (isinstance(version, tuple) and len(version) == 2 and all(type(part) is int for part in version)):
        raise Rejected("api", f"ERNIE_API must be two integers such as {API_VERSION}, found {version!r:.60}.")
    written = f"it was written for plugin API {version[0]}.{version[1]}, this ernie-core offers {offered}."
    if version > API_VERSION:
        raise Rejected("api", f"{written} Upgrade ernie-core or install an older {source.distribution}.")
    if version[0] < API_VERSION[0]:
        raise Rejected("api", f"{written} Upgrade {source.distribution} or install an older ernie-core.")


def check_hooks(plugin: Any) -> None:
    """Every hook exists and every argument is one pluggy will fill: it fills neither defaults nor keyword-only parameters, and silently."""
    problems = []
    implementations = 0
    manager = pluggy.PluginManager(PROJECT)
    for name, function in _functions(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        hook = (options or {}).get("specname") or name
        if options is None:
            if _is_own(plugin, function):
                hint = "mark it with @hookimpl" if name in HOOKS else f"it is no hook{did_you_mean(name, HOOKS, '`')}"
                problems.append(f"`{name}` is not marked with @hookimpl and would never be called: {hint}, or rename it.")
            continue
        implementations += 1
        if hook not in HOOKS:
            problems.append(f"`{hook}` is no hook of plugin API {API_VERSION[0]}.{API_VERSION[1]}{did_you_mean(hook, HOOKS, '`')}.")
        else:
            problems += _signature_problems(hook, function, options)
    if not problems and not implementations:
        problems.append("it implements no hook. Mark its functions with @hookimpl.")
    if problems:
        raise Rejected("hooks", " ".join(problems))


def collect(plugin: Any, source: Source) -> tuple[Offer, ...]:
    """Call every registration hook and keep what it offers."""
    offers: list[Offer] = []
    seen: set[tuple[str, str]] = set()
    manager = pluggy.PluginManager(PROJECT)
    for name, function in _functions(plugin):
        options = manager.parse_hookimpl_opts(plugin, name)
        hook = (options or {}).get("specname") or name
        if options is None or not hook.startswith("ernie_register_"):
            continue
        registry = hook.removeprefix("ernie_register_")
        try:
            with contextlib.redirect_stdout(sys.stderr):
                for entry in _entries(hook, function):
                    offer = _offer(registry, hook, entry, source)
                    if offer.key in seen:
                        raise Rejected("collect", f'`{hook}` offers "{entry.name}" twice.')
                    seen.add(offer.key)
                    offers.append(offer)
        except KeyboardInterrupt:
            raise
        except Rejected as error:
            raise Rejected(error.phase, error.reason, offers) from error
        except BaseException as error:
            raise Rejected("collect", f"`{hook}` failed with {explain(error)} after {len(offers)} entries.", offers) from error
    return tuple(offers)


def check_entries(offers: Sequence[Offer]) -> None:
    """Config structs can be decoded, and the module of every build string can be found. Nothing is imported for it."""
    for offer in offers:
        where = f'`ernie_register_{offer.registry}`, "{offer.entry.name}": '
        if isinstance(offer.entry, Entry):
            try:
                check_struct(offer.entry.config)
            except TypeProblem as error:
                raise Rejected("config", f"{where}{error}", offers) from error
        module = offer.entry.build.partition(":")[0]
        if locate_module(module) is None:
            raise Rejected("build", f"{where}build names the module `{module}`, which cannot be found.", offers)


def resolve_build(build: str) -> Any:
    """Import ``"module:attribute"`` and return the attribute.

    Raises:
        Rejected: phase "build", when the attribute is missing or cannot be called. Errors of the import itself are passed on.
    """
    name, _, attributes = build.partition(":")
    found: Any = importlib.import_module(name)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise Rejected("build", f"`{name}` has no `{attributes}`")
        found = getattr(found, attribute)
    if not callable(found):
        raise Rejected("build", f"`{build}` cannot be called: found {type(found).__name__}")
    return found


def locate_module(name: str) -> ModuleSpec | None:
    """Find a module without importing its parent packages, as ``importlib.util.find_spec`` would."""
    path: Sequence[str] | None = None
    full, spec = "", None
    for part in name.split("."):
        full = f"{full}.{part}" if full else part
        loaded = sys.modules.get(full)
        spec = loaded.__spec__ if loaded is not None and loaded.__spec__ is not None else _find(full, path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and full != name:
            return None
    return spec


def explain(error: BaseException) -> str:
    """One line: the error's type, its first line and where in the plugin it was raised."""
    text = (str(error).strip().splitlines() or ["no message"])[0][:300]
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename and "/ernie_core/plugins/" not in f.filename
    ]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"


def _import_advice(error: BaseException, target: str, source: Source) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        if module != target.partition(".")[0]:
            return f"Install what {source.distribution} needs (`{module}`), or uninstall {source.distribution}."
    return f"Repair, upgrade or uninstall {source.distribution}."


def _functions(plugin: Any) -> Iterator[tuple[str, Any]]:
    """Routines called ``ernie_*`` or marked with @hookimpl, in a fixed order."""
    names = vars(plugin) if isinstance(plugin, ModuleType) else dir(plugin)
    for name in sorted(names):
        value = inspect.getattr_static(plugin, name)
        if isinstance(value, (staticmethod, classmethod)) or inspect.isroutine(value):
            function = getattr(plugin, name)
            if name.startswith("ernie_") or getattr(function, PROJECT + "_impl", None) is not None:
                yield name, function


def _is_own(plugin: Any, function: Any) -> bool:
    return not isinstance(plugin, ModuleType) or function.__module__ == plugin.__name__


def _signature_problems(hook: str, function: Any, options: Any) -> list[str]:
    problems = []
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        problems.append(f"`{hook}` is async: hooks are plain functions.")
    if options.get("wrapper") or options.get("hookwrapper"):
        problems.append(f"`{hook}` is a hook wrapper: only plain implementations are supported.")
    expected = HOOKS[hook]
    takes = f"expected {', '.join(f'`{a}`' for a in expected)} or fewer" if expected else "this hook takes no arguments"
    for parameter in inspect.signature(function).parameters.values():
        name = f"`{hook}`: parameter `{parameter.name}`"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            problems.append(f"{name} collects arguments, which are never filled; {takes}.")
        elif parameter.kind is parameter.KEYWORD_ONLY:
            problems.append(f"{name} is keyword-only, which is never filled; {takes}.")
        elif parameter.name not in expected:
            problems.append(f"{name} is unknown{did_you_mean(parameter.name, expected, '`')}; {takes}.")
        elif parameter.default is not parameter.empty:
            problems.append(f"{name} has a default, so the value would never be filled in; remove the default.")
    return problems


def _entries(hook: str, function: Any) -> Iterator[Any]:
    found = function()
    if isinstance(found, (str, bytes, dict, Entry, Command)) or not hasattr(found, "__iter__"):
        raise Rejected("collect", f"`{hook}` returned {type(found).__name__}, expected an iterable of entries: `yield Entry(...)`.")
    for count, entry in enumerate(found):
        if count >= MAX_ENTRIES:
            raise Rejected("collect", f"`{hook}` offers more than {MAX_ENTRIES} entries.")
        yield entry


def _offer(registry: str, hook: str, entry: Any, source: Source) -> Offer:
    wanted = Command if registry == "commands" else Entry
    if not isinstance(entry, wanted):
        raise Rejected("collect", f"`{hook}` offers {entry!r:.80}, expected ernie_core.api.{wanted.__name__}(...).")
    return Offer(registry, entry, source)


def _find(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        with contextlib.suppress(ImportError, AttributeError):
            spec = finder.find_spec(name, path)
            if spec is not None:
                return spec
    return None
