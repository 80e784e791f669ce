"""How long to train: the recipe's step counts, or a number of minutes turned into steps once and written down before the first step."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ernie_core.api import DataError, RunFolderError, Stage
from ernie_core.io import read_lines, write_json

PLAN = "plan.json"
MIN_STEPS = 20
"""Per stage, however short the time."""


@dataclass(frozen=True)
class Plan:
    """Steps of each stage. ``minutes`` is what the user asked for, None for the recipe's own counts; ``seconds_per_step`` is what was measured."""

    steps: tuple[int, ...]
    minutes: float | None = None
    seconds_per_step: tuple[float, ...] = ()

    def stages(self, recipe: Sequence[Stage]) -> tuple[Stage, ...]:
        return tuple(Stage(size_px=s.size_px, steps=n, batch_size=s.batch_size) for s, n in zip(recipe, self.steps, strict=True))


def read_plan(out: Path, *, minutes: float | None) -> Plan | None:
    """The plan that an earlier call wrote, so that a run that was stopped goes on as it was begun.

    Raises:
        RunFolderError: it was made for another number of minutes.
        DataError: it cannot be read.
    """
    path = out / PLAN
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
        plan = Plan(tuple(int(n) for n in found["steps"]), found["minutes"], tuple(float(s) for s in found["seconds_per_step"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a plan of `ernie quickstart` ({type(error).__name__}: {error}); remove {out} or choose another --out"
        ) from None
    if minutes is not None and minutes != plan.minutes:
        planned = "the recipe's number of steps" if plan.minutes is None else f"{plan.minutes:g} minutes"
        raise RunFolderError(
            f"{out}: was begun with {planned}, now --minutes {minutes:g}. Leave --minutes out to go on, or choose another --out."
        )
    return plan


def write_plan(out: Path, plan: Plan) -> None:
    write_json(out / PLAN, {"steps": list(plan.steps), "minutes": plan.minutes, "seconds_per_step": list(plan.seconds_per_step)})


def plan_for_minutes(minutes: float, *, recipe: Sequence[Stage], seconds_per_step: Sequence[float]) -> Plan:
    """Scale the recipe's step counts by one factor, so that the stages keep their proportion and training takes about ``minutes``."""
    recipe_seconds = sum(stage.steps * seconds for stage, seconds in zip(recipe, seconds_per_step, strict=True))
    factor = minutes * 60 / recipe_seconds
    steps = tuple(max(MIN_STEPS, round(stage.steps * factor)) for stage in recipe)
    return Plan(steps, minutes, tuple(seconds_per_step))


def measured_seconds_per_step(metrics: Path, *, trial: Sequence[Stage]) -> tuple[float, ...]:
    """Median seconds per step of each stage from the ``images_per_s`` lines of a short trial run; a stage's first line (warm-up) does not count.

    Raises:
        DataError: a stage has fewer than two lines.
    """
    lines = [row for row in map(json.loads, read_lines(metrics)) if "images_per_s" in row]
    seconds, start = [], 0
    for stage in trial:
        rates = [row["images_per_s"] for row in lines if start < row["step"] <= start + stage.steps][1:]
        if not rates:
            raise DataError(f"{metrics}: no speed was measured for the stage of {stage.size_px} px")
        seconds.append(stage.batch_size / statistics.median(rates))
        start += stage.steps
    return tuple(seconds)
