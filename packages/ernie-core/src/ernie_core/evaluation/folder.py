"""The output folder of an evaluation: settings, pictures, verdicts. Whatever a kill leaves behind, the same command goes on with it.

``OUT/{settings.json, pictures/<id>.png, verdicts.jsonl, metrics.json, best-and-worst.png}``.
"""

from __future__ import annotations

import hashlib
import io as memory
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ernie_core import io
from ernie_core.errors import DataError, RunFolderError
from ernie_core.evaluation.asks import Ask

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTINGS, VERDICTS, METRICS, SHEET, PICTURES = "settings.json", "verdicts.jsonl", "metrics.json", "best-and-worst.png", "pictures"
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Verdict:
    """How one picture was judged. ``state``: "judged", "missing" or "unreadable"; ``sha256`` of the picture's file, empty where there is none."""

    id: str
    prompt: str
    tags: tuple[str, ...]
    cluster: str
    metrics: Mapping[str, float]
    state: str
    sha256: str


class EvalFolder:
    """One evaluation's folder, locked by this process."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.pictures = out / PICTURES

    def begin(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """What an earlier call with the same settings noted as used, or None if nothing was done here.

        Raises:
            RunFolderError: the folder was begun with other settings, or holds something else.
        """
        io.sweep_temporary(self.out)
        io.sweep_temporary(self.pictures)
        path = self.out / SETTINGS
        if not path.exists():
            foreign = sorted(p.name for p in self.out.iterdir() if p.name != "lock")
            if foreign:
                raise RunFolderError(
                    f"{self.out}: holds {', '.join(foreign[:3])} but no {SETTINGS}; choose a new or empty folder for --out"
                )
            return None
        try:
            found = json.loads(path.read_bytes())
            old, used = dict(found["asked"]), dict(found["used"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{path}: not the settings of an evaluation ({type(error).__name__}: {error}); choose another --out"
            ) from None
        if old == dict(asked):
            return used
        if not self.used():
            return None
        changed = differences(old, asked)
        raise RunFolderError(
            f"{self.out}: was begun with other settings. " + "; ".join(changed) + ". Give the old ones to go on, or choose another --out."
        )

    def used(self) -> bool:
        return (self.out / VERDICTS).exists() or (self.pictures.is_dir() and any(self.pictures.iterdir()))

    def note_settings(self, asked: Mapping[str, Any], used: Mapping[str, Any]) -> None:
        io.write_json(self.out / SETTINGS, {"asked": dict(asked), "used": dict(used)})

    def write_picture(self, name: str, pixels_HW3: NDArray[np.uint8]) -> None:
        io.make_folder(self.pictures)
        io.write_bytes(self.pictures / f"{name}.png", png(pixels_HW3))

    def verdicts(self, asks: Sequence[Ask], files: Mapping[str, Path | None], *, batch: int) -> list[Verdict]:
        """The verdicts of earlier calls that still hold: whole batches, in order, up to the first whose picture has changed. The rest is dropped."""
        path = self.out / VERDICTS
        if not path.exists():
            return []
        found = []
        for ask, line in zip(asks, io.read_lines(path)):
            verdict = parse_verdict(line)
            if verdict is None or verdict.id != ask.id or verdict.sha256 != _sum(files[ask.id]):
                break
            found.append(verdict)
        if len(found) < len(asks):
            found = found[: len(found) // batch * batch]
        io.write_text(path, "".join(map(_line, found)))
        return found

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        io.append_line(self.out / VERDICTS, "".join(map(_line, verdicts)).removesuffix("\n"), durable=True)


def find_pictures(folder: Path, asks: Sequence[Ask] | Sequence[Verdict]) -> dict[str, Path | None]:
    """The file of each picture by id, or None.

    Raises:
        DataError: no folder, or several files for one picture.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of pictures, found {'a file' if folder.exists() else 'nothing'}")
    found: dict[str, Path | None] = {}
    for ask in asks:
        files = [f for f in (folder / f"{ask.id}{ending}" for ending in _ENDINGS) if f.is_file()]
        if len(files) > 1:
            raise DataError(f"{folder}: {' and '.join(f.name for f in files)} are both pictures of {ask.id}; keep one")
        found[ask.id] = files[0] if files else None
    return found


def read_picture(file: Path) -> tuple[NDArray[np.uint8] | None, str]:
    """Pixels, or None for what cannot be decoded, and the file's sha256."""
    from PIL import Image

    data = file.read_bytes()
    try:
        with Image.open(memory.BytesIO(data)) as image:
            pixels_HW3 = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow raises for broken files
        pixels_HW3 = None
    return pixels_HW3, hashlib.sha256(data).hexdigest()


def png(pixels_HW3: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = memory.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, "PNG")
    return buffer.getvalue()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each setting that differs, as "steps: was 50, now 20"."""
    lines = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{name}.")
        else:
            lines.append(f"{prefix}{name}: was {_shown(before)}, now {_shown(after)}")
    return lines


def _shown(value: Any) -> str:
    return "the default" if value is None else json.dumps(value, ensure_ascii=False)


def _line(verdict: Verdict) -> str:
    return json.dumps(asdict(verdict), ensure_ascii=False, allow_nan=False) + "\n"


def parse_verdict(line: str) -> Verdict | None:
    """None for a line that is no verdict."""
    try:
        plain = json.loads(line)
        return Verdict(**{**plain, "tags": tuple(plain["tags"])})
    except (ValueError, TypeError, KeyError):
        return None


def _sum(file: Path | None) -> str:
    return io.sha256_file(file) if file is not None else ""
