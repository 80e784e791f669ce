"""Every durable write of the system goes through here.

A file is written under a temporary name, fsynced, renamed over its final name, and its folder is fsynced: after a crash at any point the final
name holds either the old content or the whole new content. A folder of files (a checkpoint) is built under a temporary name with a manifest of
sha256 sums written last, and renamed into place. Readers verify the manifest.

Each system call that can fail or be the last one before a crash is announced to ``observe`` first, so that tests can raise ENOSPC there, stop the
process there, or record what had not been made durable. Nothing else in the package may write files (``tools/check_boundaries.py`` checks that).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ernie_core.errors import RunFolderError, StorageError

MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"
_CHUNK_BYTES = 1 << 22

_STORAGE_ERRNOS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG),  # the disk refuses
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),  # the path does
    *(errno.ENOLCK, errno.EOPNOTSUPP),  # a file system without locks
}

Observer = Callable[[str, Path], None]
_observer: Observer | None = None  # set only by ``observing``, for fault tests


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Call ``observer(operation, path)`` before each write, append, fsync, rename, fsync_dir, mkdir, unlink, lock and verifying read of this process.

    For tests.
    """
    global _observer
    previous, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = previous


def _announce(operation: str, path: Path) -> None:
    if _observer is not None:
        _observer(operation, path)


# ---- single files ----


def write_bytes(path: str | os.PathLike[str], data: bytes, *, durable: bool = True) -> None:
    """Durably replace ``path``. With ``durable=False`` it is replaced whole for every process, but lost power may leave any content: for files that
    can be lost and whose readers verify them.

    Raises:
        StorageError: disk full, quota, read-only or input/output error; names path, needed and free bytes. The old content is intact.
    """
    write_with(path, lambda file: file.write(data), size_bytes=len(data), durable=durable)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Indented JSON with sorted keys, so that equal values give equal bytes. Non-finite numbers are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_with(path: str | os.PathLike[str], write: Callable[[BinaryIO], object], *, size_bytes: int = 0, durable: bool = True) -> None:
    """Durably replace ``path`` by what ``write(file)`` writes. ``size_bytes``: what is expected, for the error message; ``durable``: see ``write_bytes``."""
    target = Path(path)
    temporary = target.with_name(f"{_TEMPORARY}{os.getpid()}-{target.name}")
    with _storage_errors(target, size_bytes):
        try:
            _write_file(temporary, write, durable=durable)
            _announce("rename", target)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        if durable:
            fsync_folder(target.parent)


