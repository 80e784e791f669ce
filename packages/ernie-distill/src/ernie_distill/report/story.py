"""What a run's folder tells about its distillation, read without loading any weights; and what ``ernie distill drift`` found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ernie_core.api import DataError
from ernie_core.report.run import Episode, Table, episodes, read_alarms, read_config, read_events, sample_grids
from ernie_core.train.watch import METRICS, Row, checkpoint_steps, read_rows
from ernie_distill.drift.assess import FORMAT
from ernie_distill.report.drift import drift_section
from ernie_distill.telemetry import AlarmConfig
from ernie_distill.watch import rules


@dataclass(frozen=True)
class Story:
    """``rows``: all that was logged. ``events``: the run's ledger. ``samples``: picture grids by step. ``alarms``: None where they were turned off."""

    name: str
    config: Table
    rows: list[Row]
    events: list[Table]
    samples: list[tuple[int, Path]]
    checkpoints: list[int]
    alarms: AlarmConfig | None
    episodes: list[Episode] = field(default_factory=list)

    @property
    def method(self) -> Table:
        return self.config["method"]

    @property
    def last_step(self) -> int:
        return max((int(row["step"] or 0) for row in self.rows), default=0)


def read_story(run: Path) -> Story:
    """
    Raises:
        RunFolderError: no run, one of another method, or one whose files cannot be read.
    """
    config = read_config(run, method="mt-dmd", about="distillation")
    rows = list(read_rows(run / METRICS))
    alarms = read_alarms(config, run, AlarmConfig)
    return Story(
        name=run.resolve().name,
        config=config,
        rows=rows,
        events=list(read_events(run)),
        samples=sample_grids(run),
        checkpoints=checkpoint_steps(run),
        alarms=alarms,
        episodes=episodes(rows, rules(alarms or AlarmConfig()), speaks=lambda row: True),
    )


def read_drift(path: Path) -> dict[str, Any]:
    """
    Raises:
        DataError: the file cannot be read, or is no assessment of this format.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the drift.json that `ernie distill drift` wrote") from error
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); run `ernie distill drift` again") from error
    form = found.get("format") if isinstance(found, dict) else None
    if form != FORMAT:
        raise DataError(f"{path}: format {form!r}, expected {FORMAT}; run `ernie distill drift` again")
    try:
        drift_section(found)
        worst_ids(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error}); run `ernie distill drift` again") from error
    return found


def worst_ids(drift: Mapping[str, Any] | None) -> list[str]:
    """Of the prompts that lost most."""
    return [str(one["id"]) for one in drift["worst_prompts"]] if drift is not None else []
