"""The watch over a run of preference training: it stops a run that destroys its policy, and keeps the checkpoint from before. Light: no torch.

A run that is resumed is judged by the rows that it has logged, as if it had never been interrupted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ernie_align.method_config import DpoConfig
from ernie_align.telemetry import Alarm, AlarmConfig, Row, is_healthy, judge, recent
from ernie_core import io
from ernie_core.api import RunView

KEPT = "align"
METRICS = "metrics.jsonl"
_CHECKPOINT = re.compile(r"step-(\d{8,})")


class Watch:
    """
    Args:
        run: whose options say what the limits are.
        limits: the method's ``alarms``.
    """

    def __init__(self, run: RunView, limits: AlarmConfig) -> None:
        self._run, self._limits = run, limits
        self._history: list[Row] = []
        self._good: int | None = None

    def catch_up(self) -> None:
        """Take over what the run logged before it was interrupted, and which of its checkpoints was the last good one.

        Rows of steps after the one it goes on from are left out: those steps are computed again.
        """
        rows = [row for row in read_rows(self._run.directory / METRICS) if _step(row) <= self._run.start_step]
        saved = sorted(step for step in checkpoint_steps(self._run.directory) if step <= self._run.start_step)
        for row in rows:
            while saved and saved[0] < _step(row):
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
        if not is_healthy(self._history, self._limits):
            return
        if self._good is not None:
            self._run.control.spare_steps.discard(self._good)
        self._good = step
        self._run.control.spare_steps.add(step)

    def _add(self, row: Row) -> None:
        self._history = recent([*self._history, row], self._limits)

    def _judge(self) -> None:
        alarm = judge(self._history, self._limits)
        if alarm is not None and not self._run.control.stop_because:
            self._run.control.stop_because = self._reason(alarm)

    def _reason(self, alarm: Alarm) -> str:
        if self._good is None:
            good = "No checkpoint was saved while the run was healthy. Begin"
        else:
            folder = self._run.directory / "checkpoints" / f"step-{self._good:08d}"
            good = f"The last good checkpoint is of step {self._good}: {folder}. Use that one as it is, or begin"
        return (
            f"{alarm.found}. That is, {alarm.meaning}. {good} another run with {_remedy(self._run)}. The limits are "
            "method.alarms, or method.alarms = false. See `ernie align report`"
        )


def start(run: RunView) -> None:
    """Watch a run of the method ``dpo`` whose alarms are not turned off."""
    options = run.config.method.options
    if isinstance(options, DpoConfig) and options.alarms is not None:
        run.kept[KEPT] = watch = Watch(run, options.alarms)
        watch.catch_up()


def watch_of(run: RunView) -> Watch | None:
    found = run.kept.get(KEPT)
    return found if isinstance(found, Watch) else None


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


def _remedy(run: RunView) -> str:
    options = run.config.method.options
    anchored = isinstance(options, DpoConfig) and options.loss.use in ("anchored-dpo", "hinge-anchors")
    anchors = "larger anchors (method.loss.anchor_win, anchor_lose)" if anchored else 'anchors (method.loss.use = "anchored-dpo")'
    return f"a lower optimizer.learning_rate, {anchors} or a larger method.loss.beta, which is content with a smaller margin"


def _step(row: Row) -> int:
    return int(row["step"] or 0)
