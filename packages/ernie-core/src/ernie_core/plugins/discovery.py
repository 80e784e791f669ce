"""Which plugins are installed, read from distribution metadata: nothing of a plugin is imported here.

``importlib.metadata.entry_points()`` raises for everybody when one distribution's entry_points.txt is malformed, so each one is read on its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from ernie_core.plugins.entry import NAME
from ernie_core.plugins.registry import CORE, Failed, Source

GROUP = "ernie"
_HEADER = re.compile(r"^(Name|Version):[ \t]*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """One installed entry point of the group ``ernie``."""

    source: Source
    target: str  # "package.plugin" or "package.module:object"


def find_plugins() -> tuple[tuple[Found, ...], tuple[Failed, ...]]:
    """All installed plugins by name, and those whose metadata already rules them out. Independent of the order of ``sys.path`` entries' contents.

    Of a distribution that is on the path twice, the first counts, as for imports.
    """
    found: list[Found] = []
    failures: list[Failed] = []
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name, version = _identity(distribution)
        canonical = re.sub(r"[-_.]+", "-", name).lower()
        if canonical in seen:
            continue
        seen.add(canonical)
        try:
            text = distribution.read_text("entry_points.txt") or ""
            if f"[{GROUP}]" not in text:
                continue
            points = [point for point in distribution.entry_points if point.group == GROUP]
        except Exception as error:
            failures.append(
                Failed(name, name, version, "discover", f"its entry_points.txt cannot be read ({type(error).__name__}: {error}).")
            )
            continue
        found += [Found(Source(point.name, name, version), point.value) for point in points]
    return _sort_out(found, failures)


def _identity(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version. Only the headers are read: parsing whole METADATA files with long readmes costs a third of ``ernie --help``."""
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except (OSError, UnicodeDecodeError):
        text = ""
    headers = dict(_HEADER.findall(text.partition("\n\n")[0]))
    return headers.get("Name", "an unnamed distribution"), headers.get("Version", "of unknown version")


def _sort_out(found: Sequence[Found], failures: list[Failed]) -> tuple[tuple[Found, ...], tuple[Failed, ...]]:
    by_name: dict[str, list[Found]] = {}
    for item in found:
        by_name.setdefault(item.source.plugin, []).append(item)
    good = []
    for name, items in by_name.items():
        reason = None
        if name == CORE:
            reason = "the name `core` is reserved for ernie-core's own components. Rename the entry point."
        elif not NAME.fullmatch(name):
            reason = f"the entry point name {name!r} may only have lower case letters, digits, `-` and `_`."
        elif len(items) > 1:
            who = " and ".join(sorted({str(item.source) for item in items}))
            times = "" if len({item.source for item in items}) > 1 else " more than once"
            reason = f"the plugin name `{name}` is declared by {who}{times}. Uninstall or rename one of them."
        if reason is None:
            good += items
        else:
            failures += [Failed(name, i.source.distribution, i.source.version, "discover", reason) for i in dict.fromkeys(items)]
    return tuple(sorted(good, key=lambda item: item.source.plugin)), tuple(sorted(failures, key=lambda f: (f.name, f.distribution)))
