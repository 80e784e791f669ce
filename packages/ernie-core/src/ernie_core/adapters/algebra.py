"""Adapters as changes of weights: merging one into a copy of the base's weights, and extracting one from tuned weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ernie_core.adapters.bank import Adapter
from ernie_core.errors import WeightsError


@torch.no_grad()
def merged(base: Mapping[str, Tensor], adapter: Adapter, *, strength: float = 1.0) -> dict[str, Tensor]:
    """``W + strength scale B A`` for every target; the rest as it is. Sums are float32, rounded once to the base's type. The base is not changed.

    Raises:
        WeightsError: the base lacks a target or has another shape.
    """
    out = dict(base)
    for name in adapter.targets:
        key, low_rank = f"{name}.weight", adapter.low_rank(name)
        change = low_rank.lora_B.weight.float() @ low_rank.lora_A.weight.float() * (adapter.config.scale * strength)
        out[key] = (_weight(base, key, change.shape).float() + change.to(base[key].device)).to(base[key].dtype)
    return out


@dataclass(frozen=True)
class Extracted:
    """``left_out``: share of the change's squared Frobenius norm that the rank could not hold, over all targets."""

    left_out: float


@torch.no_grad()
def extract(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], adapter: Adapter) -> Extracted:
    """Set an adapter to the best approximation of ``tuned - base`` at its rank (truncated SVD; Eckart and Young 1936), factors balanced.

    Raises:
        WeightsError: weights that do not belong together, or a change outside the adapter's targets, which it could not carry.
    """
    targets = {f"{name}.weight" for name in adapter.targets}
    others = [key for key in base if key not in targets and not torch.equal(base[key], _weight(tuned, key, base[key].shape))]
    if others:
        raise WeightsError(f"{len(others)} tensors beyond the adapter's targets were tuned too, such as {others[0]}; add them to `targets`")
    total = left = 0.0
    for name in adapter.targets:
        key, low_rank = f"{name}.weight", adapter.low_rank(name)
        shape = torch.Size((low_rank.lora_B.out_features, low_rank.lora_A.in_features))
        change = _weight(tuned, key, shape).float() - _weight(base, key, shape).float()
        u, s, vh = torch.linalg.svd(change / adapter.config.scale, full_matrices=False)
        rank = min(adapter.config.rank, len(s))
        low_rank.lora_A.weight.zero_()
        low_rank.lora_B.weight.zero_()
        low_rank.lora_A.weight[:rank].copy_(s[:rank, None].sqrt() * vh[:rank])
        low_rank.lora_B.weight[:, :rank].copy_(u[:, :rank] * s[:rank].sqrt())
        total += float(s.square().sum())
        left += float(s[rank:].square().sum())
    return Extracted(left / total if total else 0.0)


def _weight(weights: Mapping[str, Tensor], key: str, shape: torch.Size) -> Tensor:
    if key not in weights:
        raise WeightsError(f"the base has no weight {key}; the adapter belongs to another model")
    if weights[key].shape != shape:
        raise WeightsError(f"{key}: found {tuple(weights[key].shape)}, the adapter was made for {tuple(shape)}")
    return weights[key]
