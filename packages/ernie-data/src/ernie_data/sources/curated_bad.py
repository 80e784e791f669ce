"""What happens to records that cannot be used: each is a line in the run's ledger, and too many stop the run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ernie_core.api import DataError

EVENT = "bad-sample"


class BadSamples:
    """Counts of this process, over all its threads. They stop a run and never choose a sample, so they are not kept over a restart.

    Args:
        share: of the last ``window`` records that may be bad. A younger run may have as many as a whole window may.
        in_a_row: so many without a good one in between stop it too.
        note: see ``DataSourceContext``.
    """

    def __init__(
        self, where: str, *, share: float, window: int, in_a_row: int, note: Callable[[str, int, Mapping[str, Any]], None]
    ) -> None:
        self.where, self.share, self.window, self.in_a_row, self.note = where, share, window, in_a_row, note
        self.seen = 0
        self.row = 0
        self._bad: deque[int] = deque()  # when, counted in records, of those inside the window
        self._lock = threading.Lock()

    def good(self) -> None:
        with self._lock:
            self.seen += 1
            self.row = 0

    def bad(self, step: int, *, slot: int, row: int, attempt: int, why: str) -> None:
        """
        Raises:
            DataError: there are too many.
        """
        self.note(EVENT, step, {"slot": slot, "row": row, "attempt": attempt, "why": why})
        with self._lock:
            self.seen += 1
            self.row += 1
            self._bad.append(self.seen)
            while self._bad[0] <= self.seen - self.window:
                self._bad.popleft()
            in_window, in_a_row = len(self._bad), self.row
        allowed = int(self.share * self.window)
        if in_a_row < self.in_a_row and in_window <= allowed:
            return
        what = (
            f"{in_a_row} records in a row could not be used"
            if in_a_row >= self.in_a_row
            else f"{in_window} of the last {min(self.seen, self.window)} records could not be used; {allowed} of {self.window} may"
        )
        raise DataError(
            f"{self.where}: {what}. The last one: {why} All of them are in the run's ledger as `{EVENT}`. Repair the data set with "
            "`ernie data build --verify` and run the same command again."
        )
