"""``ernie quickstart [--out DIR] [--minutes M]``: a training set on disk, a model trained on it, pictures, and how many of them are right.

Everything goes through the same commands a user has: the recipe is a config for ``ernie train``, the training set a folder of PNG files, the result a
checkpoint for ``ernie sample``. Each part is kept once it is whole, so a call that was stopped is continued by the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_core import io
from ernie_core.api import DataError, Stage
from ernie_data.quickstart.plan import Plan, measured_seconds_per_step, plan_for_minutes, read_plan, write_plan
from ernie_data.shapes.profile import PROFILES, Profile

if TYPE_CHECKING:
    from ernie_core.api import App

PROFILE = "quick"
TRAINING_PICTURES, VALIDATION_PICTURES, PICTURE_PX, SET_SEED = 4000, 128, 32, 0
TRIAL_STEPS, TRIAL_LOG_STEPS = 24, 4
DATA, TRAINING, VALIDATION, RUN, TRIAL, CHECKPOINT = "data", "train", "validation", "run", "trial", "checkpoint"


def main(argv: Sequence[str], app: App) -> int:
    """Exit code 0: done; 75: stopped by a signal, run the same command again; 1 or 2: see the message."""
    arguments = _parser().parse_args(argv)
    # Idle OpenMP threads sleep instead of spinning: on two cores that something else uses too, spinning made a step 5 times slower (measured).
    # It has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # noqa: F401  that it is missing should be known before anything is written

    import ernie_data.quickstart.evaluate  # noqa: F401  and what the evaluation lacks, before the training

    out: Path = arguments.out
    with io.FolderLock(out), as_file(files("ernie_data.quickstart") / "recipe.toml") as recipe:
        quickstart = Quickstart(out, recipe, PROFILES[PROFILE], app, tuple(arguments.set))
        return quickstart.run(minutes=arguments.minutes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ernie quickstart",
        description="Train a small text-to-image model on this machine, look at its pictures and measure them.",
        epilog="Run the same command again to go on with what was stopped.",
    )
    parser.add_argument("--out", type=Path, default=Path("quickstart"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--minutes", type=_minutes, metavar="M", help="time for training; default: the recipe's number of steps")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", help="change the recipe, as in `ernie train`")
    return parser


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value <= 7 * 24 * 60:
        raise argparse.ArgumentTypeError(f"expected minutes above 0, at most a week, found {text}")
    return value


@dataclass(frozen=True)
class Quickstart:
    """One quickstart folder: ``data/``, ``plan.json``, ``run/``, ``checkpoint/``, then ``samples.png``, ``metrics.json`` and ``report.html``."""

    out: Path
    recipe: Path
    profile: Profile
    app: App
    overrides: tuple[str, ...] = ()

    def run(self, *, minutes: float | None) -> int:
        began = time.monotonic()
        self._write_data()
        plan = self._plan(minutes)
        code = self._train(self.out / RUN, plan, self.app)
        if code:
            return code
        io.remove_folder(self.out / TRIAL)
        checkpoint = self._keep_checkpoint()
        self._evaluate(checkpoint, plan, began)
        return 0

    def _write_data(self) -> None:
        from ernie_data.shapes.writer import write_set

        for split, count in ((TRAINING, TRAINING_PICTURES), (VALIDATION, VALIDATION_PICTURES)):
            folder = self.out / DATA / split
            if write_set(folder, self.profile, count=count, size_px=PICTURE_PX, seed=SET_SEED, split=split):
                self.app.err(f"{folder}: wrote {count} pictures with captions")

    def _stages(self) -> tuple[Stage, ...]:
        return self.app.load_config([self.recipe], self._settings()).config.stages

    def _plan(self, minutes: float | None) -> Plan:
        """The plan of an earlier call, or a new one, written down before the first step."""
        found = read_plan(self.out, minutes=minutes)
        if found is not None:
            return found
        recipe = self._stages()
        if minutes is None:
            plan = Plan(tuple(stage.steps for stage in recipe))
        else:
            self.app.err("measuring this machine with a few steps that are thrown away")
            plan = plan_for_minutes(minutes, recipe=recipe, seconds_per_step=self._measure(recipe))
            self.app.err(f"{minutes:g} minutes are about {' + '.join(map(str, plan.steps))} steps here")
        write_plan(self.out, plan)
        return plan

    def _measure(self, recipe: Sequence[Stage]) -> tuple[float, ...]:
        trial = Plan((TRIAL_STEPS,) * len(recipe))
        folder = self.out / TRIAL
        io.remove_folder(folder)
        quiet = (
            "validation.every_steps=0",
            "samples.every_steps=0",
            "logging.tensorboard=false",
            f"logging.every_steps={TRIAL_LOG_STEPS}",
        )
        code = self._train(folder, trial, Muted(self.app), quiet)
        if code:
            raise DataError(f"{folder}: the trial run was stopped before the speed was known; run the same command again")
        return measured_seconds_per_step(folder / "metrics.jsonl", trial=trial.stages(recipe))

    def _settings(self) -> list[str]:
        """The recipe's paths, absolute, so that the run can be continued from any folder, and the user's changes."""
        paths = {"data.path": TRAINING, "validation.data.path": VALIDATION}
        return [f"{key}={json.dumps(str((self.out / DATA / name).resolve()))}" for key, name in paths.items()] + list(self.overrides)

    def _train(self, folder: Path, plan: Plan, app: App | Muted, settings: Sequence[str] = ()) -> int:
        """``ernie train`` in this process; goes on with what is in the folder."""
        stages = ", ".join(f"{{size_px={s.size_px}, steps={s.steps}, batch_size={s.batch_size}}}" for s in plan.stages(self._stages()))
        arguments = [str(self.recipe), "--out", str(folder)]
        for setting in (*self._settings(), *settings, f"stages=[{stages}]"):
            arguments += ["--set", setting]
        return app.host.load("commands", "train")(arguments, app)

    def _keep_checkpoint(self) -> Path:
        """Copy the run's newest checkpoint to ``checkpoint/``, unless it is there already."""
        target = self.out / CHECKPOINT
        newest = self.out / RUN / "checkpoints" / (self.out / RUN / "latest").read_text().strip()
        manifest = io.read_manifest(newest)
        if target.exists():
            if io.verify_folder(target) is None and io.read_manifest(target)["files"] == manifest["files"]:
                return target
            io.remove_folder(target)
        facts = {name: value for name, value in manifest.items() if name not in ("files", "sha256")}
        size = sum(fact["bytes"] for fact in manifest["files"].values())
        with io.commit_folder(target, needed_bytes=size, facts=facts) as folder:
            for name in manifest["files"]:
                folder.add_file(name, partial(io.copy_file, newest / name))
        return target

    def _evaluate(self, checkpoint: Path, plan: Plan, began: float) -> None:
        config = self.app.load_config([self.recipe], self._settings()).config
        from ernie_data.quickstart.evaluate import evaluate

        result = evaluate(
            checkpoint, run=self.out / RUN, profile=self.profile, config=config, plan=plan, host=self.app.host, say=self.app.err
        )
        result.write(self.out, minutes=(time.monotonic() - began) / 60)
        for line in result.summary():
            self.app.out(line)
        self.app.out(f"{self.out / 'report.html'}: pictures, curves and the table. Go on with:")
        for line in result.commands(self.out):
            self.app.out(f"  {line}")


class Muted:
    """The same app with nothing printed, for the trial run."""

    def __init__(self, app: App) -> None:
        self.host, self.flags, self.plugins, self.disable = app.host, app.flags, app.plugins, app.disable
        self.load_config = app.load_config

    def out(self, text: str) -> None:
        pass

    def err(self, text: str) -> None:
        pass
