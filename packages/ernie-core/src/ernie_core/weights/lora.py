"""LoRA files: an adapter written for diffusers or ComfyUI, and files of diffusers, ComfyUI, peft and kohya read into one.

We write ``alpha / rank`` into ``lora_B`` and no alpha, so that every program reads scale 1. Only safetensors: no pickle is ever opened.
"""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ernie_core import io
from ernie_core.adapters.bank import Adapter, AdapterBank, Target, select_targets
from ernie_core.adapters.config import AdapterConfig
from ernie_core.errors import WeightsError
from ernie_core.model.load import read_json
from ernie_core.model.tensor_files import TensorFiles
from ernie_core.weights.io import SUFFIX, open_components
from ernie_core.weights.lora_keys import FORMATS, Format, key_of, listed, parse_keys

ADAPTER_CONFIG = "ernie_adapter_config"  # our entry of the file's header: the config before alpha / rank was written into lora_B
DIFFUSERS_CONFIG = "lora_adapter_metadata"  # diffusers': the fields of peft's LoraConfig, each after "transformer."
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SAME_SCALE = 1e-6  # relative


@dataclass(frozen=True)
class Factors:
    """Of one linear map: its product becomes ``W x + (alpha / rank) B A x``. ``lora_A`` [rank, in], ``lora_B`` [out, rank], as stored."""

    lora_A: Tensor
    lora_B: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.lora_A.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class LoraFile:
    """``factors`` by the name of the linear map; ``format``: "diffusers", "comfyui", "peft" or "kohya"; ``metadata``: the file's header."""

    where: str
    factors: Mapping[str, Factors]
    format: str
    metadata: Mapping[str, str]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Each that occurs, rising."""
        return tuple(sorted({f.rank for f in self.factors.values()}))

    @property
    def alphas(self) -> tuple[float, ...]:
        return tuple(sorted({f.alpha for f in self.factors.values()}))


def save_lora(
    path: str | Path,
    adapter: Adapter,
    *,
    format: Format = "diffusers",
    facts: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an adapter. Its config goes into the header, ``facts`` too.

    Raises:
        WeightsError: the file exists or is no ``.safetensors``, or a factor is not finite.
        StorageError: the disk refused; there is no file then.
    """
    alpha = adapter.config.scale * adapter.config.rank
    factors = {}
    for name in adapter.targets:
        low_rank = adapter.low_rank(name)
        factors[name] = Factors(low_rank.lora_A.weight.detach(), low_rank.lora_B.weight.detach(), alpha)
    config = json.dumps(msgspec.to_builtins(adapter.config), sort_keys=True)
    write_lora(path, factors, format=format, facts={**(facts or {}), ADAPTER_CONFIG: config}, dtype=dtype)


def write_lora(
    path: str | Path, factors: Mapping[str, Factors], *, format: Format, facts: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> None:
    """Like ``save_lora``, of any factors; ranks may differ."""
    target = Path(path)
    if format not in FORMATS:
        raise WeightsError(f"LoRA format {format!r}: expected one of {', '.join(FORMATS)}")
    if target.suffix != SUFFIX:
        raise WeightsError(f"{target}: expected a name ending in {SUFFIX}, which is all that LoRA readers agree on")
    if target.exists():
        raise WeightsError(f"{target}: already exists, and an export never overwrites; choose another file")
    tensors = {}
    for name, pair in factors.items():
        for part, value in (("A", pair.lora_A.float()), ("B", pair.lora_B.float() * pair.scale)):
            stored = value.to(device="cpu", dtype=dtype).contiguous()
            if not bool(torch.isfinite(stored).all()):
                raise WeightsError(f"{name}: lora_{part} times its scale holds NaN or infinite values in {dtype}; nothing was written")
            tensors[key_of(name, part, format=format)] = stored
    header = {**facts, "format": "pt"}
    if format == "diffusers":
        header[DIFFUSERS_CONFIG] = json.dumps(_diffusers_config(factors), sort_keys=True)
    io.make_folder(target.parent)
    io.write_bytes(target, save(tensors, metadata=header))


def read_lora(path: str | Path) -> LoraFile:
    """Read a file, or the only one of a folder. Where it says nothing of a scale, alpha is the rank, as in diffusers and ComfyUI.

    Raises:
        WeightsError: a pickle, a damaged file, keys that mean nothing here, a factor without its partner, shapes that do not fit each other, values that
            are not finite, or a config that contradicts the factors.
    """
    parts = open_components(path)
    source = parts.get("")
    if not isinstance(source, TensorFiles):
        raise WeightsError(f"{path}: expected a LoRA file, found a model, a pipeline or a run")
    if not source.files:
        raise WeightsError(f"{path}: the file holds no tensors")
    where = source.where
    keys = parse_keys(source.files, where=where)
    found: dict[str, dict[str, Tensor]] = {}
    for key, meaning in keys.items():
        pieces = found.setdefault(meaning.name, {})
        if meaning.part in pieces:
            raise WeightsError(f"{where}: {key} is the second {meaning.part} of {meaning.name}")
        pieces[meaning.part] = _finite(source.read(key), key, where)
    lone = [f"{name} lacks lora_{part}" for name, pieces in found.items() for part in "AB" if part not in pieces]
    if lone:
        raise WeightsError(f"{where}: factors come in pairs: {listed(lone)}. The file is incomplete; fetch it again.")
    file = next(iter(source.files.values()))
    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata() or {})
    format_ = next(iter(keys.values())).format
    has_alphas = any("alpha" in pieces for pieces in found.values())
    config = None if has_alphas else _stored_config(file, format_, metadata, where)
    factors = {name: _pair(name, pieces, config, where) for name, pieces in found.items()}
    if format_ == "comfyui" and config is not None and any(f.alpha != f.rank for f in factors.values()):
        raise WeightsError(
            f"{where}: ComfyUI reads these keys at scale 1, diffusers at the scale of the header's {DIFFUSERS_CONFIG}; the file contradicts itself"
        )
    return LoraFile(where, factors, format_, metadata)


