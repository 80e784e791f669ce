"""Prefetching changes neither order nor content, and raises where the step is reached."""

import threading
import time

import pytest

from ernie_core.train.prefetch import prefetched


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_steps_come_in_order_whatever_their_reading_takes(workers):
    def fetch(step):
        time.sleep(0.002 * (step % 3))
        return [step]

    assert list(prefetched(fetch, range(5, 25), workers=workers)) == [[step] for step in range(5, 25)]


def test_it_reads_ahead_but_not_without_bound():
    read, gate = [], threading.Event()
    generator = prefetched(lambda step: read.append(step) or gate.wait(0.01) or [step], range(1000), workers=2)
    next(generator)
    time.sleep(0.2)
    assert 1 < len(read) <= 5
    generator.close()


def test_an_error_is_raised_at_its_own_step():
    def fetch(step):
        if step == 3:
            raise OSError("cannot be read")
        return [step]

    generator = prefetched(fetch, range(10), workers=2)
    assert [next(generator) for _ in range(3)] == [[0], [1], [2]]
    with pytest.raises(OSError, match="cannot be read"):
        next(generator)
