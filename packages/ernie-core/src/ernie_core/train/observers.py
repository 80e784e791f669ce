"""Core's observers of a run: ``metrics.jsonl`` and TensorBoard. Light: TensorBoard is imported when a run starts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ernie_core import io
from ernie_core.plugins.hookspecs import RunView, hookimpl

METRICS = "metrics.jsonl"


def keep_until(step: int, line: str) -> bool:
    """Whether a line of a run's log was written at or before ``step``; lines that are no JSON objects with a step are dropped."""
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False


@hookimpl
def ernie_run_started(run: RunView) -> None:
    """After a kill the log may be ahead of the checkpoint that the run goes on from: those steps are computed, and logged, again."""
    io.rewrite_lines(run.directory / METRICS, lambda line: keep_until(run.start_step, line))
    if run.config.logging.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        run.kept["tensorboard"] = SummaryWriter(run.directory / "tensorboard", purge_step=run.start_step + 1)


@hookimpl
def ernie_step_finished(run: RunView, step: int, metrics: Mapping[str, float]) -> None:
    written = {name: value if math.isfinite(value) else None for name, value in metrics.items()}  # JSON knows no NaN
    io.append_line(run.directory / METRICS, json.dumps({"step": step, **written}, sort_keys=True))
    writer: Any = run.kept.get("tensorboard")
    if writer is not None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)


@hookimpl
def ernie_run_finished(run: RunView, step: int, reason: str) -> None:
    writer = run.kept.pop("tensorboard", None)
    if writer is not None:
        writer.close()
