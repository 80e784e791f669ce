"""Parameters that are stored fused and named apart: one matrix for q, k and v, one for gate and up.

One matrix product instead of three (or two) is what the fusion is for; the outside keeps the reference's names. ``state_dict()`` yields row
slices of the fused matrix (views, no copy) and ``load_state_dict`` joins them again. ``Fusion`` maps any other dictionary of per-parameter
tensors, such as gradients or optimiser moments, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ernie_core.errors import WeightsError
from ernie_core.ops.opset import OpSet

V = TypeVar("V")


class FusedLinear(nn.Linear):
    """A linear map without bias whose rows are the rows of several named maps, in order.

    Args:
        parts: names under which the parent's state dict shows the pieces, and the rows of each.
    """

    def __init__(self, in_features: int, parts: Mapping[str, int]) -> None:
        super().__init__(in_features, sum(parts.values()), bias=False)
        self.parts = tuple(parts.items())

    def forward(self, x: Tensor, ops: OpSet) -> Tensor:
        return ops.linear(x, self.weight)


def name_apart(parent: nn.Module, child: str) -> None:
    """Make ``parent.state_dict()`` and ``load_state_dict`` use the part names of its ``FusedLinear`` child instead of the fused one."""
    parent.register_state_dict_post_hook(partial(_split_saved, child))
    parent.register_load_state_dict_pre_hook(partial(_join_loaded, child))


@dataclass(frozen=True)
class Fusion:
    """Which fused parameters a module has: fused name -> the reference names of its row blocks, with their rows."""

    parts: Mapping[str, tuple[tuple[str, int], ...]]

    def split(self, values: Mapping[str, V]) -> dict[str, V]:
        """Fused names to reference names. Tensors are cut into row views; a scalar (an optimiser's step count) is given to every part."""
        out: dict[str, Any] = {}
        for name, value in values.items():
            if name not in self.parts:
                out[name] = value
                continue
            names, rows = zip(*self.parts[name])
            is_matrix = isinstance(value, Tensor) and value.ndim > 0
            out.update(zip(names, value.split(list(rows)) if is_matrix else [value] * len(names)))
        return out

    def merge(self, values: Mapping[str, V]) -> dict[str, V]:
        """Reference names to fused names, the inverse of ``split``.

        Raises:
            WeightsError: a part is missing, or the scalars of the parts differ.
        """
        out: dict[str, Any] = dict(values)
        for fused, parts in self.parts.items():
            present = [name for name, _ in parts if name in values]
            if not present:
                continue
            if len(present) < len(parts):
                raise WeightsError(f"{fused} needs all of {', '.join(n for n, _ in parts)}; found only {', '.join(present)}")
            pieces = [out.pop(name) for name, _ in parts]
            if isinstance(pieces[0], Tensor) and pieces[0].ndim > 0:
                out[fused] = torch.cat(pieces)
            elif all(bool(piece == pieces[0]) for piece in pieces):
                out[fused] = pieces[0]
            else:
                raise WeightsError(f"{fused}: its parts {', '.join(n for n, _ in parts)} hold different scalars, {pieces}")
        return out


def fusion_of(module: nn.Module) -> Fusion:
    """The fusion of every ``FusedLinear`` inside a module."""
    parts = {}
    for path, child in module.named_modules():
        if isinstance(child, FusedLinear):
            parent = path.rpartition(".")[0]
            prefix = f"{parent}." if parent else ""
            parts[f"{path}.weight"] = tuple((f"{prefix}{name}.weight", rows) for name, rows in child.parts)
    return Fusion(parts)


def _split_saved(child: str, parent: nn.Module, state: dict[str, Tensor], prefix: str, local_metadata: dict[str, Any]) -> None:
    linear = parent.get_submodule(child)
    fused = state.pop(f"{prefix}{child}.weight")
    apart = {f"{prefix}{name}.weight": piece for (name, _), piece in zip(linear.parts, fused.split([rows for _, rows in linear.parts]))}
    # The parts take the place of the fused matrix, so that the order of keys is the reference's too.
    own = [key for key in state if key.startswith(prefix)]
    kept = {key: state.pop(key) for key in own}
    state.update(apart)
    state.update(kept)


def _join_loaded(
    child: str,
    parent: nn.Module,
    state: dict[str, Tensor],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    linear = parent.get_submodule(child)
    names = {f"{prefix}{name}.weight": rows for name, rows in linear.parts}
    if not all(name in state for name in names):
        return  # torch then reports the fused name as missing and the parts that are there as unexpected
    wrong = {name: rows for name, rows in names.items() if tuple(state[name].shape) != (rows, linear.in_features)}
    if wrong:
        error_msgs.extend(
            f"size mismatch for {name}: found {tuple(state[name].shape)}, expected {(rows, linear.in_features)}"
            for name, rows in wrong.items()
        )
        return
    state[f"{prefix}{child}.weight"] = torch.cat([state.pop(name) for name in names])
