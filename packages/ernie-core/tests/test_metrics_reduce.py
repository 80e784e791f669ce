"""Metrics over ranks, which are threads here: the collectives are the group's, what is tested is what is asked of them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ernie_core.api import Metrics
from ernie_core.train.reduce import common_names, reduced


class Threads:
    """A group whose ranks are threads. ``sum_`` refuses tensors of different sizes, as a real backend does (or ends the process)."""

    def __init__(self, rank: int, world_size: int, shared: dict) -> None:
        self.rank, self.world_size, self._shared = rank, world_size, shared

    def sum_(self, tensor: torch.Tensor) -> None:
        self._shared["given"][self.rank] = tensor.clone()
        self._shared["barrier"].wait()
        assert len({t.shape for t in self._shared["given"].values()}) == 1, "ranks sum tensors of different sizes"
        total = sum(self._shared["given"][rank] for rank in range(self.world_size))
        self._shared["barrier"].wait()
        tensor.copy_(total)
        if self.rank == 0:
            self._shared["calls"] += 1


def on_ranks(work, world_size):
    shared = {"given": {}, "barrier": threading.Barrier(world_size, timeout=20), "calls": 0}
    with ThreadPoolExecutor(world_size) as threads:
        return list(threads.map(lambda rank: work(Threads(rank, world_size, shared)), range(world_size))), shared["calls"]


def seen(rank):
    metrics = Metrics()
    metrics.add("loss", 2.0 + rank, 2.0)
    metrics.add(f"only-{rank}", 3.0, 1.0)
    metrics.add("né", torch.tensor(float(rank)), 1.0)
    return metrics


@pytest.mark.parametrize("world_size", [2, 3])
def test_what_only_one_rank_saw_is_neither_lost_nor_mixed_up(world_size):
    found, _ = on_ranks(lambda group: reduced(seen(group.rank), group, torch.device("cpu")), world_size)
    assert all(row == found[0] for row in found)
    assert found[0] == {
        "loss": sum(2.0 + r for r in range(world_size)) / (2 * world_size),
        "né": sum(range(world_size)) / world_size,
        **{f"only-{r}": 3.0 for r in range(world_size)},
    }


def test_equal_names_cost_one_small_collective_more():
    def work(group):
        metrics = Metrics()
        metrics.add("loss", float(group.rank), 1.0)
        return reduced(metrics, group, torch.device("cpu"))

    found, calls = on_ranks(work, 2)
    assert found == [{"loss": 0.5}] * 2
    assert calls == 2


def test_a_rank_that_saw_nothing_takes_part():
    def work(group):
        return reduced(seen(0) if group.rank else Metrics(), group, torch.device("cpu"))

    found, _ = on_ranks(work, 2)
    assert found[0] == found[1]
    assert found[0]["loss"] == 1.0
    assert on_ranks(lambda group: reduced(Metrics(), group, torch.device("cpu")), 2)[0] == [{}, {}]


def test_names_are_the_sorted_union():
    found, _ = on_ranks(lambda group: common_names(["b", "a"][: group.rank + 1] or ["x"], group, torch.device("cpu")), 2)
    assert found == [["a", "b"]] * 2
