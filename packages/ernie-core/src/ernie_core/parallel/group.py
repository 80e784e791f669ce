"""Groups of ranks: one process, or ``torch.distributed`` over gloo or NCCL."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ernie_core.errors import ConfigError, RankLost


@dataclass
class OneRank:
    """No communication."""

    rank: int = 0
    world_size: int = 1

    def sum_(self, tensor: Tensor) -> None:
        pass

    def broadcast_(self, tensor: Tensor) -> None:
        pass

    def barrier(self) -> None:
        pass

    def close(self) -> None:
        pass


class DistributedGroup:
    """The default process group, from torchrun's environment variables. ``timeout_s`` bounds every collective, so that a lost rank ends the run."""

    def __init__(self, device: torch.device, *, timeout_s: float) -> None:
        backend = "nccl" if device.type == "cuda" else "gloo"
        with _losses_of_ranks():
            if not dist.is_initialized():
                dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout_s))
        self.rank, self.world_size, self._device = dist.get_rank(), dist.get_world_size(), device

    def sum_(self, tensor: Tensor) -> None:
        with _losses_of_ranks():
            dist.all_reduce(tensor)

    def sum_later(self, tensor: Tensor) -> dist.Work:
        """Start a sum; ``wait`` for it before reading the tensor."""
        with _losses_of_ranks():
            work = dist.all_reduce(tensor, async_op=True)
        if work is None:
            raise RuntimeError("this rank is not part of the default process group")
        return work

    def wait(self, work: dist.Work) -> None:
        with _losses_of_ranks():
            work.wait()

    def broadcast_(self, tensor: Tensor) -> None:
        with _losses_of_ranks():
            dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        self.sum_(torch.zeros(1, device=self._device))

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _losses_of_ranks() -> Iterator[None]:
    """torch reports a dead peer, a broken connection and a timeout alike, as a RuntimeError with the backend's words.

    Raises:
        RankLost: in their place.
    """
    try:
        yield
    except RuntimeError as error:
        words = re.sub(r"^\[[^]]*\] *", "", (str(error).splitlines() or [type(error).__name__])[0])  # without the place in torch's source
        raise RankLost(
            f"rank {os.environ.get('RANK', '?')}: lost contact with another rank ({words[:200]}). Look at the other ranks' output for the cause; "
            "the last checkpoint stands, and the same command goes on from it."
        ) from error


def launched_world_size() -> int:
    """Number of ranks torchrun started, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def choose_device(name: str) -> torch.device:
    """``"auto"``: the local rank's GPU if this machine has GPUs, else the CPU.

    Raises:
        ConfigError: there is no GPU, or none for this rank.
    """
    usable = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if usable else "cpu"
    if name == "cuda":
        rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count() if usable else 0
        if rank >= count:
            raise ConfigError(
                f"local rank {rank} has no GPU to run on: {count} usable here. Start at most one rank per GPU, or set "
                'engine.device = "cpu"; `ernie doctor` says why a GPU is not usable'
            )
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
        return device
    return torch.device(name)
