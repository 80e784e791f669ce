"""What a run's folder tells about its preference training, read without loading any weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ernie_align.telemetry import AlarmConfig, deciding, ratios
from ernie_align.watch import rules
from ernie_core.report import run as runs
from ernie_core.report.run import Episode, Table, read_alarms, read_config, read_events, sample_grids
from ernie_core.train.watch import METRICS, Row, checkpoint_steps, read_rows


@dataclass(frozen=True)
class Story:
    """``training`` are the rows with errors of policy and reference, ``validation`` those of validation. ``events``: the run's ledger.
    ``samples``: picture grids by step. ``alarms``: None where they were turned off."""

    name: str
    config: Table
    training: list[Row]
    validation: list[Row]
    events: list[Table]
    samples: list[tuple[int, Path]]
    checkpoints: list[int]
    alarms: AlarmConfig | None
    episodes: list[Episode] = field(default_factory=list)

    @property
    def method(self) -> Table:
        return self.config["method"]

    @property
    def is_held_out(self) -> bool:
        """Whether validation has data of its own: without it, it looks at training pairs."""
        return "data" in self.config.get("validation", {})

    @property
    def last_step(self) -> int:
        return max((int(row["step"] or 0) for row in (*self.training, *self.validation)), default=0)


def read_story(run: Path) -> Story:
    """
    Raises:
        RunFolderError: no run, one of another method, or one whose files cannot be read.
    """
    config = read_config(run, method="dpo", about="preference training")
    rows = list(read_rows(run / METRICS))
    alarms = read_alarms(config, run, AlarmConfig)
    return Story(
        name=run.resolve().name,
        config=config,
        training=[row for row in rows if _speaks(row)],
        validation=[row for row in rows if any(name.startswith("validation/") for name in row)],
        events=list(read_events(run)),
        samples=sample_grids(run),
        checkpoints=checkpoint_steps(run),
        alarms=alarms,
        episodes=episodes(rows, alarms or AlarmConfig()),
    )


def episodes(rows: Sequence[Row], limits: AlarmConfig) -> list[Episode]:
    """Every stretch of rows at which an alarm stood."""
    return runs.episodes(rows, rules(limits), speaks=_speaks, deciding=partial(deciding, config=limits))


def _speaks(row: Row) -> bool:
    """A row of validation says nothing about errors over the reference's."""
    return ratios(row)[0] is not None
