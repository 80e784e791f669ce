"""Find the pictures of a folder and their captions, and say everything that is wrong with them at once, before training starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ernie_core.api import DataError
from ernie_data.config import FolderConfig
from ernie_data.images import SUFFIXES, read_size
from ernie_data.sources.captions import read_caption_file, read_metadata

METADATA = "metadata.jsonl"
LISTED = 10
_HEADER_THREADS = 8


@dataclass(frozen=True)
class Picture:
    """One picture of a folder. ``key`` is its path inside the folder with ``/``; ``size_px`` is (width, height) as shown."""

    key: str
    captions: dict[str, str]
    size_px: tuple[int, int]


@dataclass
class Scan:
    """What was found. ``problems``: kind -> places, in the order found; a kind is a sentence with ``{n}`` for the count."""

    pictures: list[Picture] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, place: str) -> None:
        self.problems.setdefault(kind, []).append(place)

    def report(self, root: Path) -> str:
        """Every kind of problem with its count and up to 10 places."""
        parts = []
        for kind, places in self.problems.items():
            listed = [f"  {p}" for p in places[:LISTED]]
            more = [f"  ... and {len(places) - LISTED} more"] if len(places) > LISTED else []
            parts.append("\n".join([f"{root}: " + kind.format(n=len(places)), *listed, *more]))
        return "\n".join(parts)


NO_CAPTION = "images without a caption: {n}. Write a.txt beside a.png, or a line in metadata.jsonl:"
EMPTY_CAPTION = "images with an empty caption: {n}. Write one, or set data.allow_empty = true:"
BAD_CAPTION = "captions that cannot be used: {n}"
TWO_CAPTIONS = "images with both a .txt file and a line in metadata.jsonl: {n}. Keep one of them:"
MISSING_IMAGE = "images that metadata.jsonl names but that do not exist: {n}"
NOT_AN_IMAGE = "files that metadata.jsonl names and that are no pictures by their names (expected " + ", ".join(SUFFIXES) + "): {n}"
OUTSIDE = "paths that lead out of the folder and were refused: {n}"
LINK_OUT = "symbolic links that lead out of the folder: {n}. Set data.follow_links = true to allow that:"
UNREADABLE = "images that cannot be read: {n}"
NO_STYLE = "images without a caption of the styles that data.styles asks for: {n}"


def scan_folder(config: FolderConfig) -> Scan:
    """Walk the folder, match captions and read every picture's header.

    Raises:
        DataError: the folder is missing, is no folder or holds no pictures. Everything else is in ``Scan.problems``.
    """
    root = Path(config.path)
    if not root.exists():
        raise DataError(f"{root}: no such folder (data.path)")
    if not root.is_dir():
        raise DataError(f"{root}: not a folder (data.path)")
    scan = Scan()
    files = sorted(_files(root, scan, follow_links=config.follow_links))
    images = [f for f in files if f.suffix.lower() in SUFFIXES]
    described = _described(root, files, scan)
    if not images and not described:
        raise DataError(f"{root}: no images found; expected files that end in {', '.join(SUFFIXES)}, in the folder or below it")
    readable = []
    for path in images:
        captions = _captions(root, path, described, scan)
        if captions is not None:
            readable.append((path, _wanted(root, path, captions, scan, config)))
    for path, captions, size in _headers(readable, scan, max_pixels=config.max_megapixels * 1_000_000):
        if captions:
            scan.pictures.append(Picture(path.relative_to(root).as_posix(), captions, size))
    return scan


def pictures_of(config: FolderConfig) -> list[Picture]:
    """The pictures of a folder without problems.

    Raises:
        DataError: every problem, each with its count and up to 10 places.
    """
    scan = scan_folder(config)
    if scan.problems:
        raise DataError(scan.report(Path(config.path)))
    return scan.pictures


def _files(root: Path, scan: Scan, *, follow_links: bool) -> Iterator[Path]:
    """All files below the root but hidden ones. A folder that a link leads back to is visited once."""
    real_root = root.resolve()
    visited = {real_root}

    def allowed(path: Path) -> bool:
        if follow_links or not path.is_symlink() or path.resolve().is_relative_to(real_root):
            return True
        scan.add(LINK_OUT, path.relative_to(root).as_posix())
        return False

    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise):
        here = Path(folder)
        entered = []
        for name in sorted(folders):
            inside = here / name
            if not name.startswith(".") and allowed(inside) and inside.resolve() not in visited:
                visited.add(inside.resolve())
                entered.append(name)
        folders[:] = entered
        yield from (here / n for n in names if not n.startswith(".") and allowed(here / n))


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error


def _described(root: Path, files: Sequence[Path], scan: Scan) -> dict[Path, dict[str, str]]:
    """What the metadata files say of pictures that exist, by path."""
    present = set(files)
    described: dict[Path, dict[str, str]] = {}
    for metadata in (f for f in files if f.name == METADATA):
        for name, captions in read_metadata(metadata).items():
            place = f"{name} ({metadata.relative_to(root).as_posix()})"
            inside = PurePosixPath(name.replace("\\", "/"))
            path = Path(os.path.normpath(metadata.parent / inside))
            if inside.is_absolute() or not path.is_relative_to(os.path.normpath(root)):
                scan.add(OUTSIDE, place)
            elif path.suffix.lower() not in SUFFIXES:
                scan.add(NOT_AN_IMAGE, place)
            elif path not in present:
                scan.add(MISSING_IMAGE, place)
            elif path in described:
                scan.add(TWO_CAPTIONS, place)
            else:
                described[path] = captions
    return described


def _captions(root: Path, path: Path, described: dict[Path, dict[str, str]], scan: Scan) -> dict[str, str] | None:
    """The captions of one picture; None after noting a problem."""
    beside = path.with_suffix(".txt")
    place = path.relative_to(root).as_posix()
    if beside.is_file():
        if path in described:
            scan.add(TWO_CAPTIONS, place)
            return None
        try:
            return {"text": read_caption_file(beside)}
        except DataError as error:
            scan.add(BAD_CAPTION, str(error))
            return None
    if not described.get(path):
        scan.add(NO_CAPTION, place)
        return None
    return described[path]


def _wanted(root: Path, path: Path, captions: dict[str, str], scan: Scan, config: FolderConfig) -> dict[str, str]:
    """The captions of the styles asked for; empty after noting a problem."""
    place = path.relative_to(root).as_posix()
    kept = {style: text for style, text in captions.items() if not config.styles or style in config.styles}
    if not kept:
        scan.add(NO_STYLE, f"{place} has {', '.join(sorted(captions))}")
    elif not config.allow_empty and not all(kept.values()):
        scan.add(EMPTY_CAPTION, place)
        return {}
    return kept


def _headers(
    readable: Sequence[tuple[Path, dict[str, str]]], scan: Scan, *, max_pixels: int
) -> Iterator[tuple[Path, dict[str, str], tuple[int, int]]]:
    read: Callable[[Path], tuple[int, int] | DataError] = lambda path: _size_or_error(path, max_pixels)  # noqa: E731
    with ThreadPoolExecutor(_HEADER_THREADS) as threads:
        for (path, captions), found in zip(readable, threads.map(read, [p for p, _ in readable], chunksize=64)):
            if isinstance(found, DataError):
                scan.add(UNREADABLE, str(found))
            else:
                yield path, captions, found


def _size_or_error(path: Path, max_pixels: int) -> tuple[int, int] | DataError:
    try:
        return read_size(path, max_pixels=max_pixels)
    except DataError as error:
        return error
