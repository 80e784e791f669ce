"""T1: hostile and damaged tars are listed without writing, running or following anything; harmless ones of every dialect are read whole."""

import io
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import DataError
from ernie_data.reasons import ReasonCode
from ernie_data.recipe import TarInput
from ernie_data.sources.listing import list_sources
from ernie_data.sources.place import read_place
from ernie_data.sources.tarread import HEADER_MAX_BYTES, Member, Refused, read_members


def png(level: int = 100) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


PNG = png()


def entry(name: str, data: bytes = PNG, **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*entries, form=tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()


def raw_header(
    name: bytes, *, size: bytes = b"00000000000\0", kind: bytes = b"0", link: bytes = b"", magic: bytes = b"ustar\x0000"
) -> bytes:
    fields = name.ljust(100, b"\0")[:100] + b"0000644\0" + b"0000000\0" * 2 + size + b"0" * 11 + b"\0" + b" " * 8 + kind
    fields = (fields + link.ljust(100, b"\0") + magic).ljust(512, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]


def member(name: bytes, data: bytes = PNG, **fields) -> bytes:
    return raw_header(name, size=b"%011o\0" % len(data), **fields) + data + bytes(-len(data) % 512)


def pax(*records: bytes) -> bytes:
    return member(b"pax", b"".join(records), kind=b"x")


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


END = bytes(1024)
GOOD = member(b"good.png")
NAMES = {
    "parent": b"../evil.png",
    "parent inside": b"a/../../evil.png",
    "parent at the end": b"a/..",
    "absolute": b"/etc/evil.png",
    "double slash": b"//host/evil.png",
    "backslash": b"..\\evil.png",
    "drive": b"C:evil.png",
    "drive with slash": b"c:/evil.png",
    "pipe": b"pipe:touch evil.png",
    "pipe in capitals": b"PIPE:touch evil.png",
    "address": b"http://host/evil.png",
    "file address": b"file:///etc/evil.png",
    "newline": b"a\nb.png",
    "escape": b"\x1b[2Ja.png",
    "bell": b"\x07.png",
    "delete": b"a\x7f.png",
    "not UTF-8": b"\xff\xfe.png",
    "overlong slash": b"..\xc0\xafevil.png",
    "surrogate": b"\xed\xa0\x80.png",
    "right to left": "a\u202egnp.exe.png".encode(),
    "zero width": "a\u200b.png".encode(),
    "line separator": "a\u2028b.png".encode(),
    "empty": b"",
    "dots": b"...",
    "only slashes": b"./././",
    "only two dots": b"..",
}
KINDS = {
    "hard link": (b"1", ReasonCode.TAR_LINK),
    "symbolic link": (b"2", ReasonCode.TAR_LINK),
    "character device": (b"3", ReasonCode.TAR_SPECIAL),
    "block device": (b"4", ReasonCode.TAR_SPECIAL),
    "fifo": (b"6", ReasonCode.TAR_SPECIAL),
    "contiguous": (b"7", ReasonCode.TAR_SPECIAL),
    "sparse": (b"S", ReasonCode.TAR_SPECIAL),
    "dump": (b"D", ReasonCode.TAR_SPECIAL),
    "volume": (b"V", ReasonCode.TAR_SPECIAL),
    "multi-volume": (b"M", ReasonCode.TAR_SPECIAL),
    "unknown": (b"\x9a", ReasonCode.TAR_SPECIAL),
}
DAMAGED = {
    "cut in a header": GOOD[:300],
    "cut in the data": GOOD[: 512 + len(PNG) // 2],
    "cut after a good one": GOOD + GOOD[:100],
    "random bytes": bytes(range(256)) * 8,
    "text": b"hello " * 200,
    "an empty file": b"",
    "zeros only": bytes(10240),
    "checksum": GOOD[:148] + b"000000\0 " + GOOD[156:],
    "no checksum": GOOD[:148] + b"        " + GOOD[156:],
    "size with letters": raw_header(b"a.png", size=b"0000000zzzz\0") + END,
    "size past the end": raw_header(b"a.png", size=b"77777777777\0") + END,
    "negative size": raw_header(b"a.png", size=b"\xff" * 12) + END,
    "size of 2^90": raw_header(b"a.png", size=b"\x80\x04" + bytes(10)) + END,
    "size of 2^62": raw_header(b"a.png", size=b"\x80\0\0\0\x40" + bytes(7)) + END,
    "pax size past the end": pax(record(b"size", b"999999999999")) + GOOD + END,
    "pax size that is no number": pax(record(b"size", b"-5")) + GOOD + END,
    "pax size of many digits": pax(record(b"size", b"9" * 4000)) + GOOD + END,
    "pax without length": pax(b"path=a\n") + GOOD + END,
    "pax with a length of 0": pax(b"0 path=a\n") + GOOD + END,
    "pax with a huge length": pax(b"9999999 path=a\n") + GOOD + END,
    "pax without equals": pax(b"7 path\n") + GOOD + END,
    "pax without newline": pax(b"8 path=a") + GOOD + END,
}
HEADERS = {
    "pax of 2 MiB": pax(record(b"comment", b"x" * (2 << 20))),
    "GNU name of 2 MiB": member(b"././@LongLink", b"a" * (2 << 20), kind=b"L"),
    "GNU link name of 2 MiB": member(b"././@LongLink", b"a" * (2 << 20), kind=b"K"),
}


def cases() -> dict[str, tuple[bytes, ReasonCode]]:
    found = {f"name: {what}": (member(name) + GOOD + END, ReasonCode.NAME_REFUSED) for what, name in NAMES.items()}
    found |= {
        f"long name: {what}": (member(b"@", name, kind=b"L") + member(b"a.png") + GOOD + END, ReasonCode.NAME_REFUSED)
        for what, name in NAMES.items()
    }
    found |= {
        f"pax name: {what}": (pax(record(b"path", name)) + member(b"a.png") + GOOD + END, ReasonCode.NAME_REFUSED)
        for what, name in NAMES.items()
    }
    found |= {
        f"kind: {what}": (raw_header(b"a.png", kind=kind, link=b"/etc/passwd") + GOOD + END, reason)
        for what, (kind, reason) in KINDS.items()
    }
    found |= {f"damaged: {what}": (data, ReasonCode.TAR_DAMAGED) for what, data in DAMAGED.items()}
    found |= {f"header: {what}": (data + member(b"a.png") + GOOD + END, ReasonCode.TAR_HEADER_TOO_LARGE) for what, data in HEADERS.items()}
    found["long name of 60 KiB"] = (member(b"@", b"a" * 60_000, kind=b"L") + GOOD + GOOD + END, ReasonCode.NAME_REFUSED)
    found["pax sparse"] = (pax(record(b"GNU.sparse.major", b"1")) + member(b"a.png") + GOOD + END, ReasonCode.TAR_SPECIAL)
    return found


CASES = cases()


def everything_below(folder: Path) -> dict[str, float]:
    return {str(p): p.lstat().st_mtime_ns for p in folder.rglob("*")}


def test_t1_hostile_tars_write_nothing_and_each_says_why(tmp_path, monkeypatch):
    """More than 60 classes: nothing is written, what is wrong is named, the good member beside it is read where the archive goes on."""
    assert len(CASES) >= 60
    inside = tmp_path / "work" / "deeper"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    for what, (data, reason) in CASES.items():
        path = tmp_path / "hostile.tar"
        path.write_bytes(data)
        before = everything_below(tmp_path)
        started = time.monotonic()
        found = list(read_members(path))
        assert time.monotonic() - started < 5, what
        assert reason in [f.reason for f in found if isinstance(f, Refused)], (what, found)
        for refused in (f for f in found if isinstance(f, Refused)):
            assert refused.name.isprintable(), what
            assert len(refused.name) <= 120, what
        if reason is not ReasonCode.TAR_DAMAGED:
            assert [m.name for m in found if isinstance(m, Member)][-1:] == ["good.png"], (what, found)
        assert everything_below(tmp_path) == before, what
        list_sources([TarInput(path=str(path))])  # refused ones are listed, so it is never empty
        assert everything_below(tmp_path) == before, what


def test_a_header_of_the_largest_size_is_read():
    assert HEADER_MAX_BYTES >= 60_000


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a.png", "folder/a.png", "d/" * 60 + "a.png", "bild-\u00e4\u4e2d.png"])
def test_every_dialect_is_read_as_tarfile_reads_it(tmp_path, form, name):
    path = tmp_path / "a.tar"
    path.write_bytes(tar(entry(name, png(1)), entry("second.png", png(2)), form=form))
    found = list(read_members(path))
    with tarfile.open(path) as archive:
        assert [(m.name, m.offset, m.size) for m in found] == [(m.name, m.offset_data, m.size) for m in archive.getmembers()]


def test_old_v7_headers_and_concatenated_blocks(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(member(b"old.png", kind=b"\0", magic=b"") + raw_header(b"folder/", kind=b"5") + GOOD)  # no end blocks
    assert [m.name for m in read_members(path)] == ["old.png", "good.png"]


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ", b"(\xb5/\xfd", b"PK\x03\x04"])
def test_compressed_archives_are_refused_with_advice(tmp_path, magic):
    (tmp_path / "a.tar").write_bytes(magic + bytes(600))
    with pytest.raises(DataError, match=r"a\.tar: compressed with \w+; expected an uncompressed tar.*Unpack it first"):
        list(read_members(tmp_path / "a.tar"))


def test_a_command_as_a_path_is_only_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"pipe:touch evil: no such file or folder \(source `tar`\)"):
        list_sources([TarInput(path="pipe:touch evil")])
    assert os.listdir(tmp_path) == []


def test_samples_are_grouped_and_each_has_an_outcome(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(
        tar(
            entry("1.png", png(1)),
            entry("1.txt", b"one"),
            entry("1.cls", b"5"),
            entry("1.pkl", b"cos\nsystem\n"),
            entry("2.json", b'{"caption": "two", "captions": {"keywords": "2"}}'),
            entry("2.png", png(2)),
            entry("3.txt", b"no picture"),
            entry("4.png", png(4)),
            entry("4.jpg", png(4)),
            entry("1.png", png(9)),
            entry("5.png", png(5)),
            entry("5.txt", b"\xff"),
            entry("6.png", png(6)),
            entry("6.json", b"[" * 50_000),
        )
    )
    listing = list_sources([TarInput(path=str(path))])
    by_key = {place.key: place for place in listing.places}
    assert {k: (p.captions, p.error) for k, p in by_key.items() if p.error or p.captions} == {
        "tar/a.tar/1": ({"text": "one"}, ""),
        "tar/a.tar/2": ({"text": "two", "keywords": "2"}, ""),
        "tar/a.tar/3": ({}, "no_picture"),
        "tar/a.tar/4": ({}, "several_pictures"),
        f"tar/a.tar/1@{by_key['tar/a.tar/5'].offset - 512 - 512 * -(-len(png(9)) // 512)}": ({}, "duplicate_key"),
    }
    assert "not UTF-8" in by_key["tar/a.tar/5"].caption_error
    assert "too long for a caption" in by_key["tar/a.tar/6"].caption_error or "not valid JSON" in by_key["tar/a.tar/6"].caption_error
    assert listing.ignored == {".cls": 1, ".pkl": 1}
    assert read_place(by_key["tar/a.tar/2"], expected_sha256=None) == png(2)
