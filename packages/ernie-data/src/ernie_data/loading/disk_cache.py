"""The cache `disk`: one file per tensor in a folder that several processes, ranks and runs may share.

A file holds its key, the tensor's type and shape, and the sha256 of its bytes; what does not match is not used, and is written anew. Files appear
whole (``ernie_core.io``) under names that are hashes, so two writers of one key write the same thing. Nothing is thrown out when the folder is full: with
weighted draws what was asked for first is asked for again, and a cache that evicts in the order of an epoch would never hit.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ernie_core import io
from ernie_core.api import ConfigError, PureContext, StorageError
from ernie_data.loading.entries import DiskCacheConfig

MAGIC = b"ernie-tensor-1\n"
_HEADER_BYTES = 4096
_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
_COUNT_AGAIN_BYTES = 1 << 30
"""After writing so much the folder's size is taken again, for what other processes added."""


def build(config: DiskCacheConfig, context: PureContext) -> DiskCache:
    return DiskCache(Path(config.path), limit_bytes=int(config.max_gib * 2**30))


class DiskCache:
    """
    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = io.make_folder(folder), limit_bytes
        self.used_bytes = self._size()
        self._since_count = 0
        self._writes = True
        self._lock = threading.Lock()  # two threads of one process would share a temporary name

    def get(self, key: str) -> Tensor | None:
        """The tensor, or None: unknown or damaged. Damage is never an error: the value is computed again."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        return decode_tensor(data, key)

    def put(self, key: str, value: Tensor) -> None:
        """Keep a tensor of a floating type. A full disk costs nothing but the cache: a warning, and no more is written.

        Raises:
            ConfigError: another type.
        """
        data = encode_tensor(key, value)
        with self._lock:
            if not self._writes or self.used_bytes + len(data) > self.limit_bytes:
                return
            path = self._path(key)
            try:
                io.make_folder(path.parent)
                io.write_bytes(path, data, durable=False)  # what is lost is computed again
            except StorageError as error:
                self._writes = False
                warnings.warn(f"the cache takes nothing more in this run: {error}", RuntimeWarning, stacklevel=2)
                return
            self.used_bytes += len(data)
            self._since_count += len(data)
            if self._since_count > _COUNT_AGAIN_BYTES:
                self.used_bytes, self._since_count = self._size(), 0

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _size(self) -> int:
        total = 0
        for place, _, names in os.walk(self.folder):
            for name in names:
                try:
                    total += os.stat(os.path.join(place, name)).st_size
                except FileNotFoundError:
                    continue  # another process has just renamed it
        return total


def encode_tensor(key: str, value: Tensor) -> bytes:
    """
    Raises:
        ConfigError: not a floating type.
    """
    name = str(value.dtype).removeprefix("torch.")
    if name not in _TYPES:
        raise ConfigError(f"the cache keeps tensors of {', '.join(_TYPES)}, found {name}")
    payload = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    facts = {"key": key, "type": name, "shape": list(value.shape)}
    facts["sha256"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode() + payload).hexdigest()
    return MAGIC + json.dumps(facts, sort_keys=True).encode() + b"\n" + payload


def decode_tensor(data: bytes, key: str) -> Tensor | None:
    """None unless every byte is what ``encode_tensor`` made for the key."""
    end = data.find(b"\n", len(MAGIC), _HEADER_BYTES)
    if not data.startswith(MAGIC) or end < 0:
        return None
    try:
        facts = json.loads(data[len(MAGIC) : end])
        expected = facts.pop("sha256")
        payload = memoryview(data)[end + 1 :]
        sums = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        sums.update(payload)
        if sums.hexdigest() != expected or facts["key"] != key:
            return None
        array = np.frombuffer(payload, np.uint8).copy()
        return torch.from_numpy(array).view(_TYPES[facts["type"]]).reshape(facts["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None
