"""Core's engines. Light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ernie_core.config.base import Config, Positive
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import hookimpl


class SingleConfig(Config):
    device: Literal["auto", "cpu", "cuda"] = "auto"


class DdpConfig(Config):
    """``timeout_s`` bounds every collective: a rank that died ends the run instead of hanging it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_s: Positive = 600.0


@hookimpl
def ernie_register_engines() -> Iterator[Entry]:
    yield Entry("auto", "`ddp` when several ranks were started, else `single`", DdpConfig, "ernie_core.parallel.build:build_auto")
    yield Entry("single", "one process on one device", SingleConfig, "ernie_core.parallel.build:build_single")
    yield Entry(
        "ddp", "a whole replica on each rank, gradients summed while backward runs", DdpConfig, "ernie_core.parallel.build:build_ddp"
    )
