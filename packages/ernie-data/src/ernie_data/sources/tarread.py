"""Foreign tar archives, read by headers alone: nothing is extracted, no name in an archive is ever used as a path, nothing is run.

Regular members are reported with offset and size; links, devices, sparse and unknown types, names that lead anywhere, oversized headers and damage are
reported as refusals with their place. Understands ustar, GNU long names and pax (POSIX.1-2001) paths and sizes.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ernie_core.api import DataError
from ernie_data.reasons import ReasonCode

BLOCK = 512
HEADER_MAX_BYTES = 64 * 1024
"""Of a pax header or a GNU long name: real ones hold a path and a few numbers."""
NAME_MAX_BYTES = 1024
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7z": "xz", b"(\xb5/\xfd": "zstd", b"PK\x03\x04": "zip"}
_LINKS = (b"1", b"2")
_REGULAR = (b"0", b"\0")
_TYPES = {
    b"3": "character device",
    b"4": "block device",
    b"6": "fifo",
    b"7": "contiguous file",
    b"S": "sparse file",
    b"D": "directory dump",
}


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Refused:
    """Something in a tar that is not used. ``name`` is printable."""

    name: str
    offset: int
    reason: ReasonCode
    detail: str


class _Damaged(Exception):
    pass


def read_members(path: Path) -> Iterator[Member | Refused]:
    """All members in order. Damage ends the walk with a refusal; what came before it stands.

    Raises:
        DataError: the file cannot be opened, or is compressed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
    try:
        start = os.pread(descriptor, 4, 0)
        for magic, kind in _COMPRESSED.items():
            if start.startswith(magic):
                raise DataError(
                    f"{path}: compressed with {kind}; expected an uncompressed tar, which can be read by position. Unpack it first."
                )
        yield from _walk(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _walk(descriptor: int, total: int) -> Iterator[Member | Refused]:
    at = 0
    long_name: bytes | None = None
    pax: dict[str, bytes] = {}
    while True:
        header = os.pread(descriptor, BLOCK, at)
        if not header or header == bytes(BLOCK):
            if at == 0:
                yield Refused("", 0, ReasonCode.TAR_DAMAGED, "empty archive")
            return
        try:
            name, kind, size = _parse(header)
            if "size" in pax and kind in _REGULAR:
                size = _decimal(pax["size"])
            data, end = at + BLOCK, at + BLOCK + size + -size % BLOCK
            if data + size > total:
                raise _Damaged(f"a member of {size} bytes at offset {at} reaches past the end of the archive ({total} bytes): cut off")
            if kind in (b"L", b"K", b"x", b"X", b"g"):
                if size > HEADER_MAX_BYTES:
                    yield Refused(
                        _shown(name), at, ReasonCode.TAR_HEADER_TOO_LARGE, f"a header of {size} bytes; the limit is {HEADER_MAX_BYTES}"
                    )
                    long_name, pax = b"\0", {}  # the member it belongs to has no name that can be trusted
                elif kind == b"L":
                    long_name = os.pread(descriptor, size, data).rstrip(b"\0")
                elif kind in (b"x", b"X"):
                    pax = _records(os.pread(descriptor, size, data))
                at = end
                continue
        except _Damaged as damage:
            yield Refused("", at, ReasonCode.TAR_DAMAGED, str(damage))
            return
        full = pax.get("path", long_name if long_name is not None else name)
        sparse = any(key.startswith("GNU.sparse") for key in pax)
        long_name, pax = None, {}
        found = _judged(full, kind, at, size, sparse=sparse)
        if found is not None:
            yield found
        at = end


def _judged(name: bytes, kind: bytes, at: int, size: int, *, sparse: bool) -> Member | Refused | None:
    if kind == b"5" or (kind in _REGULAR and name.endswith(b"/")):
        return None if _name_fault(name) is None else Refused(_shown(name), at, ReasonCode.NAME_REFUSED, _name_fault(name) or "")
    if kind in _LINKS:
        return Refused(_shown(name), at, ReasonCode.TAR_LINK, "hard link" if kind == b"1" else "symbolic link")
    if kind not in _REGULAR or sparse:
        what = "sparse file" if sparse else _TYPES.get(kind, f"type {kind!r}")
        return Refused(_shown(name), at, ReasonCode.TAR_SPECIAL, what)
    fault = _name_fault(name)
    if fault is not None:
        return Refused(_shown(name), at, ReasonCode.NAME_REFUSED, fault)
    text = name.decode()
    return Member(text[2:] if text.startswith("./") else text, at + BLOCK, size)


def _name_fault(name: bytes) -> str | None:
    """Why a name is refused. Names become keys, which people and other programs may use as paths one day."""
    if not name.strip(b"./"):
        return None if name in (b".", b"./") else "empty name"
    if len(name) > NAME_MAX_BYTES:
        return f"a name of {len(name)} bytes; the limit is {NAME_MAX_BYTES}"
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return "the name is not UTF-8"
    if text.startswith("/") or "\\" in text or text[1:2] == ":":
        return "an absolute path, a drive or a backslash"
    if ".." in text.split("/"):
        return "the name leads out of the archive"
    if "://" in text or text.lower().startswith("pipe:"):
        return "a command or an address"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text):
        return "control or formatting characters in the name"
    return None


def _shown(name: bytes) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:120].decode("utf-8", "replace"))


def _parse(header: bytes) -> tuple[bytes, bytes, int]:
    """Name, type and size of a header block."""
    if len(header) < BLOCK:
        raise _Damaged(f"the archive ends inside a header ({len(header)} of {BLOCK} bytes)")
    try:
        wanted = int(header[148:156].strip(b" \0") or b"-1", 8)
    except ValueError:
        wanted = -1
    if wanted != sum(header) - sum(header[148:156]) + 8 * 32:
        raise _Damaged("a header's checksum is wrong: damaged, or no tar")
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return name, header[156:157], _size(header[124:136])


def _size(field: bytes) -> int:
    if field[0] & 0x80:  # GNU base-256; a set sign bit would be a negative size
        value = int.from_bytes(field, "big") & ~(1 << 95)
        if field[0] != 0x80 or value >> 62:
            raise _Damaged("a header's size is negative or absurd")
        return value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not all(48 <= d < 56 for d in digits):
        raise _Damaged("a header's size is no octal number")
    return int(digits, 8)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise _Damaged("a pax header's size is no number")
    return int(text)


def _records(data: bytes) -> dict[str, bytes]:
    """``<length> <key>=<value>\\n`` records of a pax header. Only ``path``, ``size`` and GNU.sparse keys are looked at."""
    records, at = {}, 0
    while at < len(data) and data[at : at + 1] != b"\0":
        space = data.find(b" ", at, at + 8)
        if space < 0 or not data[at:space].isdigit():
            raise _Damaged("a pax header is malformed")
        end = at + int(data[at:space])
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n":
            raise _Damaged("a pax record's length is wrong")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise _Damaged("a pax record without a value")
        records[key.decode("utf-8", "replace")] = value
        at = end
    return records
