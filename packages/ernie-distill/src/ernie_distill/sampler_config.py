"""The sampler ``renoise``: its config struct and entry. Light: no torch."""

from __future__ import annotations

from ernie_core.api import Config, Entry


class RenoiseSamplerConfig(Config):
    """No options."""


SAMPLERS = (
    Entry(
        "renoise",
        "clean sample and fresh noise in turns, 1 model call per step; for students that were trained so",
        RenoiseSamplerConfig,
        "ernie_distill.samplers:build_renoise",
    ),
)
