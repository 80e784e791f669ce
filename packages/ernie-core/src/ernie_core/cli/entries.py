"""Core's own command-line verbs. Light."""

from __future__ import annotations

from collections.abc import Iterator

from ernie_core.plugins.entry import Command
from ernie_core.plugins.hookspecs import EnvironmentCheck, hookimpl


@hookimpl
def ernie_register_commands() -> Iterator[Command]:
    yield Command("train", "train what a config describes; resumes what is in --out", "ernie_core.cli.train:main")
    yield Command("sample", "make pictures from prompts with a checkpoint or a diffusers folder", "ernie_core.cli.sample:main")
    yield Command("eval", "sample an evaluation suite's prompts and judge the pictures", "ernie_core.cli.eval:main")
    yield Command("weights", "inspect, verify and export weights", "ernie_core.cli.weights:main")
    yield Command("config", "show, check or describe training configs", "ernie_core.cli.config:main")
    yield Command("plugins", "list installed plugins without importing them, or check them", "ernie_core.cli.plugins:main")
    yield Command("doctor", "what is installed, what is usable and why not", "ernie_core.cli.doctor:main")


@hookimpl
def ernie_doctor() -> Iterator[EnvironmentCheck]:
    from ernie_core.cli.doctor import own_checks  # which imports what it looks at

    yield from own_checks()
