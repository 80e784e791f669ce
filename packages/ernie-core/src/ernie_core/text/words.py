"""Splits a prompt into word-sized pieces by Unicode class, for any script and without a vocabulary. No torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))  # Han blocks of Unicode
SMALLEST_MAX_BYTES = 4  # the longest UTF-8 character


@dataclass(frozen=True)
class Piece:
    """Some bytes of a prompt. ``glued``: it follows another piece without a space between."""

    data: bytes
    glued: bool


def split_words(prompt: str, max_bytes: int) -> tuple[Piece, ...]:
    """Word-sized pieces of a prompt. With their flags they hold all of it, up to Unicode's NFC form: ``join_words`` gives it back.

    A run of letters or of digits is one piece; an ideograph, which is a word or half of one, is a piece of its own, and so is every other sign. Combining
    marks and joiners stay with what they follow. One space between two pieces costs nothing; other white space is a piece.

    Args:
        prompt: any text; "" gives no piece.
        max_bytes: longer runs become several pieces, cut between characters; at least 4.
    """
    runs = list(_runs(unicodedata.normalize("NFC", prompt)))
    pieces: list[Piece] = []
    spaced = False
    for index, run in enumerate(runs):
        if run == " " and 0 < index < len(runs) - 1:
            spaced = True
            continue
        for part in _cut(run, max_bytes):
            pieces.append(Piece(part, glued=bool(pieces) and not spaced))
            spaced = False
    return tuple(pieces)


def join_words(pieces: Iterable[Piece]) -> str:
    """The text that ``split_words`` split."""
    joined = b"".join(piece.data if piece.glued else b" " + piece.data for piece in pieces)
    return joined[1:].decode("utf-8", "surrogatepass")


def _runs(text: str) -> Iterator[str]:
    """Maximal runs of one class; white space is a class."""
    run, run_class = "", ""
    for char in text:
        char_class = _class(char)
        if run and (char_class == "mark" or (char_class == run_class and char_class in ("letter", "digit", "space"))):
            run += char
            continue
        if run:
            yield run
        run, run_class = char, char_class
    if run:
        yield run


def _class(char: str) -> str:
    if char.isspace():
        return "space"
    category = unicodedata.category(char)
    if category[0] == "M" or category == "Cf":
        return "mark"
    if category[0] == "N":
        return "digit"
    if category[0] == "L":
        code = ord(char)
        return "ideograph" if any(first <= code <= last for first, last in IDEOGRAPHS) else "letter"
    return "sign"


def _cut(run: str, max_bytes: int) -> Iterator[bytes]:
    """UTF-8 of a run in parts of at most ``max_bytes``, none ending inside a character. Lone surrogates, which a shell can pass, are kept."""
    part = b""
    for char in run:
        encoded = char.encode("utf-8", "surrogatepass")
        if part and len(part) + len(encoded) > max_bytes:
            yield part
            part = b""
        part += encoded
    yield part
