"""The backend `ray`: the same expendable worker processes, placed on the nodes of a Ray cluster.

Ray schedules units and holds actors, nothing else. Each actor keeps one worker process of the local backend, so that limits, watchdogs and the
blame for a death are the same code; an actor that is lost with its node costs its unit one more try elsewhere. Records, tables and pictures never
pass through Ray: workers read sources and commit units on the shared file system, hence the same bytes as with the local backend.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ernie_core.api import ErnieError, StorageError
from ernie_data.engine.chain import SURVEY, Chain, Link, Plugins
from ernie_data.engine.local import POLL_S, UNIT_TRIES, LocalPool, WorkersLost, usable_cores
from ernie_data.engine.store import Receipt
from ernie_data.engine.task import SurveyTask, Task
from ernie_data.recipe import RunOptions


class Outcome(msgspec.Struct):
    """What an actor answers: a receipt, or why there is none. ``storage`` and ``lost``: no other unit will fare better."""

    receipt: Receipt | None = None
    failed: str = ""
    storage: str = ""
    lost: str = ""
    deaths: int = 0


class Slot:
    """What runs inside a Ray actor: one worker process for the tasks of one lane. Messages are JSON, as to local workers."""

    def __init__(self, links: bytes, actors: list[bool], limits: bytes, plugins: bytes) -> None:
        chain = _Lanes(msgspec.json.decode(links, type=list[Link]), actors)
        one = msgspec.structs.replace(msgspec.json.decode(limits, type=RunOptions), workers=1, actors={}, gpus=())
        self.pool = LocalPool(chain, one, msgspec.json.decode(plugins, type=Plugins))

    def do(self, task: bytes) -> bytes:
        outcome, before = Outcome(), self.pool.deaths

        def done(task: Task, receipt: Receipt) -> list[Task]:
            outcome.receipt = receipt
            return []

        def failed(task: Task, why: str) -> None:
            outcome.failed = why

        try:
            self.pool.run([msgspec.json.decode(task, type=Task)], done, failed, lambda: None)
        except StorageError as error:
            outcome.storage = str(error)
        except WorkersLost as error:
            outcome.lost = str(error)
        outcome.deaths = self.pool.deaths - before
        return msgspec.json.encode(outcome)


class _Lanes:
    """As much of a chain as a pool asks for."""

    def __init__(self, links: Sequence[Link], actors: Sequence[bool]) -> None:
        self.links = tuple(links)
        self.actors = tuple(actors)


class RayPool:
    """See ``LocalPool``; raises what that raises, and ErnieError where Ray is missing or no cluster can be reached."""

    def __init__(self, chain: Chain, limits: RunOptions, plugins: Plugins) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ErnieError('run.backend = "ray" needs Ray: pip install "ernie-data[ray]"') from None
        self._ray = ray
        self.limits = limits
        self.deaths = 0
        self._lanes = [link.name if actor else "" for link, actor in zip(chain.links, chain.actors)]
        self._setup = tuple(map(msgspec.json.encode, (list(chain.links), list(chain.actors), limits, plugins)))
        self._mine = not ray.is_initialized()
        if self._mine:
            try:
                ray.init(**_where(limits), include_dashboard=False, log_to_driver=False, logging_level="error")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise ErnieError(f"no Ray cluster at {limits.ray_address or 'this machine'}: {str(error).splitlines()[0]}") from error
        self.workers = limits.workers or int(ray.cluster_resources().get("CPU", 1))
        self._slots: dict[str, list[Any]] = {}
        self._lost: Counter[str] = Counter()

    def run(
        self,
        tasks: Sequence[Task],
        done: Callable[[Task, Receipt], Sequence[Task]],
        failed: Callable[[Task, str], None],
        tick: Callable[[], None],
    ) -> None:
        ray = self._ray
        waiting: dict[str, deque[Task]] = {}
        running: dict[Any, tuple[str, Any, Task]] = {}

        def wait(tasks: Sequence[Task]) -> None:
            for task in reversed(tasks):
                waiting.setdefault(self._lane(task), deque()).appendleft(task)

        wait(tasks)
        while any(waiting.values()) or running:
            for lane, queue in waiting.items():
                while queue and (slot := self._free(lane, running)) is not None:
                    task = queue.popleft()
                    running[slot.do.remote(msgspec.json.encode(task))] = (lane, slot, task)
            ready, _ = ray.wait(list(running), timeout=POLL_S)
            for answer in ready:
                lane, slot, task = running.pop(answer)
                try:
                    outcome = msgspec.json.decode(ray.get(answer), type=Outcome)
                except ray.exceptions.RayActorError as error:
                    self._slots[lane].remove(slot)
                    self.deaths += 1
                    self._lost[task.unit] += 1
                    if self._lost[task.unit] >= UNIT_TRIES:
                        failed(task, f"its Ray actor was lost {UNIT_TRIES} times, last: {str(error).splitlines()[0]}")
                    else:
                        wait([task])
                    continue
                self.deaths += outcome.deaths
                if outcome.storage:
                    raise StorageError(outcome.storage)
                if outcome.lost:
                    raise WorkersLost(outcome.lost)
                if outcome.receipt is not None:
                    wait(done(task, outcome.receipt))
                else:
                    failed(task, outcome.failed)
            tick()

    def close(self) -> None:
        for slots in self._slots.values():
            for slot in slots:
                self._ray.kill(slot)
        self._slots.clear()
        if self._mine:
            self._ray.shutdown()

    def _lane(self, task: Task) -> str:
        return SURVEY if isinstance(task, SurveyTask) else self._lanes[task.stage]

    def _free(self, lane: str, running: dict[Any, tuple[str, Any, Task]]) -> Any | None:
        """An idle actor of a lane, started if there may be one more."""
        slots = self._slots.setdefault(lane, [])
        busy = {id(slot) for _, slot, _ in running.values()}
        for slot in slots:
            if id(slot) not in busy:
                return slot
        most = self.workers if lane == "" else 1 if lane == SURVEY else self.limits.actors.get(lane, 1)
        if len(slots) >= most:
            return None
        gpus = 0 if lane in ("", SURVEY) else self.limits.gpus_per_actor
        actor = self._ray.remote(Slot).options(num_cpus=1 if lane == "" else 0, num_gpus=gpus, max_restarts=0)
        slots.append(actor.remote(*self._setup))
        return slots[-1]


def _where(limits: RunOptions) -> dict[str, Any]:
    address = limits.ray_address or os.environ.get("RAY_ADDRESS", "")
    return {"address": address} if address else {"num_cpus": max(limits.workers, usable_cores())}
