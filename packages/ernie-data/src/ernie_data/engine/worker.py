"""A worker process: ``python -m ernie_data.engine.worker``, one unit at a time over pipes, expendable at any moment.

The first line on stdin says which stages there are and the limits; each further line is a ``Task``; each line on the answering pipe a ``Reply``.
Which record is being worked on is written to a small anonymous file that the driver reads when it wants to know, or when this process is gone.
A worker ends when its driver does: it is signalled by the kernel (Linux), and a thread sees the end of stdin (everywhere).
"""

from __future__ import annotations

import ctypes
import os
import queue
import resource
import signal
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec

from ernie_core.api import ErnieError, StorageError
from ernie_data.engine.chain import Link, Plugins, Workshop
from ernie_data.engine.stage import DataStage, Surveyor
from ernie_data.engine.store import Receipt
from ernie_data.engine.task import Mark, SurveyTask, Task, run_survey, run_unit

OUT_OF_MEMORY_EXIT = 77
HEARTBEAT = struct.Struct("<qq")  # row number (-1: outside of rows), number of beats
_PR_SET_PDEATHSIG = 1


class WorkerSetup(msgspec.Struct):
    """``stages``: the chain; ``driver`` is the pid to live with; ``reply`` and ``heartbeat`` are open descriptors; ``memory_mib`` = 0: no limit."""

    stages: list[Link]
    plugins: Plugins
    memory_mib: int
    driver: int
    reply: int
    heartbeat: int


class Reply(msgspec.Struct):
    """What became of a unit: a receipt, or why it failed. ``storage``: no other unit will fare better."""

    receipt: Receipt | None = None
    failed: str = ""
    storage: bool = False


def main() -> int:
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerSetup)
    _live_with(setup.driver)
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    warnings.simplefilter("ignore")  # of decoders, about pictures; what matters becomes a reason
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if setup.memory_mib:
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory_mib << 20, setup.memory_mib << 20))
    bench = Bench(setup.stages, setup.plugins)
    beats = 0

    def mark(row: int) -> None:
        nonlocal beats
        beats += 1
        os.pwrite(setup.heartbeat, HEARTBEAT.pack(row, beats), 0)

    while line := lines.get():
        task = msgspec.json.decode(line, type=Task)
        mark(-1)
        try:
            reply = Reply(bench.do(task, mark))
        except MemoryError:
            os._exit(OUT_OF_MEMORY_EXIT)  # the heap may be unfit for more; the driver knows which record it was
        except ImportError as error:
            if setup.memory_mib and "failed to map segment" in str(error):  # a library did not fit into the address space
                os._exit(OUT_OF_MEMORY_EXIT)
            reply = Reply(failed=f"{type(error).__name__}: {error}")
        except StorageError as error:
            reply = Reply(failed=str(error), storage=True)
        except ErnieError as error:
            reply = Reply(failed=str(error))
        except Exception as error:  # of a stage by any author: costs this unit, which the driver names
            place = traceback.extract_tb(error.__traceback__)[-1]
            reply = Reply(failed=f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno})")
        _write(setup.reply, msgspec.json.encode(reply) + b"\n")
    bench.clear()
    return 0


class Bench:
    """The stages that a worker of any backend has set up, and doing tasks with them."""

    def __init__(self, links: Sequence[Link], plugins: Plugins) -> None:
        self.links = links
        self.workshop = Workshop(plugins)
        self.stages: dict[tuple[int, str], DataStage] = {}

    def do(self, task: Task, mark: Mark) -> Receipt:
        """Do one task and commit its output; see ``run_unit`` and ``run_survey`` for what it raises."""
        if isinstance(task, SurveyTask):
            stage = self.links[task.stage].build_stage(self.workshop)
            return run_survey(cast(Surveyor, stage), task)
        key = (task.stage, task.survey)
        if key not in self.stages:
            stage = self.links[task.stage].build_stage(self.workshop, Path(task.survey) if task.survey else None)
            stage.setup()
            self.stages[key] = stage
        return run_unit(self.stages[key], task, mark)

    def clear(self) -> None:
        for stage in self.stages.values():
            stage.teardown()


def _live_with(driver: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    if os.getppid() != driver:  # it was gone before the kernel knew
        os._exit(0)


def _listen(lines: queue.SimpleQueue[bytes]) -> None:
    """Requests, then either the word to end in peace (an empty line) or the end of a driver that was killed."""
    for line in sys.stdin.buffer:
        if line == b"\n":
            lines.put(b"")
            return
        lines.put(line)
    os._exit(0)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    raise SystemExit(main())
