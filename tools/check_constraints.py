"""Version constraints of the workspace. ``uv lock`` does not check those between members: it always takes the member beside it.

    python tools/check_constraints.py [--root DIR] [--no-lock]

1. A constraint on another member admits the version that stands in the workspace, has a floor, a cap, and no ``==``.
2. Every member that a package imports is declared by it.
3. uv.lock names one index only, holds no machine path outside the workspace and no ``apex``, and is up to date (``uv lock --check``).

Prints ``path: message`` per finding; exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from source_tree import read_modules
from workspace import ROOT, Member, read_member, read_members

LOCK_TIMEOUT_S = 300


def check(root: Path, *, ask_uv: bool = True) -> list[str]:
    members = read_members(root)
    by_name = {member.name: member for member in members}
    found = [message for member in (*members, read_member(root)) for message in _between(member, by_name, root)]
    found += _imports(root, members)
    found += _lock(root, ask_uv=ask_uv)
    return found


def _between(member: Member, members: Mapping[str, Member], root: Path) -> Iterator[str]:
    """Rule 1. The virtual root is never published, so its constraints need no floor and no cap."""
    where = member.pyproject.relative_to(root).as_posix()
    for table, requirement in member.requirements():
        target = members.get(requirement.name)
        if target is None:
            continue
        operators = {specifier.operator for specifier in requirement.specifier}
        unknown = sorted(requirement.extras - set(target.extras))
        if unknown:
            yield f"{where}: {table}: `{requirement}`: {target.name} has no extra {', '.join(unknown)}"
        if operators & {"==", "==="}:
            yield f"{where}: {table}: `{requirement}` pins an exact version; give a floor and a cap, as in `>=0.1,<0.2`"
            continue
        if not requirement.specifier.contains(target.version, prereleases=True):
            yield f"{where}: {table}: `{requirement}` does not admit {target.name} {target.version}, which the workspace holds"
        published = member.pyproject.parent != root and not table.startswith("dependency-groups")
        if published and not (operators & {">=", ">", "~="} and operators & {"<", "<=", "~="}):
            yield f"{where}: {table}: `{requirement}` needs a floor (what it uses) and a cap (the next breaking series)"


def _imports(root: Path, members: list[Member]) -> Iterator[str]:
    """Rule 2: a workspace hides an undeclared member, because all of them are installed in it."""
    names = {member.import_name: member for member in members}
    for module in read_modules(root, members).values():
        asked = {requirement.name for _, requirement in module.member.requirements()}
        for imported in module.imports:
            target = names.get(imported.target.partition(".")[0])
            if target is not None and target is not module.member and target.name not in asked:
                where = module.path.relative_to(root).as_posix()
                yield f"{where}:{imported.line}: imports {target.name}, which {module.member.name} does not declare"


def _lock(root: Path, *, ask_uv: bool) -> Iterator[str]:
    """Rule 3."""
    path = root / "uv.lock"
    if not path.is_file():
        yield "uv.lock: missing; run `uv lock`"
        return
    lock = tomllib.loads(path.read_text(encoding="utf-8"))
    packages = lock.get("package", [])
    indexes = Counter(p["source"]["registry"] for p in packages if "registry" in p.get("source", {}))
    index = max(indexes, key=lambda name: indexes[name], default="")
    for package in packages:
        yield from _locked(package, index)
    if not ask_uv:
        return
    if shutil.which("uv") is None:
        yield "uv.lock: cannot tell whether it is up to date without uv; install it or pass --no-lock"
        return
    done = subprocess.run(["uv", "lock", "--check"], cwd=root, capture_output=True, text=True, timeout=LOCK_TIMEOUT_S, check=False)
    if done.returncode:
        yield f"uv.lock: `uv lock --check` failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"


def _locked(package: Mapping[str, Any], index: str) -> Iterator[str]:
    name, source = package["name"], package.get("source", {})
    if name == "apex":
        yield "uv.lock: holds `apex`: PyPI's is an unrelated package"
    if "registry" in source and source["registry"] != index:
        yield f"uv.lock: {name} comes from {source['registry']}, not from the one index of the others"
    for kind in ("url", "git", "path", "directory"):
        if kind in source:
            yield f"uv.lock: {name} comes from a {kind} ({source[kind]}), not from the index"
    for kind in ("editable", "virtual"):
        if kind in source and (Path(source[kind]).is_absolute() or ".." in Path(source[kind]).parts):
            yield f"uv.lock: {name} lies at {source[kind]}, outside the workspace"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check version constraints between members, and the lock.")
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--no-lock", action="store_true", help="do not ask uv whether uv.lock is up to date")
    arguments = parser.parse_args(argv)
    found = check(arguments.root.resolve(), ask_uv=not arguments.no_lock)
    for message in found:
        print(message)
    print(f"check_constraints: {len(found)} findings" if found else "check_constraints: ok")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
