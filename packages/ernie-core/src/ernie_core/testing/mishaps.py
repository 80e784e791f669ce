"""What can befall a training process, staged at a chosen point: a kill, a signal or a failing system call. Light: no torch.

A plan is data (a nursery hands it to a forked child); ``staged`` arms it in the process that is to suffer it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from ernie_core import io


@dataclass(frozen=True)
class Plan:
    """``where``: "step", "operation" or "call"; ``action``: a signal's name (sent to oneself) or an errno's name (raised as ``OSError``)."""

    where: str
    action: str
    number: int
    target: str = ""
    twice: bool = False
    trace: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def at_step(step: int, action: str, *, twice: bool = False) -> Plan:
    """After optimiser step ``step`` is done and before what is due then. ``twice``: the signal is sent two times."""
    return Plan("step", action, step, twice=twice)


def at_operation(number: int, action: str) -> Plan:
    """Instead of the ``number``-th (from 0) operation that ``ernie_core.io`` announces in this process; an errno is raised once."""
    return Plan("operation", action, number)


def in_call(target: str, action: str, *, call: int = 0) -> Plan:
    """When ``module:attribute.attribute`` is called for the ``call``-th time (from 0)."""
    return Plan("call", action, call, target)


def traced(path: Path) -> Plan:
    """No mishap: writes each announced operation as a line ``operation<TAB>path``."""
    return Plan("operation", "", -1, trace=str(path))


def read_trace(path: Path) -> list[tuple[str, Path]]:
    rows = (line.split("\t", 1) for line in path.read_text().splitlines())
    return [(operation, Path(name)) for operation, name in rows]


@contextmanager
def staged(plan: Plan | Mapping[str, Any] | None) -> Iterator[None]:
    """Arm a plan inside the context."""
    if plan is None:
        yield
        return
    if not isinstance(plan, Plan):
        plan = Plan(**plan)
    with ExitStack() as stack:
        if plan.where == "step":
            stack.enter_context(_steps_watched(plan))
        elif plan.where == "operation":
            stack.enter_context(io.observing(_operations_watched(plan)))
        else:
            stack.enter_context(_calls_watched(plan))
        yield


@contextmanager
def without_fsync() -> Iterator[None]:
    """``os.fsync`` does nothing inside: what a killed process wrote survives it in the page cache, so that only tests of lost power need to wait for
    disks. Announced operations stay announced."""

    def nothing(descriptor: int) -> None: ...

    with mock.patch.object(os, "fsync", nothing):
        yield


def _suffer(plan: Plan) -> None:
    if plan.action.startswith("SIG"):
        for _ in range(1 + plan.twice):
            os.kill(os.getpid(), signal.Signals[plan.action])
    else:
        number = getattr(errno, plan.action)
        raise OSError(number, os.strerror(number))


@contextmanager
def _steps_watched(plan: Plan) -> Iterator[None]:
    from ernie_core.cli.train import Progress

    original = Progress.on_step

    def on_step(self: Any, step: int, total: int) -> None:
        original(self, step, total)
        if step == plan.number:
            _suffer(plan)

    with mock.patch.object(Progress, "on_step", on_step):
        yield


def _operations_watched(plan: Plan) -> Callable[[str, Path], None]:
    count = 0

    def watch(operation: str, path: Path) -> None:
        nonlocal count
        count += 1
        if plan.trace:
            with open(plan.trace, "a", encoding="utf-8") as file:
                file.write(f"{operation}\t{path}\n")
        if count - 1 == plan.number:
            _suffer(plan)

    return watch


@contextmanager
def _calls_watched(plan: Plan) -> Iterator[None]:
    module, _, path = plan.target.partition(":")
    owner: Any = import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, count = getattr(owner, name), 0

    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count - 1 == plan.number:
            _suffer(plan)
        return original(*args, **kwargs)

    with mock.patch.object(owner, name, watched):
        yield
