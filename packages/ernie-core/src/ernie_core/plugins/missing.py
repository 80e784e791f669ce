"""A missing optional package as one line with cause and fix. Light."""

from __future__ import annotations

from importlib import metadata

from ernie_core.errors import MissingComponent

DISTRIBUTIONS = {"PIL": "pillow"}  # import names that differ from the distribution's
OWN = ("ernie_core", "ernie_data", "ernie_align", "ernie_distill", "ernie_aes", "ernie_enhancer")


def missing_package(error: ModuleNotFoundError, *, what: str, distribution: str = "ernie-core") -> MissingComponent | None:
    """Say which package ``what`` lacks and how to install it; None if the missing module is one of our own, which is a defect and no user's error.

    The extra is looked up in the metadata of ``distribution``, the package that offers ``what``.
    """
    module = (error.name or "").partition(".")[0]
    if not module or (module in OWN and module.replace("_", "-") == distribution):
        return None
    package = module.replace("_", "-") if module in OWN else DISTRIBUTIONS.get(module, module)
    return MissingComponent(
        f'{what} needs the package `{package}`, which is not installed: pip install "{_offering(package, distribution)}"'
    )


def _offering(package: str, distribution: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement  # 30 ms that only this message needs

    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return package
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.name.lower() == package.lower() and requirement.marker is not None:
            for extra in metadata.metadata(distribution).get_all("Provides-Extra") or []:
                if requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate({"extra": ""}):
                    return f"{distribution}[{extra}]"
    return package
