"""What a run's folder tells about its preference training, read without loading any weights."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ernie_align.telemetry import AlarmConfig, deciding, judge, ratios
from ernie_core import io
from ernie_core.api import RunFolderError
from ernie_core.train.watch import METRICS, Alarm, Row, checkpoint_steps, read_rows

Table = Mapping[str, Any]
_GRID = re.compile(r"step-(\d{8,})\.png")


@dataclass(frozen=True)
class Episode:
    """An alarm and the last step at which it stood. ``stopped``: the run ended by it."""

    alarm: Alarm
    until: int


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
    config = _read_config(run)
    rows = list(read_rows(run / METRICS))
    alarms = _limits(config["method"], run)
    samples = run / "samples"
    grids = [
        (int(match.group(1)), path) for path in (samples.iterdir() if samples.is_dir() else ()) if (match := _GRID.fullmatch(path.name))
    ]
    return Story(
        name=run.resolve().name,
        config=config,
        training=[row for row in rows if ratios(row)[0] is not None],
        validation=[row for row in rows if any(name.startswith("validation/") for name in row)],
        events=list(_ledger(run / "ledger.jsonl")),
        samples=sorted(grids),
        checkpoints=checkpoint_steps(run),
        alarms=alarms,
        episodes=episodes(rows, alarms or AlarmConfig()),
    )


def episodes(rows: list[Row], limits: AlarmConfig) -> list[Episode]:
    """Every stretch of rows at which an alarm stood."""
    found: list[Episode] = []
    kept: list[Row] = []
    standing = False
    for i, row in enumerate(rows):
        kept = deciding([*kept, row], limits)
        alarm = judge(kept, limits)
        if alarm is None:
            standing = standing and ratios(row)[0] is None  # a row of validation says nothing about errors over the reference's
        elif standing and found[-1].alarm.rule == alarm.rule:
            found[-1] = Episode(found[-1].alarm, alarm.step)
        else:
            found.append(Episode(judge(rows[: i + 1], limits) or alarm, alarm.step))  # with all rows, for since when
            standing = True
    return found


def _read_config(run: Path) -> Table:
    path = run / "config.toml"
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(
            f"{run}: no run, as its config.toml cannot be read ({error.strerror}); give the folder that `ernie train` wrote"
        ) from error
    except ValueError as error:
        raise RunFolderError(f"{path}: damaged ({error})") from error
    method = config.get("method")
    use = method.get("use") if isinstance(method, dict) else None
    if use != "dpo":
        raise RunFolderError(f"{run}: a run of the method {use or 'pretrain'!r}; this report is about preference training, method 'dpo'")
    return config


def _limits(method: Table, run: Path) -> AlarmConfig | None:
    table = method.get("alarms", {})
    if table is False:
        return None
    try:
        return msgspec.convert(table, AlarmConfig)
    except msgspec.ValidationError as error:
        raise RunFolderError(f"{run / 'config.toml'}: method.alarms: {error}") from error


def _ledger(path: Path) -> Iterator[Table]:
    for line in io.read_lines(path) if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("step"), int):
            yield event
