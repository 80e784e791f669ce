"""Named tensors in one safetensors file or in shards with an index. Every failure says which file and why; pickles are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ernie_core.errors import WeightsError


class TensorSource(Protocol):
    where: str

    def shapes(self) -> dict[str, tuple[int, ...]]: ...

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU, in its stored dtype."""
        ...


class TensorFiles:
    """Tensors by name over one or several safetensors files. Values are read only when asked for."""

    def __init__(self, files: dict[str, Path], *, where: str) -> None:
        self.files, self.where = files, where

    @classmethod
    def open(cls, folder: Path, stem: str) -> TensorFiles:
        """``STEM.safetensors`` or ``STEM.safetensors.index.json`` with its shards; headers are read and checked here.

        Raises:
            WeightsError: nothing there, only pickles, a missing or damaged shard, or an index that does not fit its shards.
        """
        index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
        if index.is_file():
            return cls(_sharded(index), where=str(index))
        if single.is_file():
            return cls(dict.fromkeys(_names(single), single), where=str(single))
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickles:
            raise WeightsError(
                f"{folder}: found only {', '.join(pickles)}; pickles can run code and are never read. Convert the file to {single.name} first."
            )
        raise WeightsError(f"{folder}: {single.name} is missing")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for path in dict.fromkeys(self.files.values()):
            with safe_open(path, framework="pt") as file:
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name, home in self.files.items() if home == path})
        return shapes

    def read(self, name: str) -> Tensor:
        with safe_open(self.files[name], framework="pt") as file:
            return file.get_tensor(name)


def _sharded(index: Path) -> dict[str, Path]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): index.parent / str(shard) for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: not a safetensors index: {error!r}") from error
    for shard in dict.fromkeys(files.values()):
        if shard.parent != index.parent:
            raise WeightsError(f"{index}: the shard {shard} lies outside the folder")
        if not shard.is_file():
            raise WeightsError(f"{shard}: the shard is missing (named in {index.name})")
        held = set(_names(shard))
        lost = [name for name, file in files.items() if file == shard and name not in held]
        if lost:
            raise WeightsError(f"{shard}: {index.name} promises {lost[0]} here ({len(lost)} such tensors), but the file does not hold it")
    return files


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a complete safetensors file ({path.stat().st_size} bytes): {error}. Fetch it again.") from error
