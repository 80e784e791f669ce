"""Where units' outputs live and how they get there, exactly once.

``OUT/<stage>/<unit name>/`` is committed whole (``ernie_core.io.commit_folder``: temporary name, fsync, rename, fsync of the folder), then one line
goes to ``OUT/manifest.jsonl``. A kill between the two leaves a folder without a line: its name says what it is, so it is verified and adopted.
Workers commit folders; only the driver, which holds the folder's lock, writes lines. When all is done the manifest is sealed: rewritten in the order
of the plan, so that its bytes do not tell who finished first, and folders that no line names are removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ernie_core import io
from ernie_core.api import DataError
from ernie_data.engine.unit import WorkUnit

MANIFEST = "manifest.jsonl"
_UNIT_NAME = re.compile(r"[0-9a-f]{32}")


class Receipt(msgspec.Struct, frozen=True):
    """What a committed unit holds. ``entered`` records came in, ``accepted`` + sum of ``rejected`` (by reason) came out. ``content`` is the hash of
    what later stages read of it: rows and pictures, not the bytes of the files that hold them. A survey has no records.
    """

    unit: str
    content: str
    entered: int
    accepted: int
    rejected: dict[str, int]
    files: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        if self.entered != self.accepted + sum(self.rejected.values()):
            raise ValueError(f"unit {self.unit}: {self.entered} records in, but {self.accepted} + {sum(self.rejected.values())} out")


class Line(msgspec.Struct, frozen=True):
    """One line of the manifest: the unit's four determinants and its receipt."""

    stage: str
    input: str
    config: str
    code: str
    receipt: Receipt

    @property
    def unit(self) -> WorkUnit:
        return WorkUnit(self.stage, self.input, self.config, self.code)


class Store:
    """An output folder. Reading needs no lock; ``record``, ``adopt`` and ``seal`` belong to the one who holds it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.manifest = out / MANIFEST
        self.lines: dict[str, Line] = {}

    def load(self) -> None:
        """Read the manifest. Lines that do not name themselves rightly, or whose folder is gone or of another size, are not taken: that work is
        done again."""
        self.lines = {line.receipt.unit: line for line in read_manifest(self.manifest) if self._present(line)}

    def folder(self, stage: str, unit: str) -> Path:
        return self.out / stage / unit

    def find(self, unit: WorkUnit) -> Receipt | None:
        """The receipt of a unit that is done, adopting a committed folder whose line a kill prevented. A damaged folder is removed."""
        if (line := self.lines.get(unit.name)) is not None:
            return line.receipt
        folder = self.folder(unit.stage, unit.name)
        if not folder.exists():
            return None
        if io.verify_folder(folder) is None:
            receipt = receipt_of(folder)
            self.record(unit, receipt)
            return receipt
        io.remove_folder(folder)
        return None

    def record(self, unit: WorkUnit, receipt: Receipt) -> None:
        """The durable line that ends a unit."""
        if receipt.unit != unit.name:
            raise DataError(f"unit {unit.name} of stage {unit.stage}: the receipt is that of {receipt.unit}")
        line = Line(unit.stage, unit.input, unit.config, unit.code, receipt)
        io.append_line(self.manifest, msgspec.json.encode(line, order="sorted").decode(), durable=True)
        self.lines[unit.name] = line

    def damaged(self) -> list[str]:
        """Verify every byte that the manifest names, also of folders that ``load`` did not take; returns what is wrong."""
        lines = {line.receipt.unit: line for line in read_manifest(self.manifest)}
        return [wrong for _, line in sorted(lines.items()) if (wrong := self._wrong(line)) is not None]

    def drop_damaged(self) -> list[str]:
        """Like ``damaged``, and removes the damaged units, so that they are done again."""
        problems = []
        for line in self._in_order():
            if (wrong := self._wrong(line)) is not None:
                problems.append(wrong)
                io.remove_folder(self.folder(line.stage, line.receipt.unit))
                del self.lines[line.receipt.unit]
        return problems

    def drop(self, units: Sequence[str]) -> None:
        """Remove units by name, so that they are done again.

        Raises:
            DataError: one that the manifest does not name; nothing is removed then.
        """
        for name in units:
            if name not in self.lines:
                raise DataError(f"{self.manifest}: names no unit {name!r}; `ernie data inspect {self.out}` lists them")
        for name in units:
            io.remove_folder(self.folder(self.lines[name].stage, name))
            del self.lines[name]

    def _in_order(self) -> list[Line]:
        return [line for _, line in sorted(self.lines.items())]

    def _wrong(self, line: Line) -> str | None:
        folder = self.folder(line.stage, line.receipt.unit)
        wrong = io.verify_folder(folder)
        if wrong is None and receipt_of(folder) != line.receipt:
            return f"{folder}: is whole, but not what the manifest recorded"
        return wrong

    def seal(self, units: Sequence[WorkUnit]) -> None:
        """Reduce manifest and units' folders to ``units``, in their order; what else lies in the output folder, such as a run's checkpoints, is left
        alone. A kill before, within or after leaves work for the next call only."""
        text = "".join(msgspec.json.encode(self.lines[u.name], order="sorted").decode() + "\n" for u in units)
        if not self.manifest.exists() or self.manifest.read_bytes() != text.encode():
            io.write_text(self.manifest, text)
        self.lines = {u.name: self.lines[u.name] for u in units}
        wanted = {(u.stage, u.name) for u in units}
        for stage in sorted(p for p in self.out.iterdir() if p.is_dir()):
            for folder in sorted(stage.iterdir()):
                if _UNIT_NAME.fullmatch(folder.name) and (folder / io.MANIFEST).is_file() and (stage.name, folder.name) not in wanted:
                    io.remove_folder(folder)
            if not stage.is_symlink() and not any(stage.iterdir()):
                stage.rmdir()

    def sweep(self) -> None:
        """Remove temporary files of killed writers. No worker may be running."""
        for folder in (self.out, *(p for p in self.out.iterdir() if p.is_dir() and not p.is_symlink())):
            io.sweep_temporary(folder)

    def _present(self, line: Line) -> bool:
        folder = self.folder(line.stage, line.receipt.unit)
        try:
            return line.unit.name == line.receipt.unit and all(
                os.stat(folder / name).st_size == fact["bytes"] for name, fact in line.receipt.files.items()
            )
        except OSError:
            return False


def read_manifest(path: Path) -> Iterable[Line]:
    """Whole lines that decode; a torn one is no line."""
    for text in io.read_lines(path) if path.exists() else ():
        try:
            yield msgspec.json.decode(text, type=Line)
        except (msgspec.DecodeError, ValueError):
            continue


def receipt_of(folder: Path) -> Receipt:
    """The receipt of a committed folder that was verified."""
    manifest = io.read_manifest(folder)
    try:
        return msgspec.convert({**manifest["receipt"], "files": manifest["files"]}, Receipt)
    except (KeyError, msgspec.ValidationError) as error:
        raise DataError(f"{folder / io.MANIFEST}: not the manifest of a unit ({error}); remove the folder and build again") from error


def holder(out: Path) -> str | None:
    """Who holds the lock of an output folder; None if nobody does."""
    try:
        with (out / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read(4096).decode(errors="replace").strip() or "an unknown process"
    except FileNotFoundError:
        return None
    return None


def write_json_once(path: Path, value: Any) -> None:
    """Like ``io.write_json``, but leaves equal content alone."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    if not path.exists() or path.read_bytes() != text.encode():
        io.write_text(path, text)
