"""``ernie doctor``: what is installed, which op sets and engines are usable and why not, and what else is wrong with this environment.

What components need of the machine beyond Python packages they say themselves, through the hook ``ernie_doctor``; core's own checks come the same way.
An op set or engine says whether it is usable here by a function ``why_unusable(name, device) -> str | None`` in the module that its build string names.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from ernie_core.cli.app import App, Parser
from ernie_core.ops.apex_detect import detect_apex
from ernie_core.plugins.examine import explain
from ernie_core.plugins.hookspecs import EnvironmentCheck
from ernie_core.plugins.host import PluginHost
from ernie_core.plugins.missing import missing_package

OWN_CHECKS = ("apex", "torchvision")
BESIDE = ("torchvision", "triton")  # no requirement of ours, but they decide what works


def main(argv: Sequence[str], app: App) -> int:
    parser = Parser("doctor", "What is installed, which op sets and engines are usable and why not.")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(list(argv))
    report = examine(app.host)
    app.out(json.dumps(report, indent=2) if options.json else _in_words(report))
    return 0


def examine(host: PluginHost) -> dict[str, Any]:
    """The whole report as plain values. Imports torch if it is there."""
    device, accelerator = _accelerator()
    apex = detect_apex()
    checks = host.check_environment()
    problems = [*map(str, host.failures), *map(str, host.conflicts)]
    problems += [
        check.detail if check.name in OWN_CHECKS else f"{check.name}: {check.detail}" for check in checks if check.state == "problem"
    ]
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _packages(host)},
        "accelerator": accelerator,
        "apex": {"kind": apex.kind, "usable": apex.usable and device == "cuda", "reason": apex.reason},
        "op_sets": _usable(host, "op_sets", device),
        "engines": _usable(host, "engines", device),
        "checks": {check.name: {"state": check.state, "detail": check.detail} for check in checks},
        "plugins": host.plugin_set(),
        "disabled": [item.source.plugin for item in host.disabled],
        "problems": problems,
    }


def own_checks() -> Iterator[EnvironmentCheck]:
    """Core's implementation of ``ernie_doctor``: two packages that are often installed wrongly."""
    apex = detect_apex()
    states = {"impostor": "problem", "no-extensions": "problem", "absent": "absent"}
    yield EnvironmentCheck("apex", states.get(apex.kind, "ok"), apex.reason)
    wrong = _torchvision_problems()
    yield EnvironmentCheck("torchvision", "problem" if wrong else "ok", wrong[0] if wrong else "absent, or built for the installed torch")


def _packages(host: PluginHost) -> list[str]:
    """Distributions of plugins, then what ernie-core requires with all its extras."""
    own = {plugin.source.distribution: None for plugin in host.plugins} | {failure.distribution: None for failure in host.failures}
    required = {Requirement(line).name for line in metadata.requires("ernie-core") or ()}
    return [*own, *sorted({*required, *BESIDE})]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _accelerator() -> tuple[str | None, str]:
    """The device type a run would take by itself (None without torch), and what to say about it."""
    try:
        import torch
    except ModuleNotFoundError as error:
        return None, str(missing_package(error, what="training and sampling") or explain(error))
    except Exception as error:  # a torch that cannot load its libraries raises whatever its loader does
        return None, f"torch is installed but cannot be imported: {explain(error)}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return "cuda", f"CUDA {torch.version.cuda}: {', '.join(names)}"
    built = (
        f"torch was built for CUDA {torch.version.cuda}, but no usable GPU was found"
        if torch.version.cuda
        else "torch was built without CUDA"
    )
    return "cpu", f"no CUDA device ({built}); {torch.get_num_threads()} CPU threads"


def _usable(host: PluginHost, registry: str, device: str | None) -> dict[str, dict[str, Any]]:
    report = {}
    for name, entry in host.entries(registry).items():
        reason = _why_unusable(host, registry, name, device)
        report[name] = {"usable": reason is None, "reason": reason or entry.summary}
    return report


def _why_unusable(host: PluginHost, registry: str, name: str, device: str | None) -> str | None:
    if device is None:
        return 'it needs the package `torch`: pip install "ernie-core[train]"'
    import torch

    try:
        with contextlib.redirect_stdout(sys.stderr):
            host.load(registry, name)
            module = importlib.import_module(host.entry(registry, name).build.partition(":")[0])
            if hasattr(module, "why_unusable"):
                return module.why_unusable(name, torch.device(device))
    except Exception as error:  # foreign code that is asked about itself: its failure is the answer
        return explain(error)
    return None


def _torchvision_problems() -> list[str]:
    """torchvision's compiled operators fit one build of torch; beside another, importing transformers fails with "operator torchvision::nms"."""
    try:
        torch, vision = Version(metadata.version("torch")), metadata.distribution("torchvision")
        own = Version(vision.version)
        wanted = [r for r in map(Requirement, vision.requires or ()) if r.name == "torch"]
    except (metadata.PackageNotFoundError, InvalidVersion, InvalidRequirement):
        return []
    fits = all(r.specifier.contains(torch.public, prereleases=True) for r in wanted)
    if fits and (own.local or "") == (torch.local or ""):
        return []
    return [
        f"torchvision {own} was built for another torch than the installed {torch}, and imports fail with `operator torchvision::nms does not exist`. "
        "ernie does not need it: pip uninstall torchvision"
    ]


def _in_words(report: dict[str, Any]) -> str:
    lines = [f"Python {report['python']} on {report['platform']}", "", "packages"]
    lines += [f"  {name} {version or 'not installed'}" for name, version in report["packages"].items()]
    lines += ["", f"accelerator: {report['accelerator']}", f"apex: {report['apex']['reason']}"]
    for title, key in (("op sets", "op_sets"), ("engines", "engines")):
        lines += ["", title]
        lines += [f"  {name}: {'usable' if row['usable'] else 'not usable'}: {row['reason']}" for name, row in report[key].items()]
    lines += ["", "beside Python packages"]
    lines += [f"  {name}: {row['state']}: {row['detail']}" for name, row in report["checks"].items() if name not in OWN_CHECKS]
    lines += ["", "plugins"] + [f"  {name}: {source}" for name, source in report["plugins"].items()]
    lines += [f"  {name}: switched off" for name in report["disabled"]]
    lines += ["", "problems"] + ([f"  {problem}" for problem in report["problems"]] or ["  none"])
    return "\n".join(lines)
