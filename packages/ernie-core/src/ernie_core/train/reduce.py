"""Metrics over all ranks. A rank may have seen what others have not, such as a domain of its share of the batch: names are brought together first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from ernie_core.train.method import Metrics


def reduced(metrics: Metrics, group: Any, device: torch.device) -> dict[str, float]:
    """Means over all ranks, from one collective of sums and weights, and a small one before it that tells whether all ranks have the same names."""
    if group.world_size == 1:
        return metrics.means()
    names = common_names(sorted(metrics.sums), group, device)
    if not names:
        return {}
    pairs = [torch.as_tensor(x, dtype=torch.float64, device=device) for n in names for x in metrics.sums.get(n, (0.0, 0.0))]
    flat = torch.stack(pairs)
    group.sum_(flat)
    return Metrics({n: (flat[2 * i], flat[2 * i + 1]) for i, n in enumerate(names)}).means()


def common_names(mine: Sequence[str], group: Any, device: torch.device) -> list[str]:
    """The union of all ranks' names, sorted; the same list on every rank."""
    told = json.dumps(list(mine)).encode()
    digest = int.from_bytes(hashlib.blake2b(told, digest_size=6).digest(), "little")  # exact in a float64, whatever the backend sums in
    about = torch.zeros(2, group.world_size, dtype=torch.float64, device=device)
    about[0, group.rank], about[1, group.rank] = digest, len(told)
    group.sum_(about)
    digests, lengths = about.tolist()
    if len(set(digests)) == 1:
        return list(mine)
    texts = torch.zeros(group.world_size, int(max(lengths)), dtype=torch.float64, device=device)
    texts[group.rank, : len(told)] = torch.frombuffer(bytearray(told), dtype=torch.uint8).to(texts)
    group.sum_(texts)
    lists = [json.loads(bytes(row[: int(n)].to(torch.uint8).cpu().numpy())) for row, n in zip(texts, lengths, strict=True)]
    return sorted({name for names in lists for name in names})
