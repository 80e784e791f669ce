"""What core offers as samplers, with their config structs. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterable

from ernie_core.config.base import Config
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import hookimpl


class EulerConfig(Config):
    """No options."""


class HeunConfig(Config):
    """No options."""


class Ab2Config(Config):
    """No options."""


@hookimpl
def ernie_register_samplers() -> Iterable[Entry]:
    yield Entry("euler", "first order, 1 model call per step; diffusers' numbers", EulerConfig, "ernie_core.sampling.samplers:build_euler")
    yield Entry("heun", "second order, 2 model calls per step", HeunConfig, "ernie_core.sampling.samplers:build_heun")
    yield Entry("ab2", "second order, 1 model call per step (Adams-Bashforth)", Ab2Config, "ernie_core.sampling.samplers:build_ab2")