def append_line(path: str | os.PathLike[str], line: str, *, durable: bool = False) -> None:
    """Append one line in a single write call; ``durable`` also fsyncs. A crash leaves at most one torn last line, which ``read_lines`` drops.

    After a torn line a new one is begun, so that what is appended later is never glued to it.
    """
    target = Path(path)
    data = line.encode() + b"\n"
    with _storage_errors(target, len(data)):
        _announce("append", target)
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data
            if os.write(descriptor, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                _announce("fsync", target)
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rewrite_lines(path: str | os.PathLike[str], keep: Callable[[str], bool]) -> None:
    """Durably drop the lines of a log for which ``keep`` is false, and a torn last line. A missing file stays missing."""
    target = Path(path)
    if target.exists():
        before = target.read_bytes()
        after = "".join(line + "\n" for line in read_lines(target) if keep(line)).encode()
        if after != before:
            write_bytes(target, after)


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Whole lines of a log written by ``append_line``; a torn last line is dropped."""
    text = Path(path).read_bytes().decode("utf-8", errors="replace")
    return text.split("\n")[:-1]  # not splitlines, which also cuts at characters that JSON allows inside a line


def copy_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Durable byte-for-byte copy."""
    origin = Path(source)

    def copy(file: BinaryIO) -> None:
        with origin.open("rb") as read:
            shutil.copyfileobj(read, file, _CHUNK_BYTES)

    write_with(target, copy, size_bytes=origin.stat().st_size)


def make_folder(path: str | os.PathLike[str]) -> Path:
    folder = Path(path)
    with _storage_errors(folder, 0):
        made = [p for p in (folder, *folder.parents) if not p.exists()]
        _announce("mkdir", folder)
        folder.mkdir(parents=True, exist_ok=True)
        for new in reversed(made):  # a folder whose name is lost takes everything in it along
            fsync_folder(new.parent)
    return folder


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Remove a folder so that a crash in between never leaves something that looks whole: it is renamed first."""
    folder = Path(path)
    if not folder.exists():
        return
    with _storage_errors(folder, 0):
        doomed = folder.with_name(f"{_TEMPORARY}removed-{os.getpid()}-{folder.name}")
        _announce("rename", doomed)
        os.replace(folder, doomed)
        _announce("unlink", doomed)
        shutil.rmtree(doomed)


def fsync_folder(folder: Path) -> None:
    _announce("fsync_dir", folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_file(path: Path, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    _announce("write", path)
    with path.open("wb") as file:
        write(file)
        file.flush()
        if durable:
            _announce("fsync", path)
            os.fsync(file.fileno())


# ---- folders with a manifest ----


class FolderWriter:
    """Collects the files of one folder under a temporary name; see ``commit_folder``. ``facts`` may be added to until the folder is committed."""

    def __init__(self, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.facts = dict(facts or {})
        self.files: dict[str, dict[str, Any]] = {}

    def add_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Let ``write(path)`` create the file, for libraries that take a path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _announce("write", path)
        with _foreign_storage_errors():
            write(path)
        _announce("fsync", path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        self.files[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}

    def add_bytes(self, name: str, data: bytes) -> None:
        self.add_file(name, lambda path: path.write_bytes(data))

    def add_json(self, name: str, value: Any) -> None:
        self.add_bytes(name, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode())


@contextmanager
def commit_folder(
    target: str | os.PathLike[str], *, needed_bytes: int = 0, facts: Mapping[str, Any] | None = None
) -> Iterator[FolderWriter]:
    """Build a folder of files and make it appear whole or not at all, with ``manifest.json`` (sha256 and size of every file, and ``facts``).

    Args:
        target: the final folder; must not exist.
        needed_bytes: expected size; refused before anything is written unless twice that much is free.

    Raises:
        StorageError: see ``write_bytes``; nothing of the folder is visible then.
    """
    final = Path(target)
    if final.exists():
        raise StorageError(f"{final}: already exists, and finished folders are never overwritten")
    make_folder(final.parent)
    preflight(final.parent, needed_bytes)
    temporary = final.with_name(f"{_TEMPORARY}{os.getpid()}-{final.name}")
    with _storage_errors(final, needed_bytes):
        if temporary.exists():
            shutil.rmtree(temporary)
        _announce("mkdir", temporary)
        temporary.mkdir()
        try:
            writer = FolderWriter(temporary, facts)
            yield writer
            manifest = _manifest_bytes({"files": writer.files, **writer.facts})
            _write_file(temporary / MANIFEST, lambda file: file.write(manifest))
            for folder in {temporary, *(p.parent for p in (temporary / n for n in writer.files))}:
                fsync_folder(folder)
            _announce("rename", final)
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync_folder(final.parent)


def verify_folder(folder: str | os.PathLike[str]) -> str | None:
    """None if every file of the manifest is there with its size and sha256, otherwise what is wrong. The manifest carries its own sum."""
    root = Path(folder)
    try:
        found = (root / MANIFEST).read_bytes()
        manifest = json.loads(found)
        manifest.pop("sha256")
        if _manifest_bytes(manifest) != found:
            return f"{root / MANIFEST}: its content does not match its own sha256"
        files = manifest["files"]
        items = [(name, fact["bytes"], fact["sha256"]) for name, fact in files.items()]
    except FileNotFoundError:
        return f"{root}: no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{root / MANIFEST}: unreadable ({error.__class__.__name__}: {error})"
    for name, size, digest in items:
        path = root / name
        try:
            if not path.resolve().is_relative_to(root.resolve()):
                return f"{root / MANIFEST}: `{name}` lies outside the folder"
            if not path.is_file():
                return f"{path}: missing"
            if path.stat().st_size != size:
                return f"{path}: {path.stat().st_size} bytes, the manifest says {size}"
            _announce("read", path)
            found = sha256_file(path)
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        if found != digest:
            return f"{path}: sha256 differs from the manifest (expected {digest[:12]}..., found {found[:12]}...)"
    return None


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The facts and files of a folder that ``verify_folder`` found whole."""
    return json.loads((Path(folder) / MANIFEST).read_bytes())


def _manifest_bytes(content: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": digest}, indent=1, sort_keys=True) + "\n").encode()


def sweep_temporary(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what a killed writer left behind in a folder this process holds the lock of. Returns the names."""
    swept = []
    root = Path(folder)
    for path in sorted(root.glob(f"{_TEMPORARY}*")) if root.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        swept.append(path.name)
    return swept


def sha256_file(path: str | os.PathLike[str]) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def preflight(folder: Path, needed_bytes: int) -> None:
    """Refuse before writing when less than twice the needed bytes are free."""
    if needed_bytes and (free := free_bytes(folder)) < 2 * needed_bytes:
        raise StorageError(
            f"{folder}: about {needed_bytes} bytes are to be written and twice that must be free; {free} bytes are free. Nothing was written or "
            "removed. Free some space, or lower checkpoint.keep, and run the same command again."
        )


def free_bytes(folder: Path) -> int:
    """Bytes an unprivileged user may still write in the file system of ``folder``, or of its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@contextmanager
def _storage_errors(path: Path, needed_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRNOS:
            raise
        try:
            free = str(free_bytes(path))
        except OSError:
            free = "an unknown number of"
        raise StorageError(
            f"{path}: cannot be written: {os.strerror(error.errno)} (needed {needed_bytes} bytes, {free} bytes free). What was there before is intact."
        ) from error


@contextmanager
def _foreign_storage_errors() -> Iterator[None]:
    """A library written in Rust, such as safetensors, tells a full disk only in words: "... No space left on device (os error 28)"."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from error


# ---- locks ----


class FolderLock:
    """One writer per folder: an flock that a kill frees, plus a file naming the holder for the error message.

    Raises:
        RunFolderError: another process holds it; names its pid, host and start time.
        StorageError: the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "lock"
        make_folder(folder)
        with _storage_errors(self.path, 0):
            _announce("lock", self.path)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        started = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime())
        try:
            with _storage_errors(self.path, 0):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, f"pid {os.getpid()} on {socket.gethostname()}, started {started}\n".encode(), 0)
        except BaseException as error:
            holder = os.read(self._descriptor, 4096).decode(errors="replace").strip() or "an unknown process"
            os.close(self._descriptor)  # which also frees the lock
            if isinstance(error, BlockingIOError):
                raise RunFolderError(f"{folder}: in use by {holder}. Wait for it, stop it, or use another folder.") from error
            raise

    def release(self) -> None:
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
