"""What a run's folder tells, read without loading any weights: its config, events, sample grids, and when its alarms stood."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ernie_core import io
from ernie_core.config.base import Config
from ernie_core.errors import RunFolderError
from ernie_core.train.watch import Alarm, Row, Rules

Table = Mapping[str, Any]
C = TypeVar("C", bound=Config)
_GRID = re.compile(r"step-(\d{8,})\.png")


@dataclass(frozen=True)
class Episode:
    """An alarm and the last step at which it stood."""

    alarm: Alarm
    until: int


def read_config(run: Path, *, method: str, about: str) -> Table:
    """The resolved config of a run of one method.

    Args:
        about: what the reader is about, for messages, such as "preference training".

    Raises:
        RunFolderError: no run, one of another method, or one whose config cannot be read.
    """
    path = run / "config.toml"
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(
            f"{run}: no run, as its config.toml cannot be read ({error.strerror}); give the folder that `ernie train` wrote"
        ) from error
    except ValueError as error:
        raise RunFolderError(f"{path}: damaged ({error})") from error
    table = config.get("method")
    use = table.get("use") if isinstance(table, dict) else None
    if use != method:
        raise RunFolderError(f"{run}: a run of the method {use or 'pretrain'!r}; this report is about {about}, method {method!r}")
    return config


def read_alarms(config: Table, run: Path, kind: type[C]) -> C | None:
    """The limits that a run was watched with; None where they were turned off.

    Raises:
        RunFolderError: they cannot be read.
    """
    table = config["method"].get("alarms", {})
    if table is False:
        return None
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        raise RunFolderError(f"{run / 'config.toml'}: method.alarms: {error}") from error


def read_events(run: Path) -> Iterator[Table]:
    """Of the run's ledger; lines that are no events are passed over."""
    path = run / "ledger.jsonl"
    for line in io.read_lines(path) if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("step"), int):
            yield event


def sample_grids(run: Path) -> list[tuple[int, Path]]:
    """By step."""
    folder = run / "samples"
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted((int(match.group(1)), path) for path in files if (match := _GRID.fullmatch(path.name)))


def episodes(
    rows: Sequence[Row], rules: Rules, *, speaks: Callable[[Row], bool], deciding: Callable[[Sequence[Row]], list[Row]] | None = None
) -> list[Episode]:
    """Every stretch of rows at which an alarm stood.

    Args:
        speaks: whether a row without an alarm says that it is over.
        deciding: as much of a history as tells whether there is an alarm and by which rule, where ``rules.recent`` grows while one stands.
    """
    found: list[Episode] = []
    kept: list[Row] = []
    standing = False
    for i, row in enumerate(rows):
        kept = (deciding or rules.recent)([*kept, row])
        alarm = rules.judge(kept)
        if alarm is None:
            standing = standing and not speaks(row)
        elif standing and found[-1].alarm.rule == alarm.rule:
            found[-1] = Episode(found[-1].alarm, alarm.step)
        else:
            found.append(Episode(rules.judge(rows[: i + 1]) or alarm, alarm.step))  # with all rows, for since when
            standing = True
    return found
