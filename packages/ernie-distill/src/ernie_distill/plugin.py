"""What ernie-distill offers to the plugin host. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ernie_core.api import Command, Config, Entry, Problem, RunView, hookimpl
from ernie_distill import entries, method_config, watch

ERNIE_API = (0, 1)


@hookimpl
def ernie_register_methods() -> Iterator[Entry]:
    yield from entries.METHODS


@hookimpl
def ernie_register_gates() -> Iterator[Entry]:
    yield from entries.GATES


@hookimpl
def ernie_register_samplers() -> Iterator[Entry]:
    yield from entries.SAMPLERS


@hookimpl
def ernie_register_data_sources() -> Iterator[Entry]:
    yield from entries.DATA_SOURCES


@hookimpl
def ernie_check_config(config: Config) -> Iterable[Problem]:
    from ernie_core.weights.hand_off import hand_off_problems
    from ernie_distill.prompts.config import domain_problems, picture_problems

    return [
        *hand_off_problems(config, [entry.name for entry in entries.METHODS], others=method_config.teacher_weights),
        *picture_problems(config),
        *domain_problems(config),
    ]


@hookimpl
def ernie_register_commands() -> Iterator[Command]:
    yield Command("distill", "teachers, gates, drift and report of distillation", "ernie_distill.cli:main")


@hookimpl
def ernie_run_started(run: RunView) -> None:
    watch.start(run)


@hookimpl
def ernie_step_finished(run: RunView, step: int, metrics: Mapping[str, float]) -> None:
    if found := watch.watch_of(run):
        found.logged(step, metrics)


@hookimpl
def ernie_checkpoint_saved(run: RunView, step: int, path: Path) -> None:
    if found := watch.watch_of(run):
        found.saved(step)
