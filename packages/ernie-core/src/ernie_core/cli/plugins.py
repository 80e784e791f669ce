"""``ernie plugins list|check``. ``list`` reads metadata only and runs no third-party code; ``check`` imports everything, build strings included."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence

from ernie_core.cli.app import App, Parser
from ernie_core.errors import PluginError
from ernie_core.plugins.discovery import find_plugins
from ernie_core.plugins.examine import Rejected, explain, resolve_build
from ernie_core.plugins.host import PluginHost
from ernie_core.plugins.registry import Failed, did_you_mean

WRONG = 2


def main(argv: Sequence[str], app: App) -> int:
    parser = Parser("plugins", "List installed plugins without importing them, or import and check them.")
    verbs = parser.add_verbs()
    listing = verbs("list", "Installed plugins by their metadata; nothing of them is imported.")
    check = verbs("check", "Import every plugin and all it offers; exit code 2 if anything is broken.")
    check.add_argument("name", nargs="?", help="check this plugin only")
    for sub in (listing, check):
        sub.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args(list(argv))
    if arguments.verb == "list":
        return _list(app, as_json=arguments.json)
    return _check(app, arguments.name, as_json=arguments.json)


def _list(app: App, *, as_json: bool) -> int:
    found, failures = find_plugins()
    rows = [
        {
            "name": item.source.plugin,
            "distribution": item.source.distribution,
            "version": item.source.version,
            "state": _state(app, item.source.plugin),
        }
        for item in found
    ]
    rows += [{"name": f.name, "distribution": f.distribution, "version": f.version, "state": f"skipped: {f.reason}"} for f in failures]
    if as_json:
        app.out(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        app.out(f"{row['name']}  {row['distribution']} {row['version']}  {row['state']}")
    if not rows:
        app.out("no plugin is installed")
    return 0


def _state(app: App, name: str) -> str:
    if not app.plugins:
        return "switched off (--no-plugins)"
    return "switched off" if name in app.disable else "installed"


def _check(app: App, name: str | None, *, as_json: bool) -> int:
    host = app.host
    known = {*host.plugin_set(), *(f.name for f in host.failures), *(d.source.plugin for d in host.disabled)}
    if name is not None and name not in known:
        raise PluginError(f"no plugin is called `{name}`{did_you_mean(name, known, '`')} Installed: {', '.join(sorted(known))}")
    failures = [f for f in (*host.failures, *_broken_builds(host, name)) if name in (None, f.name)]
    conflicts = [c for c in host.conflicts if name is None or name in {s.plugin for s in c.sources}]
    broken = {f.name for f in failures}
    good = {plugin: source for plugin, source in host.plugin_set().items() if plugin not in broken and name in (None, plugin)}
    slow = {p.source.plugin: list(p.heavy) for p in host.plugins if p.heavy and p.source.plugin in good}
    if as_json:
        report = {
            "ok": good,
            "slow": slow,
            "failed": [{k: getattr(f, k) for k in ("name", "distribution", "version", "phase", "reason")} for f in failures],
            "conflicts": [{"registry": c.registry, "name": c.name, "plugins": [s.plugin for s in c.sources]} for c in conflicts],
            "disabled": [d.source.plugin for d in host.disabled],
        }
        app.out(json.dumps(report, indent=2))
    else:
        for plugin, source in good.items():
            note = f", but importing it loads {', '.join(slow[plugin])}, which slows every command down" if plugin in slow else ""
            app.out(f"{plugin}  {source}  ok{note}")
        for failure in failures:
            app.out(f"{failure}  [{failure.phase}]")
        for conflict in conflicts:
            app.out(str(conflict))
        for item in host.disabled:
            app.out(f"{item.source.plugin}  {item.source}  switched off")
    return WRONG if failures or conflicts else 0


def _broken_builds(host: PluginHost, name: str | None) -> list[Failed]:
    """Import every implementation. A missing optional package is no defect of a plugin and is not reported here: ``ernie doctor`` names it."""
    failures = []
    for plugin in host.plugins:
        if name not in (None, plugin.source.plugin):
            continue
        problems = []
        for offer in plugin.offers:
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    resolve_build(offer.entry.build)
            except Rejected as error:
                problems.append(f'"{offer.entry.name}": {error.reason}.')
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] == offer.entry.build.partition(".")[0]:
                    problems.append(f'"{offer.entry.name}": importing {offer.entry.build} failed with {explain(error)}.')
            except (Exception, SystemExit) as error:  # foreign code, imported on purpose to see what it does
                problems.append(f'"{offer.entry.name}": importing {offer.entry.build} failed with {explain(error)}.')
        if problems:
            source = plugin.source
            failures.append(Failed(source.plugin, source.distribution, source.version, "build", " ".join(problems)))
    return failures
