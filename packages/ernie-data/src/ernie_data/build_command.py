"""``ernie data build`` and ``ernie data status``."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ernie_core.api import DataError
from ernie_data.engine.build import PLAN, Progress, build_dataset
from ernie_data.engine.chain import Plugins
from ernie_data.engine.store import MANIFEST, Store, holder, read_manifest
from ernie_data.engine.unit import digest
from ernie_data.recipe import load_recipe
from ernie_data.tables import ROWS

if TYPE_CHECKING:
    from ernie_core.api import App
    from ernie_data.recipe import Recipe

_EVERY_S = 2.0


def build(arguments: argparse.Namespace, app: App) -> int:
    """Exit code 0: every record is accounted for; 1: units failed."""
    return build_recipe(load_recipe(arguments.config, app, overrides=tuple(arguments.set)), arguments, app)


def build_recipe(recipe: Recipe, arguments: argparse.Namespace, app: App) -> int:
    """The same for a recipe, wherever it came from."""
    if arguments.workers:
        recipe = msgspec.structs.replace(recipe, run=msgspec.structs.replace(recipe.run, workers=arguments.workers))
    plugins = Plugins(app.plugins, app.disable)
    about = build_dataset(recipe, arguments.out, plugins=plugins, verify=arguments.verify, only=arguments.only, tell=_Teller(app))
    for problem in about["repaired"]:
        app.err(f"repaired: {problem}")
    if arguments.json:
        app.out(json.dumps({k: v for k, v in about.items() if k != "units"}, ensure_ascii=False))
        return 0
    app.out(f"{arguments.out}: {about['records']} records = {about['accepted']} accepted + {about['rejected']} rejected")
    for stage in about["stages"]:
        app.out(f"  {stage['stage']}: {stage['entered']} in, {stage['accepted']} accepted" + _reasons(stage["rejected"]))
    if about["captions_not_used"]:
        app.out(f"  captions that could not be used: {about['captions_not_used']} (column caption_error)")
    if about["ignored_files"]:
        app.out(f"  files of other kinds, not read: {', '.join(f'{s} {n}' for s, n in about['ignored_files'].items())}")
    return 0


def status(arguments: argparse.Namespace, app: App) -> int:
    """What an output folder holds, also while a build runs. Exit code 1: ``--verify`` found damage."""
    out: Path = arguments.folder
    if not (out / PLAN).is_file():
        raise DataError(f"{out}: no build output (no {PLAN}); expected a folder made by `ernie data build`")
    plan = json.loads((out / PLAN).read_bytes())
    made_by = {about["stage"]: (digest(about["options"]), about["code"]) for about in plan["stages"]}
    stages: dict[str, dict[str, Any]] = {name: {"units": 0, "entered": 0, "accepted": 0, "rejected": Counter()} for name in made_by}
    for line in read_manifest(out / MANIFEST):
        if ROWS not in line.receipt.files:  # a survey or an index
            continue
        if made_by.get(line.stage) == (line.config, line.code):  # lines of other options stand until the build is done
            stage = stages[line.stage]
            stage["units"] += 1
            stage["entered"] += line.receipt.entered
            stage["accepted"] += line.receipt.accepted
            stage["rejected"].update(line.receipt.rejected)
    running = holder(out)
    damaged = []
    if arguments.verify:
        store = Store(out)
        store.load()
        damaged = store.damaged()
    if arguments.json:
        report = {"rows": plan["rows"], "units": plan["units"], "stages": stages, "running": running, "damaged": damaged}
        app.out(json.dumps(report, ensure_ascii=False))
    else:
        app.out(
            f"{out}: {plan['rows']} records in {plan['units']} units; "
            + (f"being built by {running}" if running else "no build is running")
        )
        for name, stage in stages.items():
            app.out(f"  {name}: {stage['units']} of {plan['units']} units, {stage['accepted']} accepted" + _reasons(stage["rejected"]))
        for problem in damaged:
            app.err(problem)
    return 1 if damaged else 0


def _reasons(rejected: dict[str, int]) -> str:
    return ", rejected: " + ", ".join(f"{reason} {n}" for reason, n in sorted(rejected.items())) if rejected else ""


class _Teller:
    """One line on stderr every two seconds, with throughput and the time that is left at that rate."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.started = self.told = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self.told < _EVERY_S:
            return
        self.told = now
        self.app.err(progress_line(progress, now - self.started))


def progress_line(progress: Progress, elapsed_s: float) -> str:
    """E.g. "decode 3/80 units, size 2/80 units; 768 of 20000 records through; 310 records/s, about 62 s left; 14 rejected"."""
    stages = ", ".join(f"{name} {n}/{progress.units}" for name, n in zip(progress.stages, progress.units_done))
    worked = sum(done - reused for done, reused in zip(progress.rows_done, progress.rows_reused))
    left = sum(progress.rows - done for done in progress.rows_done)
    rate = worked / elapsed_s if elapsed_s > 0 else 0.0
    text = f"{stages} units; {progress.rows_done[-1]} of {progress.rows} records through"
    if rate:
        text += f"; {rate / len(progress.stages):.0f} records/s, about {left / rate:.0f} s left"
    if rejected := progress.rejected.total():
        text += f"; {rejected} rejected"
    return text + (f"; {progress.deaths} worker deaths" if progress.deaths else "")
