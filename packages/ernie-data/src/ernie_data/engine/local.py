"""The backend `local`: a pool of expendable worker processes on this machine.

A worker that dies costs the unit it worked on one more try, in a new process and record by record; a record that ends its process again is refused
by name, with how. A SIGKILL that nobody here sent may come from outside, so it takes more of them at one record to blame the record.
Which worker does what never shows in the output.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

import msgspec

from ernie_core.api import ErnieError, StorageError
from ernie_data.engine.chain import SURVEY, Chain, Plugins
from ernie_data.engine.store import Receipt
from ernie_data.engine.task import SurveyTask, Task
from ernie_data.engine.worker import HEARTBEAT, OUT_OF_MEMORY_EXIT, Reply, WorkerSetup
from ernie_data.reasons import ReasonCode
from ernie_data.recipe import RunOptions

BLAMES = {ReasonCode.CRASHED: 2, ReasonCode.TIMEOUT: 2, ReasonCode.OUT_OF_MEMORY: 2, ReasonCode.KILLED: 3}
"""How often a record, processed alone, must end its process in one way before it is refused for it."""
UNIT_TRIES = 8
"""How often in a row a unit's process may end outside of any record (starting, committing) before the unit fails."""
LOST_IN_A_ROW = 12
"""So many processes in a row (and two more per worker) that end outside of any record, without one unit of the stage done in between, end the build: none would get
to work."""
QUIET_TIMEOUT_S = 900.0
"""For starting, loading models and committing."""
POLL_S = 0.2
_END_S = 10.0


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _History:
    """What befell a unit so far."""

    blames: Counter[tuple[int, ReasonCode]] = field(default_factory=Counter)
    outside: int = 0


class WorkersLost(ErnieError):
    """Worker processes end before they get to work."""


class LocalPool:
    """Processes in lanes: one lane for all stages that decode and compute, with a memory limit; one for each stage that holds a model, without; one
    for surveys, without.

    Args:
        chain: the stages.
        limits: how many processes, and what each may take.
        plugins: what workers may load.
    """

    def __init__(self, chain: Chain, limits: RunOptions, plugins: Plugins) -> None:
        self.stages = list(chain.links)
        self.actors = [link.name if actor else "" for link, actor in zip(chain.links, chain.actors)]
        self.limits = limits
        self.plugins = plugins
        self.workers = limits.workers or usable_cores()
        self.memory_mib = limits.memory_mib
        self.deaths = 0
        self._lost: Counter[int] = Counter()  # by stage
        self._histories: dict[str, _History] = {}
        self._pool: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def lane(self, task: Task) -> str:
        return SURVEY if isinstance(task, SurveyTask) else self.actors[task.stage]

    def capacity(self, lane: str) -> int:
        """Most processes of a lane."""
        if lane == "":
            return self.workers
        return 1 if lane == SURVEY else self.limits.actors.get(lane, 1)

    def run(
        self,
        tasks: Sequence[Task],
        done: Callable[[Task, Receipt], Sequence[Task]],
        failed: Callable[[Task, str], None],
        tick: Callable[[], None],
    ) -> None:
        """Run tasks and those that ``done`` returns for them; later stages go first. ``tick`` is called at least every 0.2 s. Processes stay for the
        next call, until ``close``.

        Raises:
            StorageError: the output cannot be written; running units are abandoned.
            WorkersLost: no process gets to work, e.g. because its memory limit is too small.
        """
        waiting: dict[str, deque[Task]] = {}

        def wait(tasks: Sequence[Task]) -> None:
            for task in reversed(tasks):
                waiting.setdefault(self.lane(task), deque()).appendleft(task)

        wait(tasks)
        while any(waiting.values()) or any(w.task for w in self._pool):
            for lane, queue in waiting.items():
                self._hand_out(lane, queue)
            for key, _ in self._selector.select(POLL_S):
                worker = key.data
                task, reply, ended = worker.hear()
                if ended:
                    self._selector.unregister(worker.answers)
                    self._pool.remove(worker)
                    worker.close()
                    if task is not None and (again := self._after_death(task, worker, failed)) is not None:
                        wait([again])
                elif reply is not None:
                    self._histories.pop(reply.task.unit, None)
                    self._lost[reply.task.stage] = 0
                    if reply.reply.receipt is not None:
                        wait(done(reply.task, reply.reply.receipt))
                    elif reply.reply.storage:
                        raise StorageError(reply.reply.failed)
                    else:
                        failed(reply.task, reply.reply.failed)
            for worker in self._pool:
                worker.watch(self.limits.actor_timeout_s if worker.lane else self.limits.record_timeout_s)
            tick()

    def _hand_out(self, lane: str, queue: deque[Task]) -> None:
        """Give tasks to idle processes of a lane, and start those that are missing."""
        mine = [w for w in self._pool if w.lane == lane]
        for worker in [w for w in mine if w.task is None][: len(queue)]:
            worker.give(queue.popleft())
        for number in range(len(mine), self.capacity(lane)):
            if queue:
                worker = _Worker(self, lane, number)
                self._pool.append(worker)
                self._selector.register(worker.answers, selectors.EVENT_READ, worker)
                worker.give(queue.popleft())

    def close(self) -> None:
        """End all processes: idle ones in peace, the others at once."""
        for worker in self._pool:
            if worker.task is None:
                worker.dismiss()
        for worker in self._pool:
            worker.close()
        self._pool.clear()
        self._selector.close()

    def _after_death(self, task: Task, worker: _Worker, failed: Callable[[Task, str], None]) -> Task | None:
        """Decide whom a death is blamed on; returns what is to be tried again, None to give up."""
        self.deaths += 1
        history = self._histories.setdefault(task.unit, _History())
        row, (reason, detail) = worker.row(), worker.cause()
        self._lost[task.stage] = lost = self._lost[task.stage] + 1 if row < 0 else 0
        if lost >= LOST_IN_A_ROW + 2 * self.workers:
            raise WorkersLost(
                f"stage {task.stage_name}: {lost} worker processes in a row ended before they got to work, the last by: {detail}. "
                f"Their memory limit is run.memory_mib = {self.memory_mib}; raise it, or look for what ends them."
            )
        if isinstance(task, SurveyTask) or row < 0 or not task.one_by_one:
            history.outside += row < 0
            if history.outside >= UNIT_TRIES:
                failed(task, f"its process ended {history.outside} times outside of any record, last by {detail}")
                return None
        else:
            history.blames[row, reason] += 1
            if history.blames[row, reason] >= BLAMES[reason]:
                task = msgspec.structs.replace(task, refused={**task.refused, row: (str(reason), detail)})
        return task if isinstance(task, SurveyTask) else msgspec.structs.replace(task, one_by_one=task.one_by_one or row >= 0)


