"""The workspace as its pyproject files describe it: members, their requirements and extras. What every tool here starts from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CORE = "ernie-core"


@dataclass(frozen=True)
class Member:
    """One package of the workspace. ``extras`` maps an extra's name to its requirements; ``groups`` are development groups."""

    name: str
    version: Version
    folder: Path
    base: tuple[Requirement, ...]
    extras: Mapping[str, tuple[Requirement, ...]]
    groups: Mapping[str, tuple[Requirement, ...]]

    @property
    def import_name(self) -> str:
        return self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        return self.folder / "src" / self.import_name

    @property
    def pyproject(self) -> Path:
        return self.folder / "pyproject.toml"

    def requirements(self) -> Iterator[tuple[str, Requirement]]:
        """Every requirement with the table it stands in, such as ``optional-dependencies.train``."""
        for requirement in self.base:
            yield "dependencies", requirement
        for extra, requirements in self.extras.items():
            for requirement in requirements:
                yield f"optional-dependencies.{extra}", requirement
        for group, requirements in self.groups.items():
            for requirement in requirements:
                yield f"dependency-groups.{group}", requirement


def read_member(folder: Path) -> Member:
    """The member that ``folder/pyproject.toml`` describes.

    Raises:
        ValueError: the project table has no name or no static version.
    """
    table = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    project = table.get("project", {})
    if "name" not in project or "version" not in project:
        raise ValueError(f"{folder / 'pyproject.toml'}: [project] needs a name and a static version")
    return Member(
        name=canonicalize_name(project["name"]),
        version=Version(project["version"]),
        folder=folder,
        base=_parse(project.get("dependencies", [])),
        extras={extra: _parse(lines) for extra, lines in project.get("optional-dependencies", {}).items()},
        groups={group: _parse(lines) for group, lines in table.get("dependency-groups", {}).items()},
    )


def read_members(root: Path) -> list[Member]:
    """All members that the root's ``[tool.uv.workspace]`` names, sorted by name, without the virtual root itself."""
    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    globs = table["tool"]["uv"]["workspace"]["members"]
    folders = {path.parent for pattern in globs for path in root.glob(f"{pattern}/pyproject.toml")}
    return sorted((read_member(folder) for folder in folders), key=lambda member: member.name)


def _parse(lines: list[object]) -> tuple[Requirement, ...]:
    return tuple(Requirement(line) for line in lines if isinstance(line, str))  # a table is an include-group, read where it stands
