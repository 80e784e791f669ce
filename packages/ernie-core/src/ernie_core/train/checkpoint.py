"""Checkpoints: a folder of safetensors and JSON with a hashed manifest, made visible whole or not at all. No pickle.

``RUN/checkpoints/step-%08d/{<network>.safetensors, ema.<network>.safetensors, optimizer.<network>.safetensors, state.json, manifest.json}`` and
``RUN/latest``, a text file naming the newest one, moved only after that one was verified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_core import io
from ernie_core.errors import RunFolderError, StorageError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

LATEST = "latest"
FOLDER = "checkpoints"
STATE = "state.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint. ``notes`` say which damaged ones were passed over to reach it."""

    directory: Path
    state: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        return int(self.state["train"]["step"])

    def weights(self, network: str, *, raw: bool = False) -> dict[str, Tensor]:
        """Float32 weights by state-dict key: the EMA where there is one, unless ``raw``."""
        averaged = f"ema.{network}.safetensors"
        if not raw and (self.directory / averaged).is_file():
            return self.tensors(averaged)
        return self.tensors(f"{network}.safetensors")

    def tensors(self, name: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.directory / name
        if not path.is_file():
            held = ", ".join(sorted(p.name for p in self.directory.glob("*.safetensors")))
            raise WeightsError(f"{path}: no such file in this checkpoint; it holds {held or 'no weights'}")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(f"{path}: not a safetensors file, although its sums match the manifest ({error})") from error


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def save_checkpoint(
    run: Path,
    *,
    state: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    facts: Mapping[str, Any],
    keep: int,
    spare_steps: Collection[int] = (),
) -> Path:
    """Write, verify, point ``latest`` at it, then remove old ones beyond ``keep``.

    Args:
        state: JSON values; ``state["train"]["step"]`` names the folder.
        tensors: file name to tensors.
        facts: what else the manifest records, such as the plugin set and versions.
        keep: how many verified checkpoints stay, at least 2.
        spare_steps: checkpoints of these steps stay as well.

    Raises:
        StorageError: the disk refused; the checkpoint that ``latest`` names is untouched.
    """
    from safetensors.torch import save_file

    step = int(state["train"]["step"])
    target = run / FOLDER / name_of(step)
    if target.exists():
        if io.verify_folder(target) is None:
            _point_latest(run, target)
            return target
        io.remove_folder(target)  # damaged: its step is being computed again
    needed = sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())
    with io.commit_folder(target, needed_bytes=needed, facts=facts) as writer:
        for name, group in tensors.items():
            writer.add_file(name, lambda path, group=dict(group): save_file(group, path))  # durable: staged, made so by commit_folder
        writer.add_json(STATE, {"format": FORMAT, **state})
    problem = io.verify_folder(target)
    if problem is not None:
        raise StorageError(f"the checkpoint just written cannot be read back: {problem}. `latest` still names the one before.")
    _point_latest(run, target)
    spared = {name_of(step) for step in spare_steps}
    for old in _all(run)[:-keep]:
        if old != target and old.name not in spared:
            io.remove_folder(old)
    return target


def _point_latest(run: Path, target: Path) -> None:
    io.write_text(run / LATEST, target.name + "\n")


def remove_after(run: Path, step: int) -> None:
    """Remove checkpoints newer than the one a run goes on from: they are damaged or were never verified, and their steps are computed again."""
    for folder in _all(run):
        if folder.name > name_of(step):
            io.remove_folder(folder)


def open_checkpoint(path: str | Path, *, step: int | None = None) -> Checkpoint:
    """Open a run's newest valid checkpoint, or one checkpoint folder, with every file verified against the manifest.

    Args:
        path: a run folder, or one checkpoint folder.
        step: of a run folder, the checkpoint of this step and no other.

    A damaged newest checkpoint of a *run* is passed over for the one before, and ``notes`` say so; a damaged folder named directly is an error.

    Raises:
        RunFolderError: there is none, or none is whole.
    """
    root = Path(path) if step is None else Path(path) / FOLDER / name_of(step)
    if (root / STATE).is_file() or (root / io.MANIFEST).is_file():
        problem = io.verify_folder(root) or _unreadable(root)
        if problem is not None:
            raise RunFolderError(f"{problem}. Use another checkpoint of the same run.")
        return Checkpoint(root, _state(root))
    candidates = list(reversed(_all(root)))
    if not candidates:
        raise RunFolderError(f"{root}: holds no checkpoint; expected a run folder, a checkpoint folder or a diffusers pipeline folder")
    notes = []
    pointer = _latest_name(root)
    for candidate in candidates:
        if pointer is not None and candidate.name > pointer and (root / FOLDER / pointer).exists():
            continue  # written but never verified and pointed to
        problem = io.verify_folder(candidate) or _unreadable(candidate)
        if problem is None:
            return Checkpoint(candidate, _state(candidate), tuple(notes))
        notes.append(f"{problem}; the checkpoint before it is used")
    raise RunFolderError(f"{root}: no checkpoint is whole. " + " ".join(notes))


def has_checkpoints(run: Path) -> bool:
    return bool(_all(run))


def is_own_checkpoint(path: str | Path) -> bool:
    """Whether a folder is a run or a checkpoint of ours; else it is a diffusers pipeline, a transformer folder or nothing."""
    root = Path(path)
    foreign = any((root / name).is_file() for name in ("model_index.json", "config.json"))
    return not foreign and any((root / name).exists() for name in (STATE, LATEST, FOLDER))


def glance_at_state(path: str | Path) -> dict[str, Any] | None:
    """The state in the checkpoint that ``open_checkpoint`` is most likely to open, with no file verified; None if none is readable. For early checks."""
    root = Path(path)
    newest = sorted(_all(root), key=lambda folder: folder.name == _latest_name(root))
    for folder in [root] if (root / STATE).is_file() else reversed(newest):
        if _unreadable(folder) is None:
            return _state(folder)
    return None


def _latest_name(run: Path) -> str | None:
    try:
        name = (run / LATEST).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return name if _NAME.fullmatch(name) else None


def _all(run: Path) -> list[Path]:
    folder = run / FOLDER
    return sorted(p for p in folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name)) if folder.is_dir() else []


def _state(folder: Path) -> dict[str, Any]:
    return json.loads((folder / STATE).read_bytes())


def _unreadable(folder: Path) -> str | None:
    try:
        found = _state(folder).get("format")
    except (OSError, ValueError, AttributeError) as error:
        return f"{folder / STATE}: unreadable ({error})"
    return None if found == FORMAT else f"{folder / STATE}: format {found}, this ernie-core reads {FORMAT}"