def load_lora(path: str | Path, bank: AdapterBank, name: str) -> Adapter:
    """A new adapter of the bank with the file's factors, not active yet. Where ranks differ, the smaller factors are filled up with zeros, which never learn.

    Raises:
        WeightsError: see ``read_lora``, or the file belongs to another model.
        ConfigError: the name is taken.
    """
    file = read_lora(path)
    config = adapter_config(file, bank.linears)
    adapter = bank.add(name, config)
    fill_adapter(adapter, file.factors)
    return adapter


def adapter_config(file: LoraFile, linears: Mapping[str, Target]) -> AdapterConfig:
    """The largest rank, the common scale (1 where scales differ), and the targets: by kind if all of a kind are there.

    Raises:
        WeightsError: a key fits no linear map, or a factor has another shape.
    """
    strangers = [name for name in file.factors if name not in linears]
    if strangers:
        raise WeightsError(_misfit(file, strangers, linears))
    wrong = []
    for name, pair in file.factors.items():
        expected = ((pair.rank, linears[name].in_features), (linears[name].out_features, pair.rank))
        if (tuple(pair.lora_A.shape), tuple(pair.lora_B.shape)) != expected:
            wrong.append(f"{name}: found {list(pair.lora_A.shape)} and {list(pair.lora_B.shape)}, expected {[list(s) for s in expected]}")
    if wrong:
        raise WeightsError(f"{file.where}: {len(wrong)} pairs do not fit the model, which has other sizes: {listed(wrong)}")
    rank = max(file.ranks)
    scales = [pair.scale for pair in file.factors.values()]
    common = scales[0] > 0 and all(math.isclose(s, scales[0], rel_tol=SAME_SCALE) for s in scales)
    kinds = tuple(sorted({name.rpartition("layers.")[2].partition(".")[2] if "layers." in name else name for name in file.factors}))
    exact = select_targets(linears, kinds).keys() == file.factors.keys()
    targets = ("all",) if linears.keys() == file.factors.keys() else kinds if exact else tuple(sorted(file.factors))
    return AdapterConfig(rank=rank, alpha=scales[0] * rank if common else None, targets=targets)


@torch.no_grad()
def fill_adapter(adapter: Adapter, factors: Mapping[str, Factors]) -> None:
    """Give an adapter made from ``adapter_config`` its factors; those of linear maps it lacks are passed over."""
    for name in adapter.targets:
        pair, low_rank = factors[name], adapter.low_rank(name)
        same = math.isclose(pair.scale, adapter.config.scale, rel_tol=SAME_SCALE)
        low_rank.lora_A.weight.zero_()[: pair.rank] = pair.lora_A.to(low_rank.lora_A.weight)
        lora_B = pair.lora_B.float() if same else pair.lora_B.float() * (pair.scale / adapter.config.scale)
        low_rank.lora_B.weight.zero_()[:, : pair.rank] = lora_B.to(low_rank.lora_B.weight)


