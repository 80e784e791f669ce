"""A missing optional package as one line with cause and fix. Light."""

from __future__ import annotations

import re
from importlib import metadata

from ernie_core.errors import MissingComponent

DISTRIBUTIONS = {"PIL": "pillow"}  # import names that differ from the distribution's


def missing_package(error: ModuleNotFoundError, *, what: str, distribution: str = "ernie-core") -> MissingComponent | None:
    """Say which package ``what`` lacks and how to install it; None if the missing module is one of ours or of ``distribution``: a defect, no user's error.

    The extra is looked up in the metadata of ``distribution``, the package that offers ``what``.
    """
    module = (error.name or "").partition(".")[0]
    package = DISTRIBUTIONS.get(module, module)
    if not module or _canonical(package) in ("ernie-core", _canonical(distribution)):
        return None
    package, source = _offering(package, distribution)
    return MissingComponent(f'{what} needs the package `{package}`, which is not installed: pip install "{source}"')


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _offering(package: str, distribution: str) -> tuple[str, str]:
    """The package as ``distribution`` names it in its requirements, and what to install to get it: an extra where one brings it."""
    from packaging.requirements import InvalidRequirement, Requirement  # 30 ms that only this message needs

    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return package, package
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if _canonical(requirement.name) != _canonical(package):
            continue
        marker = requirement.marker
        for extra in metadata.metadata(distribution).get_all("Provides-Extra") or []:
            if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
                return requirement.name, f"{distribution}[{extra}]"
        return requirement.name, requirement.name
    return package, package
