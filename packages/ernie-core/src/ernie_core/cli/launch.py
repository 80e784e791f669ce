"""``--nproc N``: starts N ranks of a command on this machine, hands signals on to them and ends as they do. Light.

torchrun does the same for several machines, and the ranks cannot tell the difference; but it turns every exit code into 1 and signals into tracebacks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ernie_core.errors import ConfigError
from ernie_core.train.signals import EXIT_STOPPED

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
POLL_S = 0.1
GRACE_S = 20.0  # for the other ranks to notice that one has failed, and then again to follow a SIGTERM
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def launch(ranks: int, command: Sequence[str]) -> int:
    """Run ``command`` once per rank with torchrun's environment variables, and return the exit code of the run.

    0 if all ranks did it, 75 if they were asked to stop and committed, else the code of the first that failed (128 + the signal that ended it). When one
    fails, the others get ``GRACE_S`` to notice and are ended after that. If this process dies, the ranks are asked to stop.
    """
    if ranks < 1:
        raise ConfigError(f"--nproc {ranks}: expected at least 1")
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    shared = {
        "OMP_NUM_THREADS": threads,
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    processes: list[subprocess.Popen[bytes]] = []
    with _forwarding(processes):
        for rank in range(ranks):
            env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
            # a session of their own: Ctrl-C reaches them once, through this process, since a second signal means "at once"
            processes.append(subprocess.Popen(command, env=env, start_new_session=True, preexec_fn=_stop_with(os.getpid())))
        return _wait(processes)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    failed, deadline, asked = 0, float("inf"), False
    while any(process.poll() is None for process in processes):
        codes = [process.returncode for process in processes]
        bad = [code for code in codes if code not in (None, 0, EXIT_STOPPED)]
        if bad and not failed:
            failed, deadline = bad[0], time.monotonic() + GRACE_S
        if time.monotonic() > deadline:
            for process in processes:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL if asked else signal.SIGTERM)
            asked, deadline = True, time.monotonic() + GRACE_S
        time.sleep(POLL_S)
    codes = [process.returncode for process in processes]
    failed = failed or next((code for code in codes if code not in (0, EXIT_STOPPED)), 0)
    if failed:
        return 128 - failed if failed < 0 else failed
    return EXIT_STOPPED if EXIT_STOPPED in codes else 0


@contextmanager
def _forwarding(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop_with(parent: int) -> Callable[[], None] | None:
    """What a rank does before its program starts: ask the kernel for a SIGTERM when the launcher dies. Only Linux can."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(EXIT_STOPPED)

    return prepare


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
