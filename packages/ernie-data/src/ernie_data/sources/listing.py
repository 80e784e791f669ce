"""List the records of a build's sources without reading pictures: folders of files, WebDataset tars, Parquet, and other builds.

Every file that looks like a record is listed: what cannot be used is listed as refused, so that it is counted. Files of other kinds (by suffix) are
counted as ignored. Captions are read here; an unusable caption is noted and costs no picture, since captions can be written anew.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec

from ernie_core.api import DataError
from ernie_data.images import SUFFIXES
from ernie_data.reasons import ReasonCode
from ernie_data.recipe import BuildInput, FolderInput, Input, TarInput
from ernie_data.sources.captions import CAPTION_MAX_BYTES, TEXT, check_caption, decode_text, read_caption_file, read_metadata
from ernie_data.sources.place import Place, stamp_of
from ernie_data.sources.tarread import Member, read_members

METADATA = "metadata.jsonl"
_CAPTION_SUFFIXES = (".txt", ".json")


@dataclass
class Listing:
    """Records in the order of their keys, and the number of ignored files by suffix."""

    places: list[Place] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def list_sources(sources: Sequence[Input]) -> Listing:
    """
    Raises:
        DataError: a source is missing, empty, or its metadata file cannot be read.
    """
    listing = Listing()
    for source in sources:
        root = Path(source.path)
        if not root.exists():
            raise DataError(f"{root}: no such {'folder' if isinstance(source, FolderInput) else 'file or folder'} (source `{source.name}`)")
        before = len(listing.places)
        places, kind = _kinds(source, listing.ignored)
        listing.places += places
        if len(listing.places) == before:
            raise DataError(f"{root}: nothing found (source `{source.name}`); expected {kind}")
    listing.places.sort(key=lambda place: place.key)
    return listing


def _kinds(source: Input, ignored: Counter[str]) -> tuple[Iterator[Place], str]:
    if isinstance(source, FolderInput):
        return list_folder(source, ignored), f"files that end in {', '.join(SUFFIXES)}"
    if isinstance(source, TarInput):
        return list_tars(source, ignored), "tar files with pictures"
    if isinstance(source, BuildInput):
        from ernie_data.sources.origin import list_build  # reads builds, which are made of listings

        return list_build(source), "accepted records" + (" for which `where` holds" if source.where else "")
    from ernie_data.sources.parquet import list_parquet  # only where it is needed

    return list_parquet(source), "Parquet files with rows"


# ---- folders ----


def list_folder(source: FolderInput, ignored: Counter[str]) -> Iterator[Place]:
    """Pictures of a folder and below, but hidden ones; captions from ``a.txt`` beside ``a.png``, else from ``metadata.jsonl``. Links to folders are not
    followed, and counted.

    Raises:
        DataError: not a folder, a folder or a metadata file that cannot be read.
    """
    root = Path(source.path)
    if not root.is_dir():
        raise DataError(f"{root}: not a folder (source `{source.name}`)")
    inside = os.path.realpath(root)
    described: dict[Path, tuple[dict[str, str], str]] = {}
    for folder, folders, names in os.walk(root, onerror=_raise):
        here = Path(folder)
        ignored.update("(link to a folder)" for name in folders if (here / name).is_symlink())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        if METADATA in names:
            unusable: dict[str, str] = {}
            for name, captions in read_metadata(here / METADATA, unusable).items():
                key = f"{source.name}/{(here / METADATA).relative_to(root).as_posix()}#{name[:200]!r}"
                if name.startswith("/") or ".." in PurePosixPath(name).parts:
                    yield _refused(key, ReasonCode.NAME_REFUSED, "metadata may name files of its own folder and below it only")
                elif not _encodes(name):
                    yield _refused(key, ReasonCode.NAME_REFUSED, "half a surrogate pair in the name")
                else:
                    described[here / name] = captions, unusable.get(name, "")
        pictures = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
        for name in pictures:
            yield _file(source, root, here / name, described.pop(here / name, None), inside)
        used = {METADATA, *pictures, *(PurePosixPath(name).with_suffix(".txt").name for name in pictures)}
        ignored.update(PurePosixPath(name).suffix.lower() or "(none)" for name in names if name not in used)
    for path in described:
        reason = ReasonCode.NOT_A_PICTURE if _exists(path) else ReasonCode.MISSING_FILE
        yield _refused(f"{source.name}/{path.relative_to(root).as_posix()}", reason, f"named by {METADATA}")


def _file(source: FolderInput, root: Path, path: Path, described: tuple[dict[str, str], str] | None, inside: str) -> Place:
    key = f"{source.name}/{path.relative_to(root).as_posix()}"
    if not _encodes(key):
        return _refused(key.encode("utf-8", "replace").decode(), ReasonCode.NAME_REFUSED, "the name is not UTF-8")
    try:
        if path.is_symlink() and not os.path.realpath(path).startswith(inside + os.sep):
            return _refused(key, ReasonCode.LINK_OUTSIDE, "a symbolic link that leads out of the folder")
        status = path.stat()
    except OSError as error:
        return _refused(key, ReasonCode.UNREADABLE, error.strerror or "")
    captions, wrong = _beside(path, described)
    return _sized(Place(key, str(path), 0, status.st_size, status.st_mtime_ns, captions, wrong), source.max_file_mib)


def _beside(path: Path, described: tuple[dict[str, str], str] | None) -> tuple[dict[str, str], str]:
    """Captions, and why there are none although there was something."""
    text = path.with_suffix(".txt")
    if not text.is_file():
        return described or ({}, "")
    try:
        return {TEXT: read_caption_file(text)}, ""
    except DataError as error:
        return {}, str(error).removeprefix(f"{text}: ")
    except OSError as error:
        return {}, error.strerror or "unreadable"


def _sized(place: Place, max_file_mib: int) -> Place:
    if place.size > max_file_mib << 20:
        detail = f"{place.size} bytes; the limit is {max_file_mib} MiB"
        return msgspec.structs.replace(place, error=str(ReasonCode.FILE_TOO_LARGE), detail=detail)
    return place


def _refused(key: str, reason: ReasonCode, detail: str) -> Place:
    return Place(key, error=str(reason), detail=detail)


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # e.g. a name longer than the file system takes
        return False


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error


# ---- tars ----


def list_tars(source: TarInput, ignored: Counter[str]) -> Iterator[Place]:
    """Samples of one tar or of all ``*.tar`` in a folder: neighbours whose names agree up to the first dot, as in WebDataset."""
    root = Path(source.path)
    for path in sorted(root.rglob("*.tar")) if root.is_dir() else [root]:
        place = path.relative_to(root).as_posix() if root.is_dir() else path.name
        yield from _samples(source, path, f"{source.name}/{place}", ignored)


def _samples(source: TarInput, path: Path, prefix: str, ignored: Counter[str]) -> Iterator[Place]:
    stamp = stamp_of(path)
    seen: set[str] = set()
    group: list[Member] = []
    for member in read_members(path):
        if not isinstance(member, Member):
            yield _refused(f"{prefix}/{member.name}@{member.offset}", member.reason, member.detail)
            continue
        suffix = PurePosixPath(member.name).suffix.lower()
        if suffix not in SUFFIXES + _CAPTION_SUFFIXES:
            ignored[suffix or "(none)"] += 1
            continue
        if group and _stem(group[0].name) != _stem(member.name):
            yield _sample(source, path, prefix, stamp, group, seen)
            group = []
        group.append(member)
    if group:
        yield _sample(source, path, prefix, stamp, group, seen)


def _stem(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".", 1)[0]


def _sample(source: TarInput, path: Path, prefix: str, stamp: int, group: Sequence[Member], seen: set[str]) -> Place:
    stem = _stem(group[0].name)
    pictures = [m for m in group if PurePosixPath(m.name).suffix.lower() in SUFFIXES]
    if stem in seen:
        return _refused(f"{prefix}/{stem}@{group[0].offset}", ReasonCode.DUPLICATE_KEY, "the name occurs before in the same archive")
    seen.add(stem)
    if len(pictures) != 1:
        reason = ReasonCode.SEVERAL_PICTURES if pictures else ReasonCode.NO_PICTURE
        return _refused(f"{prefix}/{stem}", reason, ", ".join(m.name for m in group)[:200])
    captions: dict[str, str] = {}
    wrong = ""
    for member in group:
        if member is not pictures[0]:
            try:
                captions.update(_caption_member(path, member))
            except DataError as error:
                wrong = str(error)
    picture = pictures[0]
    return _sized(Place(f"{prefix}/{stem}", str(path), picture.offset, picture.size, stamp, captions, wrong), source.max_file_mib)


def _caption_member(path: Path, member: Member) -> dict[str, str]:
    """Captions of a ``.txt`` member, or of ``caption``, ``text`` and ``captions`` of a ``.json`` member."""
    if member.size > 4 * CAPTION_MAX_BYTES:
        raise DataError(f"{member.name}: {member.size} bytes is too long for a caption")
    with path.open("rb") as file:
        file.seek(member.offset)
        text = decode_text(file.read(member.size), member.name)
    if member.name.lower().endswith(".txt"):
        return {TEXT: check_caption(text, member.name)}
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{member.name}: not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{member.name}: expected an object, found {type(row).__name__}")
    nested = row.get("captions")
    found = {**({TEXT: row[name]} if (name := next((n for n in ("caption", "text") if n in row), None)) else {})}
    found.update(nested if isinstance(nested, dict) else {})
    if wrong := [style for style, value in found.items() if not isinstance(value, str)]:
        raise DataError(f"{member.name}: the caption of style `{wrong[0]}` is not text")
    return {style: check_caption(value, member.name) for style, value in found.items()}
