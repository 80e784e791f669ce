"""Reads the records of coming steps in threads while the current one trains. Order and content depend on the step alone, never on timing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ernie_core.records import Record

LOOKAHEAD_PER_WORKER = 2


def prefetched(fetch: Callable[[int], Sequence[Record]], steps: range, *, workers: int) -> Iterator[Sequence[Record]]:
    """``fetch(step)`` for each step in order; with ``workers`` threads up to ``2 * workers`` steps ahead, with 0 in place.

    An exception of ``fetch`` is raised when its step is reached, not before.
    """
    if workers == 0:
        yield from map(fetch, steps)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fetch")
    waiting: deque[Future[Sequence[Record]]] = deque()
    try:
        ahead = iter(steps)
        for step in ahead:
            waiting.append(pool.submit(fetch, step))
            if len(waiting) > LOOKAHEAD_PER_WORKER * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
