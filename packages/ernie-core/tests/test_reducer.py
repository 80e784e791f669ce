"""Gradients are summed in several buckets, in one order on every rank, and untouched parameters stay untouched."""

import pytest
import torch
from torch import nn

from ernie_core.parallel import reducer
from ernie_core.parallel.reducer import BucketReducer


class Twin:
    """A group whose other rank holds the same gradients: a sum doubles. Remembers what was sent."""

    rank, world_size = 0, 2

    def __init__(self):
        self.sent = []

    def sum_later(self, tensor):
        self.sent.append(tensor.numel())
        tensor.mul_(2)
        return tensor

    def wait(self, work):
        pass


@pytest.fixture
def masters():
    return [nn.Parameter(torch.zeros(n)) for n in (3, 5, 4, 6)]


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 1, 2, 3), (1, 3, 0, 2), ()])
def test_each_gradient_comes_back_summed_whatever_order_backward_finished_in(masters, order, monkeypatch):
    monkeypatch.setattr(reducer, "BUCKET_BYTES", 4 * 10)
    group = Twin()
    reduce = BucketReducer(group)
    for step in (1.0, 2.0):  # the second step reuses the plan and its buffers
        for i, master in enumerate(masters):
            master.grad = torch.full_like(master, step * (i + 1))
        reduce.start(("net",), masters)
        for i in order:
            reduce.ready(masters[i])
        reduce.finish()
        assert [m.grad.tolist() for m in masters] == [[2 * step * (i + 1)] * m.numel() for i, m in enumerate(masters)]
    assert group.sent == [6 + 4 + 2, 5 + 3 + 2] * 2  # last parameters first, each bucket with one flag per parameter


def test_a_bucket_is_not_sent_before_those_in_front_of_it(masters, monkeypatch):
    monkeypatch.setattr(reducer, "BUCKET_BYTES", 4 * 10)
    group = Twin()
    reduce = BucketReducer(group)
    for master in masters:
        master.grad = torch.ones_like(master)
    reduce.start(("net",), masters)
    reduce.ready(masters[0])
    reduce.ready(masters[1])
    assert group.sent == []
    reduce.ready(masters[2])
    reduce.ready(masters[3])
    assert len(group.sent) == 2
    reduce.finish()


def test_what_no_rank_touched_keeps_no_gradient(masters, monkeypatch):
    monkeypatch.setattr(reducer, "BUCKET_BYTES", 4 * 10)
    masters[1].grad = torch.ones_like(masters[1])
    reduce = BucketReducer(Twin())
    reduce.start(("net",), masters)
    reduce.finish()
    assert [m.grad is not None for m in masters] == [False, True, False, False]
    assert masters[1].grad.tolist() == [2.0] * 5
