"""What the plugin offers, with options. Light."""

from __future__ import annotations

from ernie_core.api import Entry
from ernie_distill import gate_config, method_config, sampler_config
from ernie_distill.prompts import config as prompts_config

METHODS: tuple[Entry, ...] = method_config.METHODS
GATES: tuple[Entry, ...] = gate_config.GATES
SAMPLERS: tuple[Entry, ...] = sampler_config.SAMPLERS
DATA_SOURCES: tuple[Entry, ...] = prompts_config.DATA_SOURCES
