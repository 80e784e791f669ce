"""LoRA files and model folders: one merged into a copy of a folder, and one extracted from two sets of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ernie_core import io
from ernie_core.adapters.algebra import extract, merged
from ernie_core.adapters.bank import Adapter, linear_maps, select_targets
from ernie_core.adapters.config import AdapterConfig
from ernie_core.errors import WeightsError
from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.model.load import STEM, load_transformer, read_json
from ernie_core.model.tensor_files import TensorFiles
from ernie_core.weights.io import PICKLES
from ernie_core.weights.lora import adapter_config, fill_adapter, read_lora, save_lora
from ernie_core.weights.lora_keys import Format, listed

if TYPE_CHECKING:
    from ernie_core.plugins.host import PluginHost


def merge_folder(base: str | Path, lora: str | Path, out: str | Path, *, strength: float = 1.0) -> int:
    """A copy of a diffusers pipeline or transformer folder with ``W + strength scale B A`` in place of every adapted weight.

    All other files are copied as they are, but pickles and hidden ones. Files of weights keep their names, keys, types and headers; one is held at a time.

    Returns:
        How many linear maps were changed.

    Raises:
        WeightsError: ``out`` exists; no such folder, no LoRA, or they do not fit each other; or merged values exceed the type of the weights.
        StorageError: the disk refused; nothing is visible at ``out`` then.
    """
    root, target = Path(base), Path(out)
    if target.exists():
        raise WeightsError(f"{target}: already exists, and an export never overwrites; choose another folder")
    if not math.isfinite(strength):
        raise WeightsError(f"strength {strength}: expected a finite number")
    folder = root / "transformer" if (root / "model_index.json").is_file() else root
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{root}: expected a diffusers pipeline or its transformer folder; export a run first")
    with torch.device("meta"):
        model = ErnieDiT(DiTConfig.from_diffusers(read_json(folder / "config.json"), where=str(folder / "config.json")))
    linears = linear_maps(model)
    weights = TensorFiles.open(folder, STEM)
    homes = set(weights.files.values())
    if others := sorted(p.name for p in folder.glob("*.safetensors") if p not in homes):
        raise WeightsError(f"{folder}: holds other weights too ({listed(others)}), which would stay as they are; remove them from the base")
    file = read_lora(lora)
    config = adapter_config(file, linears)
    if lost := [name for name in file.factors if f"{name}.weight" not in weights.files]:
        raise WeightsError(f"{weights.where}: has no weights for {listed(lost)}")
    copied = [p for p in sorted(root.rglob("*")) if p.is_file() and p not in homes and _passed_on(p.relative_to(root))]
    needed = sum(p.stat().st_size for p in [*copied, *homes])
    facts = {"merged": [Path(lora).name], "strength": strength}
    with io.commit_folder(target, needed_bytes=needed, facts=facts) as writer:
        for path in copied:
            writer.add_file(path.relative_to(root).as_posix(), partial(io.copy_file, path))
        for home in sorted(homes):
            here = {name: linears[name] for name in file.factors if weights.files[f"{name}.weight"] == home}
            adapter = Adapter(here, config, seed=0)
            fill_adapter(adapter, file.factors)
            writer.add_file(home.relative_to(root).as_posix(), _merged_file(home, adapter, strength))
    return len(file.factors)


@dataclass(frozen=True)
class ExtractedLora:
    """``left_out``: share of the change's squared Frobenius norm beyond the rank; ``others``: changed tensors that were left out altogether."""

    targets: tuple[str, ...]
    left_out: float
    others: tuple[str, ...]


def extract_lora(
    base: str | Path,
    tuned: str | Path,
    out: str | Path,
    *,
    rank: int,
    targets: tuple[str, ...] = (),
    leave_out_others: bool = False,
    format: Format = "diffusers",
    dtype: torch.dtype = torch.float32,
    raw: bool = False,
    host: PluginHost | None = None,
) -> ExtractedLora:
    """Write the best LoRA of a rank for ``tuned - base``: pipelines, transformer folders, runs or checkpoints. Both are held in memory.

    Args:
        targets: as in ``AdapterConfig``; default: every linear map that was changed.
        leave_out_others: pass over changed tensors that the LoRA cannot hold (norms, biases, other linear maps), which is an error otherwise.
        raw: of our checkpoints, the trained weights instead of their moving average.

    Raises:
        WeightsError: weights that do not belong together, none that differ, or changes that the LoRA cannot hold.
        ConfigError: a target that is no linear map.
    """
    model = load_transformer(base, raw=raw, host=host)
    before, after = model.state_dict(), load_transformer(tuned, raw=raw, host=host).state_dict()
    if before.keys() != after.keys() or any(before[key].shape != after[key].shape for key in before):
        raise WeightsError(f"{base} and {tuned} are models of different sizes; a LoRA is the difference of two equal ones")
    changed = {key.removesuffix(".weight"): key for key in before if not torch.equal(before[key].float(), after[key].float())}
    if not changed:
        raise WeightsError(f"{base} and {tuned} hold the same weights; there is nothing to extract")
    linears = linear_maps(model)
    chosen = select_targets(linears, targets) if targets else {name: target for name, target in linears.items() if name in changed}
    others = tuple(key for name, key in changed.items() if name not in chosen)
    if not chosen or (others and not leave_out_others):
        raise WeightsError(
            f"{len(others)} changed tensors are beyond the LoRA: {listed(others)}. Name more targets where they are linear maps; norms and biases it cannot "
            "hold: leave them out knowingly, or keep the whole model."
        )
    kept = {f"{name}.weight" for name in chosen}
    adapter = Adapter(chosen, AdapterConfig(rank=rank, targets=targets or tuple(chosen)), seed=0)
    found = extract({key: before[key] for key in kept}, {key: after[key] for key in kept}, adapter)
    facts = {"extracted_from": Path(tuned).name, "extracted_against": Path(base).name, "left_out": f"{found.left_out:.6g}"}
    save_lora(out, adapter, format=format, facts=facts, dtype=dtype)
    return ExtractedLora(tuple(chosen), found.left_out, others)


def _passed_on(path: Path) -> bool:
    return path.suffix not in PICKLES and path != Path(io.MANIFEST) and not any(part.startswith(".") for part in path.parts)


def _merged_file(home: Path, adapter: Adapter, strength: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with safe_open(home, framework="pt") as opened:
            header = opened.metadata()
            base = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a dictionary
        tensors = merged(base, adapter, strength=strength)
        for name in adapter.targets:
            if not bool(torch.isfinite(tensors[f"{name}.weight"]).all()):
                raise WeightsError(
                    f"{name}: the merged weight is not finite in {tensors[f'{name}.weight'].dtype}; the strength is too high"
                )
        save_file(tensors, path, metadata=header)  # durable: the folder's writer fsyncs and hashes it

    return write