def _finite(tensor: Tensor, key: str, where: str) -> Tensor:
    if not tensor.is_floating_point():
        raise WeightsError(f"{where}: {key} is of type {tensor.dtype}, expected floating point")
    if not bool(torch.isfinite(tensor.float()).all()):
        raise WeightsError(f"{where}: {key} holds NaN or infinite values; the training that made it failed")
    return tensor


def _pair(name: str, pieces: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Factors:
    lora_A, lora_B = pieces["A"], pieces["B"]
    if lora_A.ndim != 2 or lora_B.ndim != 2 or lora_A.shape[0] != lora_B.shape[1] or lora_A.shape[0] == 0:
        raise WeightsError(
            f"{where}: {name}: lora_A {list(lora_A.shape)} and lora_B {list(lora_B.shape)}, expected [rank, in] and [out, rank]; of convolutions none is read"
        )
    rank = lora_A.shape[0]
    if "alpha" in pieces:
        if pieces["alpha"].numel() != 1:
            raise WeightsError(f"{where}: {name}: alpha has {pieces['alpha'].numel()} values, expected one")
        return Factors(lora_A, lora_B, float(pieces["alpha"]))
    return Factors(lora_A, lora_B, float(rank) if config is None else _configured_alpha(config, name, rank, where))


def _stored_config(file: Path, format_: str, metadata: Mapping[str, str], where: str) -> dict[str, Any] | None:
    """Fields of peft's ``LoraConfig``: from diffusers' header entry, or from the file that peft puts beside its own."""
    if format_ == "peft" and file.name == PEFT_FILE and (file.parent / PEFT_CONFIG).is_file():
        return read_json(file.parent / PEFT_CONFIG)
    if DIFFUSERS_CONFIG not in metadata:
        return None
    try:
        plain = json.loads(metadata[DIFFUSERS_CONFIG])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: the header's {DIFFUSERS_CONFIG} is not readable as JSON: {error}") from error
    if not isinstance(plain, dict):
        raise WeightsError(f"{where}: the header's {DIFFUSERS_CONFIG} is a {type(plain).__name__}, expected a JSON object")
    fields = {key.removeprefix("transformer."): value for key, value in plain.items() if key.startswith("transformer.")}
    return fields or None


def _configured_alpha(config: Mapping[str, Any], name: str, rank: int, where: str) -> float:
    if config.get("use_dora"):
        raise WeightsError(f"{where}: the config says use_dora; only plain LoRA is read")
    r = _pattern(config.get("rank_pattern"), name, config.get("r", rank), where)
    alpha = _pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", 8), where)  # peft's default
    if r != rank:
        raise WeightsError(f"{where}: {name} has rank {rank}, the config says {r!r}")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise WeightsError(f"{where}: {name}: the config's alpha is {alpha!r}, expected a number")
    return alpha * math.sqrt(rank) if config.get("use_rslora") else float(alpha)


def _pattern(patterns: Any, name: str, default: Any, where: str) -> Any:
    """The first of peft's patterns that the name is or ends in. They are regular expressions there; plain names, with ``^`` for a whole one, are all we take
    from a file."""
    if patterns is not None and not isinstance(patterns, dict):
        raise WeightsError(f"{where}: a pattern of the config is a {type(patterns).__name__}, expected an object")
    for pattern, value in (patterns or {}).items():
        plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not all(c.isalnum() or c in "._" for c in plain):
            raise WeightsError(f"{where}: the config has the pattern {pattern!r}; only names of linear maps are read there")
        if name == plain or (not pattern.startswith("^") and name.endswith(f".{plain}")):
            return value
    return default


def _diffusers_config(factors: Mapping[str, Factors]) -> dict[str, Any]:
    """Says scale 1 for every target, also to versions that guess it wrongly where ranks differ."""
    ranks = {name: pair.rank for name, pair in factors.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    others = {f"^{name}": rank for name, rank in ranks.items() if rank != usual}
    config = {"r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": others, "target_modules": sorted(ranks)}
    return {f"transformer.{field}": value for field, value in config.items()}


def _misfit(file: LoraFile, strangers: list[str], linears: Mapping[str, Target]) -> str:
    lines = []
    for name in strangers:
        near = difflib.get_close_matches(name, linears, n=1) if len(lines) < 5 else []
        lines.append(f"{name} (nearest: {near[0]})" if near else name)
    count = f"{len(strangers)} of {len(file.factors)} adapted layers are no linear maps of this model"
    kind = (
        "The LoRA belongs to another model."
        if len(strangers) == len(file.factors)
        else "The LoRA belongs to a model of other depth or design."
    )
    return f"{file.where}: {count}: {listed(lines)}. {kind}"
