"""``load_transformer``: our model from a diffusers pipeline, a transformer folder or one of our checkpoints. Safetensors only, never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ernie_core.config.run import BlockRange
from ernie_core.errors import WeightsError
from ernie_core.model.block_ranges import block_factory
from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.model.fusion import fusion_of
from ernie_core.model.tensor_files import TensorFiles, TensorSource
from ernie_core.ops.opset import OpSet
from ernie_core.ops.select import select_ops

if TYPE_CHECKING:
    from ernie_core.plugins.host import PluginHost

LISTED = 10
STEM = "diffusion_pytorch_model"


def load_transformer(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ops: OpSet | str = "auto",
    raw: bool = False,
    host: PluginHost | None = None,
    blocks: Sequence[BlockRange] = (),
) -> ErnieDiT:
    """Load a transformer.

    Args:
        path: a diffusers pipeline folder, its ``transformer`` folder, or one of our run or checkpoint folders.
        device: where the weights go; one parameter at a time, so that the peak is the model plus its largest matrix.
        dtype: of the weights; default: as stored.
        ops: an op set, or the name of one of core's.
        raw: of our own checkpoints, the trained weights instead of their moving average.
        host: finds the blocks that ``blocks`` or the checkpoint name; default: the installed plugins.
        blocks: layer ranges with another block; default: those the checkpoint was trained with.

    Raises:
        WeightsError: missing or damaged files, another class, or tensors that do not fit (at most 10 are listed).
        MissingComponent: the op set is unusable, or a plugin's block is not installed.
    """
    root = Path(path)
    if not root.is_dir():
        seen_from = "" if root.is_absolute() else f"; the path is relative and was looked for in {Path.cwd()}"
        raise WeightsError(f"{root}: expected a folder with weights, found {'a file' if root.exists() else 'nothing'}{seen_from}")
    if (root / "model_index.json").is_file():
        root = _pipeline_transformer(root)
    source: TensorSource
    if (root / "config.json").is_file():
        config = DiTConfig.from_diffusers(read_json(root / "config.json"), where=str(root / "config.json"))
        source = TensorFiles.open(root, STEM)
    else:
        config, source, trained_with = _own_checkpoint(root, raw=raw, host=host)
        blocks = blocks or trained_with
    with torch.device("meta"):
        model = ErnieDiT(config, make_block=block_factory(blocks, config, host))
    fill(model, source, device=torch.device(device), dtype=dtype)
    first = next(model.parameters())
    model.ops = select_ops(ops, device=first.device, dtype=first.dtype) if isinstance(ops, str) else ops
    return model


def fill(model: nn.Module, source: TensorSource, *, device: torch.device, dtype: torch.dtype | None) -> None:
    """Give every parameter of a model on the meta device its values, after checking all names and shapes. Buffers are real already; stored ones are read.

    Raises:
        WeightsError: missing, extra or misshaped tensors.
    """
    check_shapes(source.shapes(), {name: tuple(t.shape) for name, t in model.state_dict().items()}, where=source.where)
    parts = fusion_of(model).parts
    for name, parameter in list(model.named_parameters()):
        pieces = parts.get(name, ((name, 0),))
        values: Tensor | None = None
        start = 0
        for piece, rows in pieces:
            stored = source.read(piece)
            if values is None:
                values = torch.empty(parameter.shape, dtype=dtype or stored.dtype, device=device)
            (values[start : start + rows] if rows else values).copy_(stored)
            start += rows
        if values is None:
            raise RuntimeError(f"{name}: no piece of it is known to the fusion map")
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(values))
    stored_names = model.state_dict().keys()
    for name, buffer in list(model.named_buffers()):
        values = source.read(name) if name in stored_names else buffer
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, values.to(device, dtype if values.is_floating_point() else None))


def check_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Compare names and shapes of tensors.

    Raises:
        WeightsError: at most 10 differences, each with the shape found and the shape expected.
    """
    lines = [f"  {name}: found nothing, expected {list(shape)}" for name, shape in expected.items() if name not in found]
    lines += [f"  {name}: found {list(shape)}, expected no such tensor" for name, shape in found.items() if name not in expected]
    lines += [
        f"  {name}: found {list(found[name])}, expected {list(s)}" for name, s in expected.items() if name in found and found[name] != s
    ]
    if lines:
        more = [f"  ... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        raise WeightsError("\n".join([f"{where}: {len(lines)} tensors do not fit the model:", *lines[:LISTED], *more]))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        WeightsError: unreadable, or not an object.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(plain, dict):
        raise WeightsError(f"{path}: expected a JSON object, found {type(plain).__name__}")
    return plain


def _pipeline_transformer(root: Path) -> Path:
    index = read_json(root / "model_index.json")
    if "transformer" not in index or not (root / "transformer").is_dir():
        raise WeightsError(f"{root}: a {index.get('_class_name', 'pipeline')} without a transformer folder")
    if not (root / "transformer" / "config.json").is_file():
        raise WeightsError(f"{root / 'transformer'}: config.json is missing")
    return root / "transformer"


def _own_checkpoint(root: Path, *, raw: bool, host: PluginHost | None) -> tuple[DiTConfig, TensorSource, Sequence[BlockRange]]:
    if not any((root / name).exists() for name in ("manifest.json", "latest", "checkpoints", "run.json")):
        raise WeightsError(
            f"{root}: found neither model_index.json (a diffusers pipeline), config.json (a transformer) nor manifest.json or latest (a checkpoint or run)"
        )
    from ernie_core.train.checkpoint import open_checkpoint
    from ernie_core.weights.deployed import deployed_weights

    checkpoint = open_checkpoint(root)
    name = checkpoint.state["deployed"]["transformer"]
    plain = checkpoint.state["networks"][name]["config"]
    if plain is None:
        raise WeightsError(f"{checkpoint.directory}: the network `{name}` is not an ErnieDiT")
    config = DiTConfig.from_plain(plain, where=str(checkpoint.directory))
    blocks: Sequence[BlockRange] = ()
    table = checkpoint.state["config"].get("model", {})
    if table.get("blocks"):  # this table alone is decoded: a machine that samples may lack the data source's plugin
        from ernie_core.config.load import from_plain
        from ernie_core.config.run import ModelTable
        from ernie_core.plugins.host import PluginHost

        blocks = from_plain(table, host or PluginHost.discover(), struct=ModelTable, where=str(checkpoint.directory)).blocks
    return config, InMemory(deployed_weights(checkpoint, raw=raw, host=host), where=str(checkpoint.directory)), blocks


class InMemory:
    """Tensors that are already read, as a source."""

    def __init__(self, tensors: dict[str, Tensor], *, where: str) -> None:
        self.tensors, self.where = tensors, where

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(t.shape) for name, t in self.tensors.items()}

    def read(self, name: str) -> Tensor:
        return self.tensors.pop(name)
