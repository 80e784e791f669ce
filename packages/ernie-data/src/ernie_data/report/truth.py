"""What curation found against what was planted: precision and recall for each kind of defect. Pure functions of sets of file names.

Copies have no culprit: of a file and its copies any one may stay. Of a group with g files that came as far as the search for duplicates, g - 1
should go; one more that goes is a false alarm, one fewer a miss. Files of equal pixels are one group whether or not a plan says so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_core.api import DataError
from ernie_core.stats import Interval, wilson_interval

COPIES = ("duplicate", "near_duplicate")


@dataclass(frozen=True)
class Planted:
    """One file of a set with planted defects. ``defect``: empty for a sound one; ``original``: the file that a copy copies."""

    name: str
    defect: str
    original: str


@dataclass(frozen=True)
class Found:
    """One kind of defect: right alarms, false alarms and misses. An interval is None where it has no trials."""

    kind: str
    hits: int
    false_alarms: int
    misses: int

    @property
    def precision(self) -> Interval | None:
        return _share(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> Interval | None:
        return _share(self.hits, self.hits + self.misses)


def read_truth(path: Path) -> list[Planted]:
    """
    Raises:
        DataError: naming file and line.
    """
    planted = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, defect, original = row["file_name"], row["defect"] or "", row.get("original") or ""
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}:{number}: expected an object with file_name and defect ({type(error).__name__}: {error})") from None
        if not all(isinstance(value, str) for value in (name, defect, original)):
            raise DataError(f"{path}:{number}: file_name, defect and original must be text")
        planted.append(Planted(name, defect, original))
    if not planted:
        raise DataError(f"{path}: is empty; expected one line per file")
    return planted


def matched_names(keys: Iterable[str], planted: Sequence[Planted], where: Path) -> dict[str, str]:
    """Key -> file name: a key is its source's name, a slash and the path inside it.

    Raises:
        DataError: no key is one of the files, so this truth is of another set.
    """
    names = {p.name for p in planted}
    found = {key: name for key in keys if (name := key.partition("/")[2]) in names}
    if not found:
        raise DataError(f"{where}: none of its files ({planted[0].name!r}, ...) is a record of this build; is it the truth of another set?")
    return found


def flagged(kind: str, planted: Iterable[Planted], alarms: Collection[str], *, asked: Collection[str]) -> Found:
    """Alarms against one kind of defect.

    Args:
        alarms: names of files.
        asked: files that came to the stage that decides; others count neither as hits nor as misses.
    """
    truth = {p.name for p in planted if p.defect == kind} & set(asked)
    raised = set(alarms) & set(asked)
    return Found(kind, len(truth & raised), len(raised - truth), len(truth - raised))


def copies_found(planted: Iterable[Planted], removed: Collection[str], *, asked: Collection[str], pixels: Mapping[str, str]) -> Found:
    """Duplicates of both kinds.

    Args:
        removed: files refused as duplicates.
        asked: files that came to the search for duplicates, those removed included.
        pixels: file -> hash of its pixels, where known.
    """
    groups = _Groups()
    for p in planted:
        if p.original:
            groups.join(p.name, p.original)
    same: dict[str, str] = {}
    for name, digest in sorted(pixels.items()):
        groups.join(name, same.setdefault(digest, name))
    members: dict[str, list[str]] = {}
    for name in asked:
        members.setdefault(groups.find(name), []).append(name)
    gone = set(removed)
    hits = false = misses = 0
    for names in members.values():
        should, do = len(names) - 1, sum(name in gone for name in names)
        hits, false, misses = hits + min(do, should), false + max(0, do - should), misses + max(0, should - do)
    return Found("duplicates", hits, false, misses)


class _Groups:
    """Union-find over names."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        root = name
        while (above := self.parent.get(root, root)) != root:
            root = above
        self.parent[name] = root
        return root

    def join(self, one: str, other: str) -> None:
        self.parent[self.find(one)] = self.find(other)


def _share(part: int, whole: int) -> Interval | None:
    return wilson_interval(part, whole) if whole else None
