"""SIGTERM, SIGINT and SIGUSR1 ask the trainer to commit and leave; a second signal leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_STOPPED = 75
"""Exit code of a run that was asked to stop and committed its state (EX_TEMPFAIL: run the same command again to go on)."""


class StopSignals:
    """Context in which the signals set ``stop`` instead of ending the process. Outside the main thread it does nothing."""

    def __init__(self) -> None:
        self.stop = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                self._previous[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            os._exit(128 + number)  # writes are atomic: whatever is cut off here was not visible yet
        self.stop = True
