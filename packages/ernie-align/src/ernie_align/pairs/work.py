"""The folder beside the output in which a build keeps what it has sampled and scored, so that a kill costs no more than a batch.

``OUT.work/{settings.json, lock, pictures/00000/00000042.png, scores-0.jsonl, ...}``. A scores file begins with the scorer's ``code``; its lines are batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_align.pairs.pictures import decode, png, read_picture_file
from ernie_core import io
from ernie_core.api import DataError, RunFolderError

SETTINGS, PICTURES = "settings.json", "pictures"
_PER_FOLDER = 1000
_MAX_PIXELS = 1 << 28


@dataclass(frozen=True)
class ScoredBatch:
    """Pictures ``first``, first + 1, ...: their scores, and the sha256 of the files that were scored."""

    first: int
    scores: list[float]
    sha256: list[str]


class WorkFolder:
    """Locked by the caller."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, settings: Mapping[str, Any]) -> None:
        """
        Raises:
            RunFolderError: the folder was begun with other settings, or holds something else.
        """
        io.sweep_temporary(self.path)
        file = self.path / SETTINGS
        if not file.exists():
            if foreign := sorted(p.name for p in self.path.iterdir() if p.name != "lock"):
                raise RunFolderError(f"{self.path}: holds {', '.join(foreign[:3])} but no {SETTINGS}; choose another --out")
            io.write_json(file, dict(settings))
            return
        try:
            found = json.loads(file.read_bytes())
        except ValueError as error:
            raise RunFolderError(f"{file}: not the settings of a build ({error}); remove {self.path}, or choose another --out") from None
        if changed := differing(found, settings):
            raise RunFolderError(
                f"{self.path}: was begun with other settings: {'; '.join(changed)}. Give the old ones to go on, remove the folder, or choose another --out."
            )

    def picture(self, number: int) -> Path:
        return self.path / PICTURES / f"{number // _PER_FOLDER:05d}" / f"{number:08d}.png"

    def write_picture(self, number: int, pixels_HW3: NDArray[np.uint8]) -> None:
        file = self.picture(number)
        if not file.parent.is_dir():
            io.make_folder(file.parent)
        io.write_bytes(file, png(pixels_HW3))

    def read_picture(self, number: int) -> tuple[bytes, NDArray[np.uint8]]:
        """
        Raises:
            DataError: it is damaged.
        """
        file = self.picture(number)
        data = read_picture_file(file, str(file))
        try:
            return data, decode(data, str(file), max_pixels=_MAX_PIXELS)
        except DataError as error:
            raise DataError(f"{error}. Remove this file and run the same command again: it will be sampled again.") from error

    def scores(self, scorer: int, *, code: str) -> list[ScoredBatch]:
        """The batches that were scored, from the first on; an unreadable line ends them, and what follows is scored again.

        Raises:
            RunFolderError: by another version of the scorer.
        """
        file = self._scores_file(scorer)
        if not file.exists():
            io.append_line(file, json.dumps({"code": code}), durable=True)
            return []
        lines = io.read_lines(file)
        if not lines:  # torn
            io.write_text(file, json.dumps({"code": code}) + "\n")
            return []
        found = _json(lines[0]).get("code")
        if found != code:
            raise RunFolderError(
                f"{file}: was scored by {found}, installed is {code}. Install the old version to go on, or remove this file to score all pictures again."
            )
        batches: list[ScoredBatch] = []
        for line in lines[1:]:
            plain = _json(line)
            expected = batches[-1].first + len(batches[-1].scores) if batches else 0
            try:
                batch = ScoredBatch(plain["first"], [float(s) for s in plain["scores"]], [str(s) for s in plain["sha256"]])
            except (KeyError, TypeError, ValueError):
                break
            if batch.first != expected or len(batch.scores) != len(batch.sha256) or not np.isfinite(batch.scores).all():
                break
            batches.append(batch)
        if len(batches) < len(lines) - 1:
            io.write_text(file, "".join(line + "\n" for line in lines[: 1 + len(batches)]))
        return batches

    def add_scores(self, scorer: int, batch: ScoredBatch) -> None:
        line = json.dumps({"first": batch.first, "scores": batch.scores, "sha256": batch.sha256})
        io.append_line(self._scores_file(scorer), line, durable=True)

    def _scores_file(self, scorer: int) -> Path:
        return self.path / f"scores-{scorer}.jsonl"


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def differing(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Each setting that differs, as "steps: was 50, now 20"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names: Sequence[str] = sorted({*old, *new})
        return [line for name in names for line in differing(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else str(name))]
    return [] if old == new else [f"{prefix}: was {json.dumps(old)}, now {json.dumps(new)}"]


def _json(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
