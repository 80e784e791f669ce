"""The reference's errors on disk: made once for a run, read instead of a second network.

A folder holds ``errors.safetensors`` (one row per pair, draw and size), ``identity.json`` (all that decides about the numbers beside the pairs themselves) and a
manifest with hashes. A pair's own content is kept with its row. Whatever differs is refused: an error of another reference, codec, encoder, picture or noise
would shift every margin without a sign of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ernie_align.pair_batch import PairBatch, PairKey
from ernie_core import io
from ernie_core.api import ConfigError, DataError

ERRORS, IDENTITY = "errors.safetensors", "identity.json"
FORMAT = 1
Errors = dict[tuple[int, int, tuple[int, int]], tuple[bytes, float, float]]
"""(pair, draw, size) -> content of the pair, error on the chosen and on the rejected picture."""


class ErrorCache:
    def __init__(self, folder: Path, errors: Errors) -> None:
        self.folder, self._errors = folder, errors

    @classmethod
    def open(cls, path: str | Path, identity: Mapping[str, Any]) -> ErrorCache:
        """
        Raises:
            ConfigError: no such folder, a damaged one, or one that was made for another reference.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise ConfigError(
                f"reference.cache = {folder}: no such folder; write it with `ernie align cache-reference CONFIG --out {folder}`"
            )
        if problem := io.verify_folder(folder):
            raise ConfigError(f"reference.cache: {problem}. Write it anew with `ernie align cache-reference`.")
        if not (folder / IDENTITY).is_file():
            raise ConfigError(
                f"reference.cache = {folder}: holds no {IDENTITY}; expected a folder that `ernie align cache-reference` wrote"
            )
        stored = json.loads((folder / IDENTITY).read_bytes())
        here = json.loads(json.dumps({"format": FORMAT, **identity}))
        if differing := [name for name in sorted({*stored, *here}) if stored.get(name) != here.get(name)]:
            lines = "".join(f"\n  {name}: cached {json.dumps(stored.get(name))}, here {json.dumps(here.get(name))}" for name in differing)
            raise ConfigError(
                f"reference.cache = {folder}: was made for another run:{lines}\nWrite it anew with `ernie align cache-reference`."
            )
        columns = load_file(folder / ERRORS)
        rows = zip(*(columns[name].tolist() for name in ("pair_id", "draw", "width", "height", "content", "win", "lose")), strict=True)
        return cls(
            folder, {(pair, draw, (width, height)): (bytes(content), win, lose) for pair, draw, width, height, content, win, lose in rows}
        )

    def __len__(self) -> int:
        return len(self._errors)

    def errors(self, keys: Sequence[PairKey], device: torch.device) -> tuple[Tensor, Tensor]:
        """win_B and lose_B, float32.

        Raises:
            DataError: a pair or a draw that was not cached, or a pair that is another one now.
        """
        found = [self._one(key) for key in keys]
        win_B, lose_B = torch.tensor(found, dtype=torch.float32, device=device).unbind(1)
        return win_B, lose_B

    def _one(self, key: PairKey) -> tuple[float, float]:
        what = f"{self.folder}: pair {key.pair_id} at {key.size_px[0]} x {key.size_px[1]} pixels"
        row = self._errors.get((key.pair_id, key.draw, key.size_px))
        if row is None:
            raise DataError(
                f"{what}: draw {key.draw} was not cached. Was the config made longer, or its batches larger? Write the cache anew."
            )
        if row[0] != key.content:
            raise DataError(f"{what}: its pictures or its prompt are others than when its errors were cached. Write the cache anew.")
        return row[1], row[2]


class ErrorWriter:
    """Collects errors and writes them as one folder."""

    def __init__(self) -> None:
        self._errors: Errors = {}

    def __len__(self) -> int:
        return len(self._errors)

    def add(self, batch: PairBatch, win_B: Tensor, lose_B: Tensor) -> None:
        for key, win, lose in zip(batch.keys, win_B.tolist(), lose_B.tolist(), strict=True):
            self._errors[key.pair_id, key.draw, key.size_px] = (key.content, win, lose)

    def write(self, target: Path, identity: Mapping[str, Any]) -> None:
        """
        Raises:
            StorageError: the folder exists already, or the disk refused.
        """
        places, values = list(self._errors), list(self._errors.values())
        columns = {
            "pair_id": torch.tensor([pair for pair, _, _ in places], dtype=torch.int64),
            "draw": torch.tensor([draw for _, draw, _ in places], dtype=torch.int64),
            "width": torch.tensor([size[0] for _, _, size in places], dtype=torch.int64),
            "height": torch.tensor([size[1] for _, _, size in places], dtype=torch.int64),
            "content": torch.tensor([list(content) for content, _, _ in values], dtype=torch.uint8),
            "win": torch.tensor([win for _, win, _ in values], dtype=torch.float32),
            "lose": torch.tensor([lose for _, _, lose in values], dtype=torch.float32),
        }
        with io.commit_folder(target, needed_bytes=sum(t.numel() * t.element_size() for t in columns.values())) as writer:
            writer.add_file(ERRORS, lambda path: save_file(columns, path))  # durable: staged, made so by commit_folder
            writer.add_json(IDENTITY, {"format": FORMAT, **identity})
