"""A watch over a run: it stops one that destroys what it trains, and keeps the checkpoint from before. Light: no torch.

What is wrong with a row only a method's own package knows: it gives the rules, pure functions of logged rows. A run that is resumed is judged by the rows that
it has logged, as if it had never been interrupted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_core import io
from ernie_core.plugins.hookspecs import RunView
from ernie_core.train.observers import METRICS

_CHECKPOINT = re.compile(r"step-(\d{8,})")

Row = Mapping[str, float | None]
"""One logged row: ``step`` and the means over the steps since the last row. None: not finite."""


@dataclass(frozen=True)
class Alarm:
    """``found``: what was seen, with figures. ``meaning``: what it is a sign of. ``since``: the step before the first bad row."""

    rule: str
    step: int
    since: int
    found: str
    meaning: str


@dataclass(frozen=True)
class Rules:
    """How rows are judged. Pure: the same rows give the same answer, however they were come by.

    Attributes:
        judge: what is wrong at the end of a history, if anything is.
        is_healthy: whether a checkpoint made at the end of it is a good one.
        recent: as much of a history as the other two need: the same answers, with rows appended, as the whole.
    """

    judge: Callable[[Sequence[Row]], Alarm | None]
    is_healthy: Callable[[Sequence[Row]], bool]
    recent: Callable[[Sequence[Row]], list[Row]]


class Watch:
    """For an observer: ``catch_up`` when the run starts, ``logged`` for each row, ``saved`` for each checkpoint.

    Args:
        reason: why the run is stopped, in words, from the alarm and the start of a sentence on the last good checkpoint, which goes on with "another run".
    """

    def __init__(self, run: RunView, rules: Rules, reason: Callable[[Alarm, str], str]) -> None:
        self._run, self._rules, self._reason = run, rules, reason
        self._history: list[Row] = []
        self._good: int | None = None

    def catch_up(self) -> None:
        """Take over what the run logged before it was interrupted, and which of its checkpoints was the last good one.

        Rows of steps after the one it goes on from are left out: those steps are computed again.
        """
        rows = [row for row in read_rows(self._run.directory / METRICS) if step_of(row) <= self._run.start_step]
        saved = sorted(step for step in checkpoint_steps(self._run.directory) if step <= self._run.start_step)
        for row in rows:
            while saved and saved[0] < step_of(row):
                self.saved(saved.pop(0))
            self._add(row)
        for step in saved:
            self.saved(step)
        self._judge()  # what validation has found after the last step is acted on at the next one

    def logged(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add({"step": step, **{name: value if math.isfinite(value) else None for name, value in metrics.items()}})
        self._judge()

    def saved(self, step: int) -> None:
        """Spare the newest good checkpoint, and no longer the one before it."""
        if not self._rules.is_healthy(self._history):
            return
        if self._good is not None:
            self._run.control.spare_steps.discard(self._good)
        self._good = step
        self._run.control.spare_steps.add(step)

    def _add(self, row: Row) -> None:
        self._history = self._rules.recent([*self._history, row])

    def _judge(self) -> None:
        alarm = self._rules.judge(self._history)
        if alarm is not None and not self._run.control.stop_because:
            self._run.control.stop_because = self._reason(alarm, self._good_words())

    def _good_words(self) -> str:
        if self._good is None:
            return "No checkpoint was saved while the run was healthy. Begin"
        folder = self._run.directory / "checkpoints" / f"step-{self._good:08d}"
        return f"The last good checkpoint is of step {self._good}: {folder}. Use that one as it is, or begin"


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a run's ``metrics.jsonl``; lines that are no rows are passed over."""
    for line in io.read_lines(path) if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield {str(name): value for name, value in row.items() if value is None or isinstance(value, int | float)}


def checkpoint_steps(run: Path) -> list[int]:
    folder = run / "checkpoints"
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(match.group(1)) for name in names if (match := _CHECKPOINT.fullmatch(name)))


def step_of(row: Row) -> int:
    """
    Raises:
        ValueError: a row without its step.
    """
    step = row.get("step")
    if step is None:
        raise ValueError("a logged row without its step")
    return int(step)
