"""Calls of the hooks that are not registrations: config checks, checks of the machine and run observers. One plugin's error never reaches another, nor the trainer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pluggy

from ernie_core.config.base import Config
from ernie_core.errors import Problem
from ernie_core.plugins.examine import explain
from ernie_core.plugins.hookspecs import PROJECT, EnvironmentCheck, Hooks
from ernie_core.redact import redact


class HookCaller:
    """Keeps pluggy's manager. Implementations are called one by one, because pluggy's own call stops at the first that raises."""

    def __init__(self, parts: Iterable[tuple[str, Any]]) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(Hooks)
        self._owner: dict[int, str] = {}
        self._off: set[tuple[str, str]] = set()  # (plugin, hook) of observers that raised in this run
        for number, (plugin, part) in enumerate(reversed(list(parts))):  # pluggy calls the last registered first; core comes first here
            self._manager.register(part, name=f"{number}:{plugin}")
            self._owner[id(part)] = plugin

    def check_config(self, config: Config) -> list[Problem]:
        problems = []
        for plugin, function, names in self._implementations("ernie_check_config"):
            try:
                found = list(function(*([config] if names else [])) or ())
            except Exception as error:  # foreign code: its failure is one more problem of this config's plugin set
                problems.append(Problem(f"plugin `{plugin}`", f"its ernie_check_config failed with {explain(error)}"))
                continue
            for problem in found:
                if isinstance(problem, Problem):
                    problems.append(problem)
                else:
                    problems.append(
                        Problem(f"plugin `{plugin}`", f"its ernie_check_config returned {problem!r:.80}, expected ernie_core.api.Problem")
                    )
        return problems

    def check_environment(self) -> list[EnvironmentCheck]:
        checks = []
        for plugin, function, _ in self._implementations("ernie_doctor"):
            try:
                found = list(function() or ())
            except Exception as error:  # foreign code that is asked about itself: its failure is the answer
                checks.append(EnvironmentCheck(f"plugin {plugin}", "problem", f"its ernie_doctor failed with {explain(error)}"))
                continue
            for check in found:
                if isinstance(check, EnvironmentCheck):
                    checks.append(check)
                else:
                    what = f"its ernie_doctor returned {check!r:.80}, expected ernie_core.api.EnvironmentCheck"
                    checks.append(EnvironmentCheck(f"plugin {plugin}", "problem", what))
        return checks

    def observe(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook. An observer that raises is reported once on stderr and stays off until ``switch_all_on``."""
        for plugin, function, names in self._implementations(hook):
            if (plugin, hook) in self._off:
                continue
            try:
                function(*(arguments[name] for name in names))
            except (Exception, SystemExit) as error:  # foreign code must not end a run
                self._off.add((plugin, hook))
                print(redact(f"plugin `{plugin}`: {hook} failed with {explain(error)}. It is switched off for this run."), file=sys.stderr)

    def switch_all_on(self) -> None:
        self._off.clear()

    def _implementations(self, hook: str) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
        caller: pluggy.HookCaller = vars(self._manager.hook)[hook]
        for implementation in reversed(caller.get_hookimpls()):
            yield self._owner[id(implementation.plugin)], implementation.function, tuple(implementation.argnames)
