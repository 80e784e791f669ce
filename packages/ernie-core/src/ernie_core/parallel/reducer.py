"""Sums gradients over ranks in buckets, while backward still runs.

A bucket holds masters in reverse order of definition, about the order in which backward finishes them. It is sent when its last gradient is there
and every bucket before it was sent, so that all ranks send in the same order. Behind the gradients a bucket carries one flag per parameter: a
parameter that no rank touched keeps no gradient, exactly as on one rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ernie_core.parallel.group import DistributedGroup

BUCKET_BYTES = 25 * 2**20  # as torch's DistributedDataParallel


@dataclass
class _Bucket:
    masters: list[nn.Parameter]
    flat: Tensor
    waiting: set[int] = field(default_factory=set)
    work: Any = None

    @property
    def sizes(self) -> list[int]:
        """Of each gradient, then of the flags."""
        return [m.numel() for m in self.masters] + [len(self.masters)]


class BucketReducer:
    def __init__(self, group: DistributedGroup) -> None:
        self._group = group
        self._plans: dict[tuple[str, ...], list[_Bucket]] = {}
        self._buckets: list[_Bucket] = []
        self._of: dict[int, _Bucket] = {}
        self._next = 0

    def start(self, turn: tuple[str, ...], masters: Sequence[nn.Parameter]) -> None:
        """Before the last micro-batch of a step."""
        if turn not in self._plans:
            self._plans[turn] = _plan(masters)
        self._buckets = self._plans[turn]
        self._of = {id(m): bucket for bucket in self._buckets for m in bucket.masters}
        self._next = 0
        for bucket in self._buckets:
            bucket.waiting = {id(m) for m in bucket.masters}

    def ready(self, master: nn.Parameter) -> None:
        """A gradient is complete on this rank."""
        bucket = self._of.get(id(master))
        if bucket is not None:
            bucket.waiting.discard(id(master))
            self._send(only_complete=True)

    def finish(self) -> None:
        """After backward: send what is left, wait for all, and put the sums back."""
        self._send(only_complete=False)
        for bucket in self._buckets:
            self._group.wait(bucket.work)
            bucket.work = None
        masters = [m for bucket in self._buckets for m in bucket.masters]
        flags = [bucket.flat[-len(bucket.masters) :] for bucket in self._buckets]
        touched = torch.cat(flags).tolist() if flags else []  # one synchronisation for all buckets
        sums = [part for bucket in self._buckets for part in bucket.flat.split(bucket.sizes)[:-1]]
        for master, total, was_touched in zip(masters, sums, touched, strict=True):
            if was_touched:
                if master.grad is None:
                    master.grad = torch.empty_like(master)
                master.grad.copy_(total.view_as(master))
        self._buckets, self._of = [], {}

    def _send(self, *, only_complete: bool) -> None:
        while self._next < len(self._buckets):
            bucket = self._buckets[self._next]
            if only_complete and bucket.waiting:
                return
            *parts, flags = bucket.flat.split(bucket.sizes)
            flags.copy_(torch.tensor([m.grad is not None for m in bucket.masters], dtype=flags.dtype))
            for master, part in zip(bucket.masters, parts, strict=True):
                if master.grad is None:
                    part.zero_()
                else:
                    part.copy_(master.grad.reshape(-1))
            bucket.work = self._group.sum_later(bucket.flat)
            self._next += 1


def _plan(masters: Sequence[nn.Parameter]) -> list[_Bucket]:
    buckets: list[list[nn.Parameter]] = [[]]
    size_bytes = 0
    for master in reversed(masters):
        if buckets[-1] and size_bytes + 4 * master.numel() > BUCKET_BYTES:
            buckets.append([])
            size_bytes = 0
        buckets[-1].append(master)
        size_bytes += 4 * master.numel()
    return [
        _Bucket(members, torch.zeros(sum(m.numel() for m in members) + len(members), device=members[0].device))
        for members in buckets
        if members
    ]
