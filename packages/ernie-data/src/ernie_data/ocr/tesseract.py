"""Tesseract as a program: what of it is installed, and what it reads in one prepared picture. No shell, one thread, and never longer than it is given."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from ernie_core.api import MissingComponent
from ernie_data.ocr.lines import Word

PROGRAM = "tesseract"
PACKAGES = {"eng": "tesseract-ocr-eng", "chi_sim": "tesseract-ocr-chi-sim"}
"""Debian packages of languages whose names follow no rule; of the others: tesseract-ocr-<name with dashes>."""
_ASK_TIMEOUT_S = 10.0
_FOLDER = re.compile(r'"(.+)"')
_WORD_LEVEL, _COLUMNS = "5", 12


class TesseractFailed(Exception):
    """Tesseract did not read a picture: it took too long, or ended with an error. ``reason`` is "timeout" or "failed"."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True)
class Tesseract:
    """An installation. ``languages``: each with the sha256 of its data, which decides what is read as much as the version does."""

    program: str
    version: str
    data_folder: str
    languages: Mapping[str, str]

    @property
    def code(self) -> str:
        """All that shapes what is read."""
        return " ".join([PROGRAM, self.version, *(f"{name}:{digest[:16]}" for name, digest in self.languages.items())])

    def read(self, png: bytes, *, language: str, page_mode: int, timeout_s: float) -> list[Word]:
        """The words of a picture, in Tesseract's order, boxes in its pixels.

        Args:
            language: one of ``languages``, or several joined by "+".
            page_mode: Tesseract's page segmentation mode: 3 automatic, 6 one block of text, 7 one line, 11 sparse text.

        Raises:
            TesseractFailed: see there.
        """
        command = [self.program, "stdin", "stdout", "--tessdata-dir", self.data_folder, "-l", language, "--psm", str(page_mode)]
        try:
            done = subprocess.run([*command, "--dpi", "150", "tsv"], input=png, capture_output=True, timeout=timeout_s, env=_environment())
        except subprocess.TimeoutExpired:
            raise TesseractFailed("timeout", f"Tesseract took longer than {timeout_s:.3g} s") from None
        except OSError as error:
            raise TesseractFailed("failed", f"{self.program} cannot be started ({error.strerror})") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise TesseractFailed("failed", f"Tesseract ended with {done.returncode}: {said[-1] if said else 'no message'}")
        return parse_tsv(done.stdout.decode("utf-8", errors="replace"))


def parse_tsv(table: str) -> list[Word]:
    """The words in Tesseract's TSV output: level, page, block, paragraph, line, word, left, top, width, height, confidence in percent, text."""
    words = []
    for row in table.split("\n")[1:]:  # a text may hold other characters that end lines
        cells = row.split("\t")
        if len(cells) != _COLUMNS or cells[0] != _WORD_LEVEL or not (text := cells[11].strip()):
            continue
        left, top, width, height = (int(cell) for cell in cells[6:10])
        confidence = min(max(float(cells[10]) / 100, 0.0), 1.0)
        words.append(Word(text, confidence, (left, top, left + width, top + height), tuple(int(cell) for cell in cells[1:5])))
    return words


def find_tesseract(languages: Sequence[str], *, program: str = PROGRAM) -> Tesseract:
    """The installed Tesseract with the data of these languages.

    Raises:
        MissingComponent: the program or a language is not there, naming the Debian package.
    """
    path = shutil.which(program)
    if path is None:
        needed = " ".join(["tesseract-ocr", *map(package_of, languages)])
        raise MissingComponent(f"OCR needs the program `{program}`, which is not installed: apt install {needed}")
    version, folder, installed = _ask(path)
    if missing := [name for name in languages if name not in installed]:
        raise MissingComponent(
            f"{path} has no data for {', '.join(missing)}, it has {', '.join(installed) or 'none'}: apt install {' '.join(map(package_of, missing))}"
        )
    return Tesseract(path, version, folder, {name: _sha256(Path(folder) / f"{name}.traineddata") for name in languages})


def package_of(language: str) -> str:
    """The Debian package with a language's data."""
    return PACKAGES.get(language, "tesseract-ocr-" + language.replace("_", "-"))


@lru_cache(maxsize=8)
def _ask(path: str) -> tuple[str, str, tuple[str, ...]]:
    """Version, folder of language data, languages."""
    version = _said(path, "--version").splitlines()
    listed = _said(path, "--list-langs").splitlines()
    folder = _FOLDER.search(listed[0]) if listed else None
    if not version or folder is None:
        said = listed[0] if listed else "nothing"
        raise MissingComponent(f"{path} does not say where its language data are (it said {said:.80}); Tesseract 5 or later is needed")
    return version[0].partition(" ")[2].strip(), folder[1], tuple(line.strip() for line in listed[1:] if line.strip())


def _said(path: str, question: str) -> str:
    try:
        done = subprocess.run([path, question], capture_output=True, timeout=_ASK_TIMEOUT_S, env=_environment())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingComponent(f"{path} {question} failed ({error}); reinstall it: apt install --reinstall tesseract-ocr") from None
    return (done.stdout or done.stderr).decode(errors="replace")


@lru_cache(maxsize=64)
def _sha256(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MissingComponent(f"{path}: cannot be read ({error.strerror}); reinstall the language's Debian package") from None


def _environment() -> dict[str, str]:
    """One thread: units already run side by side."""
    return {**os.environ, "OMP_THREAD_LIMIT": "1"}
