"""Import rules of the workspace, checked on the source without running it.

    python tools/check_boundaries.py [--root DIR]

1. Members import from core only its public modules (``PUBLIC``); core names no member; members never name each other, not even in a string.
2. Light modules (``LIGHT``) import nothing heavy when they are imported, themselves or through others.
3. Every third-party import is declared by its package, in the base dependencies or in an extra.
4. ``apex`` stands in no dependency list: PyPI's is an unrelated package.
5. Files are written through ``ernie_core.io`` only, unless the statement says ``# durable: <reason>``.
6. Nothing that runs code from a file: no pickle, ``torch.load``, ``extractall``, ``trust_remote_code``.

Prints ``path:line: message`` per finding; exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import unsafe_calls
from source_tree import Finding, Import, Module, read_modules
from workspace import CORE, ROOT, Member, read_members

PUBLIC = (
    "api",
    "testing",
    "io",
    "rng",
    "adapters",
    "chat",
    "evaluation.read",
    "flow",
    "model",
    "plane",
    "report",
    "sampling",
    "stats",
    "weights",
    "text.embeddings",
    "train.assemble",
    "train.checkpoint",
    "train.method",
    "train.watch",
)

LIGHT_IN_EVERY_MEMBER = ("__init__.py", "plugin.py", "entries.py", "*/entries.py")
LIGHT_IN_CORE = (
    "api.py",
    "errors.py",
    "records.py",
    "scoring.py",
    "stats/*.py",
    "rng.py",
    "io.py",
    "plugins/*.py",
    "config/*.py",
    "chat/*.py",
    "cli/*.py",
    "adapters/__init__.py",
    "adapters/config.py",
    "report/*.py",
    "train/method.py",
    "train/watch.py",
    "testing/__init__.py",
    "testing/data.py",
    "testing/judging.py",
    "evaluation/asks.py",
    "evaluation/read.py",
)
# What a light module may import besides the standard library: core's base dependencies, which install in seconds.
LIGHT_THIRD_PARTY = {"msgspec", "numpy", "packaging", "pluggy"}

# Distributions whose import name is not their own with dashes replaced.
IMPORT_NAMES = {"pillow": ("PIL",), "pyyaml": ("yaml",), "liger-kernel": ("liger_kernel",)}
# Imported where they happen to be installed, and in no dependency list on purpose.
UNDECLARED = {
    "apex": "NVIDIA Apex is not on PyPI; the op set looks for it and says why it is unusable",
    "triton": "comes with torch's CUDA builds and exists for no other",
}


def check(root: Path) -> list[Finding]:
    """All findings in the workspace at ``root``, sorted by place."""
    members = read_members(root)
    modules = read_modules(root, members)
    names = {member.import_name for member in members}
    found = [finding for member in members for finding in _apex(root, member)]
    for module in modules.values():
        found += _direction(module, names, modules)
        found += _strings(module, names)
        found += _declared(module, names)
        found += unsafe_calls.check(module)
        if is_light(module):
            found += _light(module, modules, names)
    return sorted(set(found))


def is_light(module: Module) -> bool:
    patterns = LIGHT_IN_EVERY_MEMBER + (LIGHT_IN_CORE if module.member.name == CORE else ())
    return any(fnmatch(module.inside, pattern) for pattern in patterns)


def _direction(module: Module, names: set[str], modules: dict[str, Module]) -> Iterator[Finding]:
    """Rule 1, for imports."""
    own, core = module.member.import_name, CORE.replace("-", "_")
    for imported in module.imports:
        top = imported.target.partition(".")[0]
        if top == own or top not in names:
            continue
        if own == core:
            yield module.finding(imported.line, f"ernie-core imports `{top}`: core knows no other package; use a hook")
        elif top != core:
            yield module.finding(imported.line, f"{module.member.name} imports `{top}`: packages beside each other meet only in hooks")
        else:
            for target in imported.targets(modules):
                inside = target.partition(".")[2]
                if not any(inside == public or inside.startswith(public + ".") for public in PUBLIC):
                    message = f"{module.member.name} imports `{target}`, which is not public; {_instead(imported, modules)}"
                    yield module.finding(imported.line, message)


def _instead(imported: Import, modules: dict[str, Module]) -> str:
    """Where the names of a refused import can be had, if ``ernie_core.api`` has them all."""
    api = modules.get(f"{CORE.replace('-', '_')}.api")
    offered = {name for line in api.imports for name in line.names} if api else set()
    if imported.names and offered.issuperset(imported.names):
        return f"import {', '.join(imported.names)} from ernie_core.api"
    return f"of ernie_core are: {', '.join(PUBLIC)}"


def _strings(module: Module, names: set[str]) -> Iterator[Finding]:
    """Rule 1, for strings: a package named in a string is imported through a side door."""
    own, core = module.member.import_name, CORE.replace("-", "_")
    foreign = sorted(names - {own} - ({core} if own != core else set()))
    if not foreign:
        return
    pattern = re.compile(
        "|".join(rf"(?<!pip install )\b{name.replace('_', '[-_]')}\b" for name in foreign)
    )  # advice to a user is no side door
    for line, text in module.strings():
        if match := pattern.search(text):
            yield module.finding(line, f"{module.member.name} names `{match.group()}` in a string; ask a registry by name instead")


def _declared(module: Module, names: set[str]) -> Iterator[Finding]:
    """Rule 3."""
    member = module.member
    declared = {imported for _, requirement in member.requirements() for imported in import_names(requirement.name)}
    where = member.pyproject.relative_to(module.root).as_posix()
    for imported in module.imports:
        top = imported.target.partition(".")[0]
        if top in {member.import_name, "__future__"} | declared:
            continue
        if top in names or (top not in sys.stdlib_module_names and top not in UNDECLARED):
            yield module.finding(imported.line, f"imports `{top}`, which {where} declares neither as a dependency nor in an extra")


def import_names(distribution: str) -> tuple[str, ...]:
    return IMPORT_NAMES.get(distribution.lower(), (distribution.replace("-", "_"),))


def _apex(root: Path, member: Member) -> Iterator[Finding]:
    """Rule 4."""
    for table, requirement in member.requirements():
        if requirement.name.lower() == "apex":
            lines = member.pyproject.read_text(encoding="utf-8").splitlines()
            line = next((i for i, text in enumerate(lines, 1) if re.search(r"[\"']apex\b", text)), 1)
            yield Finding(
                str(member.pyproject.relative_to(root)),
                line,
                f"`apex` in {table}: PyPI's apex is an unrelated package; NVIDIA Apex is built from source",
            )


def _light(module: Module, modules: dict[str, Module], names: set[str]) -> Iterator[Finding]:
    """Rule 2; one finding per heavy package, with the shortest chain to it."""
    for top, (line, chain) in third_party(module, modules, names).items():
        if top not in LIGHT_THIRD_PARTY:
            via = " -> ".join(chain)
            yield module.finding(line, f"is a light module, but importing it imports `{top}` ({via}); import it where it is used")


def third_party(module: Module, modules: dict[str, Module], names: set[str]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """The third-party packages that importing ``module`` imports, itself or through others, found breadth first.

    Each with the line of ``module`` that leads there (1 if a package above it does), and the chain of modules.
    """
    start = list(_loaded([module.name], modules))
    reached = {name: (module.name,) if name == module.name else (module.name, name) for name in start}
    lines = {name: 1 for name in start if name != module.name}
    queue = deque(reversed(start))
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    while queue:
        current = modules[queue.popleft()]
        for imported in current.imports:
            if imported.lazy or imported.typing_only:
                continue
            line = lines.get(current.name, imported.line)
            top = imported.target.partition(".")[0]
            if top not in names:
                if top not in sys.stdlib_module_names:
                    found.setdefault(top, (line, (*reached[current.name], top)))
                continue
            for target in _loaded(imported.targets(modules), modules):
                if target not in reached:
                    reached[target] = (*reached[current.name], target)
                    lines[target] = line
                    queue.append(target)
    return found


def _loaded(targets: Iterable[str], modules: dict[str, Module]) -> Iterator[str]:
    """A module and every package above it: importing ``a.b.c`` runs ``a`` and ``a.b`` first."""
    for target in targets:
        parts = target.split(".")
        for length in range(1, len(parts) + 1):
            name = ".".join(parts[:length])
            if name in modules:
                yield name


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check the workspace's import rules.")
    parser.add_argument("--root", type=Path, default=ROOT)
    root = parser.parse_args(argv).root.resolve()
    try:
        found = check(root)
    except SyntaxError as error:
        print(f"{error.filename}:{error.lineno}: does not parse: {error.msg}")
        return 1
    for finding in found:
        print(finding)
    print(f"check_boundaries: {len(found)} findings" if found else "check_boundaries: ok")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
