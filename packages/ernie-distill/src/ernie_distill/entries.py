"""What the plugin offers, with options. Light."""

from __future__ import annotations

from ernie_core.api import Entry
from ernie_distill import method_config, sampler_config

METHODS: tuple[Entry, ...] = method_config.METHODS
SAMPLERS: tuple[Entry, ...] = sampler_config.SAMPLERS
