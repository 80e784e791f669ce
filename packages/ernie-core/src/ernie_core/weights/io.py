"""Finds the tensors of whatever a user names: one safetensors file, a model folder, a diffusers pipeline, or one of our runs or checkpoints.

Only safetensors and JSON are opened. A pickle (.bin, .pt, .ckpt ...) can run code when it is read, so it never is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ernie_core.errors import WeightsError
from ernie_core.model.load import InMemory, read_json
from ernie_core.model.tensor_files import TensorFiles

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class TensorFact:
    """What a file's header says of one tensor."""

    dtype: str  # torch's name, such as "float32"
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


def open_components(path: str | Path, *, raw: bool = False) -> dict[str, TensorFiles | InMemory]:
    """The tensors at ``path`` by component: "transformer", "vae" ... of a pipeline, the trained networks of a checkpoint, "" for a lone file or model folder.

    Args:
        raw: of our checkpoints, the trained weights instead of their moving average.

    Raises:
        WeightsError: nothing readable there; a pickle; a damaged, missing or ambiguous file.
        RunFolderError: a run without a whole checkpoint.
    """
    root = Path(path)
    if root.is_file():
        return {"": _open_file(root)}
    if not root.is_dir():
        raise WeightsError(f"{root}: no such file or folder")
    if (root / "model_index.json").is_file():
        read_json(root / "model_index.json")
        parts = {folder.name: _open_folder(folder) for folder in sorted(root.iterdir()) if folder.is_dir() and _stems(folder)}
        if not parts:
            raise WeightsError(f"{root}: no component of this pipeline has {SUFFIX} files")
        return parts
    if any((root / name).exists() for name in ("state.json", "latest", "checkpoints")):
        return _open_checkpoint(root, raw=raw)
    return {"": _open_folder(root)}


def facts(source: TensorFiles | InMemory) -> dict[str, TensorFact]:
    """Type and shape of every tensor. Files are not read beyond their headers."""
    if isinstance(source, InMemory):
        return {name: TensorFact(_dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in source.tensors.items()}
    found: dict[str, TensorFact] = {}
    for file in dict.fromkeys(source.files.values()):
        with safe_open(file, framework="pt") as opened:
            for name in list(opened.keys()):
                if source.files.get(name) == file:
                    part = opened.get_slice(name)
                    found[name] = TensorFact(_DTYPES.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
    return found


def sha256_tensor(tensor: Tensor) -> str:
    """Hash of a tensor's type, shape and bytes: equal hashes mean equal values, in whatever file and order they are stored."""
    digest = hashlib.sha256(f"{_dtype_name(tensor.dtype)} {list(tensor.shape)}\n".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def sha256_tensors(hashes: Mapping[str, str]) -> str:
    """One hash over the names and ``sha256_tensor`` of many tensors, independent of their order."""
    return hashlib.sha256("".join(f"{name} {value}\n" for name, value in sorted(hashes.items())).encode()).hexdigest()


def _open_file(file: Path) -> TensorFiles:
    if file.suffix in PICKLES:
        raise WeightsError(f"{file}: a pickle can run code and is never read. Convert it to {SUFFIX} first.")
    if file.name.endswith(INDEX_SUFFIX):
        return TensorFiles.open(file.parent, file.name.removesuffix(INDEX_SUFFIX))
    if file.suffix != SUFFIX:
        raise WeightsError(f"{file}: expected a {SUFFIX} file or its {INDEX_SUFFIX}")
    return TensorFiles.open(file.parent, file.name.removesuffix(SUFFIX))


def _open_folder(folder: Path) -> TensorFiles:
    stems = _stems(folder)
    if len(stems) == 1:
        return TensorFiles.open(folder, stems[0])
    if stems:
        raise WeightsError(f"{folder}: holds several sets of weights ({', '.join(stems[:10])}); name one file")
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise WeightsError(
            f"{folder}: found only {', '.join(pickles[:10])}; pickles can run code and are never read. Convert them to {SUFFIX} first."
        )
    raise WeightsError(f"{folder}: no {SUFFIX} file; expected weights, a diffusers pipeline, a run or a checkpoint")


def _stems(folder: Path) -> list[str]:
    """Names of the weight sets of one folder: each index with its shards is one, each other file is one."""
    indices = sorted(p for p in folder.glob(f"*{INDEX_SUFFIX}") if p.is_file())
    sharded = {str(name) for index in indices for name in _shards(index)}
    single = [p.name.removesuffix(SUFFIX) for p in sorted(folder.glob(f"*{SUFFIX}")) if p.name not in sharded]
    return [index.name.removesuffix(INDEX_SUFFIX) for index in indices] + single


def _shards(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    return [str(name) for name in weight_map.values()] if isinstance(weight_map, dict) else []


def _open_checkpoint(root: Path, *, raw: bool) -> dict[str, TensorFiles | InMemory]:
    from ernie_core.train.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(root)
    trained = [name for name, network in checkpoint.state["networks"].items() if network["trained"]]
    return {name: InMemory(checkpoint.weights(name, raw=raw), where=f"{checkpoint.directory} ({name})") for name in trained}


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
