"""Real training processes that start in milliseconds, to be killed: one process imports torch and ernie once and forks a child per command.

Importing torch takes seconds, and a battery of kills starts dozens of processes. The nursery computes nothing itself and uses one thread, so that forking
is safe; each child runs ``ernie_core.cli.main.main(argv)``, as the ``ernie`` command does, but for fsync, which a kill does not need. Compare only
runs made in one nursery: results are bitwise the same for equal numbers of threads.

.. code-block:: python

    with Nursery() as nursery:
        child = nursery.start(["train", "run.toml", "--out", str(out)], log=tmp_path / "log", plan=at_step(3, "SIGKILL"))
        assert child.wait() == -signal.SIGKILL

The client half imports no torch. Linux and macOS only.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ernie_core.testing.mishaps import Plan, staged, without_fsync

PRELOADED = (
    "PIL.Image",
    "safetensors.torch",
    "torch.distributed",
    "ernie_core.cli.main",
    "ernie_core.cli.train",
    "ernie_core.latent.pixel",
    "ernie_core.text.bytes",
    "ernie_core.ops.select",
    "ernie_core.parallel.build",
    "ernie_core.sampling.samplers",
    "ernie_core.train.pretrain",
    "ernie_core.train.start",
)
POLL_S = 0.005


class StillRunning(AssertionError):
    """A child did not end in time: whatever it was meant to show, it hangs."""


@dataclass(frozen=True)
class Child:
    """A started command. Its stdout and stderr are in ``log``."""

    nursery: Nursery
    pid: int
    log: Path

    def wait(self, *, timeout_s: float = 120.0) -> int:
        """The exit code; the negative signal number if a signal ended it.

        Raises:
            StillRunning: after ``timeout_s``; the child is killed then.
        """
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            code = self.nursery.ask({"do": "poll", "pid": self.pid})["code"]
            if code is not None:
                return int(code)
            time.sleep(POLL_S)
        self.nursery.ask({"do": "end", "pid": self.pid})
        raise StillRunning(f"pid {self.pid} was still running after {timeout_s} s:\n{self.output()}")

    def send(self, number: int) -> None:
        """Send a signal; nothing happens if the child has already ended (it stays a zombie until it is waited for)."""
        os.kill(self.pid, number)

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class Nursery:
    """The parent of children, in a process of its own. ``path``: folders put on its ``sys.path``, e.g. of plugins that are not installed."""

    def __init__(self, *, path: Sequence[Path] = (), disable: Sequence[str] = ()) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        env["PYTHONPATH"] = os.pathsep.join([*map(str, path), *filter(None, [env.get("PYTHONPATH", "")])])
        env["ERNIE_DISABLE_PLUGINS"] = ",".join(disable)
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ernie_core.testing.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )

    def start(self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, plan: Plan | None = None) -> Child:
        """Fork a child that runs ``ernie ARGV`` with a mishap staged. ``log`` is appended to."""
        request = {"do": "start", "argv": list(argv), "log": str(log), "env": dict(env or {}), "plan": plan and plan.to_json()}
        return Child(self, int(self.ask(request)["pid"]), log)

    def start_ranks(
        self, ranks: int, argv: Sequence[str], *, log: Path, plans: Mapping[int, Plan] | None = None, env: Mapping[str, str] | None = None
    ) -> list[Child]:
        """One child per rank, as torchrun would start them on one machine; logs are ``log`` with the rank behind its name."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", **(env or {})}
        return [
            self.start(
                argv,
                log=log.with_name(f"{log.name}.{rank}"),
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                plan=(plans or {}).get(rank),
            )
            for rank in range(ranks)
        ]

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request and its answer. Several threads may ask."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, f"the nursery ended with exit code {self._process.wait()}"
        return json.loads(answer)

    def close(self) -> None:
        """End the nursery; it kills the children that are left."""
        self._process.communicate()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- inside the nursery ----


def serve() -> None:
    import torch

    torch.set_num_threads(1)
    for module in PRELOADED:
        import_module(module)
    gc.collect()
    gc.freeze()  # else each child's first collection copies every page
    children: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            pid = os.fork()
            if pid == 0:
                _be_the_child(request)
            children.add(pid)
            answer: dict[str, Any] = {"pid": pid}
        elif request["do"] == "end":
            _end(request["pid"])
            children.discard(request["pid"])
            answer = {}
        else:
            done, status = os.waitpid(request["pid"], os.WNOHANG)
            children.discard(done)
            answer = {"code": os.waitstatus_to_exitcode(status) if done else None}
        print(json.dumps(answer), flush=True)
    for pid in children:
        _end(pid)


def _be_the_child(request: Mapping[str, Any]) -> None:
    """Never returns. What goes wrong here ends the child with code 70, which no test expects."""
    code = 70
    try:
        null, log = os.open(os.devnull, os.O_RDONLY), os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ.update(request["env"])
        from ernie_core.cli.main import main

        with without_fsync(), staged(request["plan"]):
            code = main(request["argv"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _end(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    serve()
