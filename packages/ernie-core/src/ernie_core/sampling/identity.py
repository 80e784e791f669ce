"""Which weights pictures are sampled from, so that those of other weights are never mixed with theirs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ernie_core import io
from ernie_core.errors import WeightsError
from ernie_core.train.checkpoint import open_checkpoint


@dataclass(frozen=True)
class Identity:
    """``directory``: the checkpoint or pipeline folder itself, for a run its newest whole checkpoint. ``sha256`` covers every file of it."""

    directory: str
    kind: str  # "checkpoint" or "diffusers"
    sha256: str
    step: int | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "notes"}

    def __str__(self) -> str:
        return (f"step {self.step}, " if self.step is not None else "") + f"sha256 {self.sha256[:12]}..."


def identify(path: str | Path) -> Identity:
    """Reads every byte: of our checkpoints to verify them, of a diffusers folder to tell it from another.

    Raises:
        WeightsError: no folder.
        RunFolderError: no whole checkpoint.
    """
    root = Path(path)
    if not root.is_dir():
        raise WeightsError(
            f"{root}: expected a run, a checkpoint or a diffusers pipeline folder, found {'a file' if root.exists() else 'nothing'}"
        )
    if (root / "model_index.json").is_file():
        files = sorted(f for f in root.rglob("*") if f.is_file() and not any(part.startswith(".") for part in f.relative_to(root).parts))
        sums = "".join(f"{f.relative_to(root).as_posix()}\0{io.sha256_file(f)}\n" for f in files)
        return Identity(str(root.resolve()), "diffusers", hashlib.sha256(sums.encode()).hexdigest())
    checkpoint = open_checkpoint(root)
    manifest = io.read_manifest(checkpoint.directory)
    return Identity(str(checkpoint.directory.resolve()), "checkpoint", manifest["sha256"], checkpoint.step, checkpoint.notes)