@dataclass(frozen=True)
class _Heard:
    task: Task
    reply: Reply


class _Worker:
    """One process, its pipes, and what it is doing."""

    def __init__(self, pool: LocalPool, lane: str, number: int) -> None:
        self.lane = lane
        self._beats: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed in close(). Nameless: it vanishes with its last user
        self._beats.write(HEARTBEAT.pack(-1, 0))
        self._beats.flush()
        self.answers, reply = os.pipe()
        os.set_blocking(self.answers, False)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        extra = dict.fromkeys(names, "1") if lane == "" else {}  # many small processes; a model or a survey may use all cores
        extra["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve address space, which is limited
        if lane not in ("", SURVEY) and pool.limits.gpus:
            extra["CUDA_VISIBLE_DEVICES"] = pool.limits.gpus[number % len(pool.limits.gpus)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ernie_data.engine.worker"],  # -P: nothing is imported from the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=(reply, self._beats.fileno()),
            env={**os.environ, **extra},
        )
        os.close(reply)
        self._requests: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        self.task: Task | None = None
        self._heard = b""
        self._timed_out = False
        self._last_row = -1
        self._seen = (-1, 0, time.monotonic())  # row, beats, when they were new
        memory_mib = pool.memory_mib if lane == "" else 0
        setup = WorkerSetup(pool.stages, pool.plugins, memory_mib, os.getpid(), reply, self._beats.fileno())
        self._say(msgspec.json.encode(setup) + b"\n")

    def give(self, task: Task) -> None:
        self.task = task
        self._seen = (*self._seen[:2], time.monotonic())
        self._say(msgspec.json.encode(task) + b"\n")

    def _say(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # it died: the answering pipe's end says so
            self._requests.write(line)
            self._requests.flush()

    def hear(self) -> tuple[Task | None, _Heard | None, bool]:
        """The current task, a whole reply if there is one, and whether the process is gone."""
        data = os.read(self.answers, 1 << 20)
        task = self.task
        if not data:
            return task, None, True
        self._heard += data
        if not self._heard.endswith(b"\n"):
            return task, None, False
        reply = msgspec.json.decode(self._heard, type=Reply)
        self._heard, self.task = b"", None
        return task, _Heard(task, reply) if task is not None else None, False

    def watch(self, record_timeout_s: float) -> None:
        """End the process if it has been silent for too long."""
        if self.task is None:
            return
        row, beats = HEARTBEAT.unpack(os.pread(self._beats.fileno(), HEARTBEAT.size, 0))
        if (row, beats) != self._seen[:2]:
            self._seen = (row, beats, time.monotonic())
        elif time.monotonic() - self._seen[2] > (record_timeout_s if row >= 0 else QUIET_TIMEOUT_S):
            self._timed_out = True
            self._process.kill()

    def row(self) -> int:
        """The record that was being worked on, -1 if none. Known after ``close`` too."""
        return self._last_row

    def cause(self) -> tuple[ReasonCode, str]:
        """How the process ended."""
        code = self._process.returncode
        if self._timed_out:
            return ReasonCode.TIMEOUT, "the time limit of one record was exceeded"
        if code == OUT_OF_MEMORY_EXIT:
            return ReasonCode.OUT_OF_MEMORY, "the memory limit of one worker was exceeded"
        if code == -signal.SIGKILL:
            return ReasonCode.KILLED, "SIGKILL from outside"
        return ReasonCode.CRASHED, signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def dismiss(self) -> None:
        """Let an idle process end in peace."""
        self._say(b"\n")
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def close(self) -> None:
        """End the process if it still runs, and note what it was doing."""
        if self._beats.closed:
            return
        self._process.kill()
        self._process.wait()
        self._last_row = int(HEARTBEAT.unpack(os.pread(self._beats.fileno(), HEARTBEAT.size, 0))[0])
        self._beats.close()
        os.close(self.answers)
        with suppress(OSError):
            self._requests.close()
