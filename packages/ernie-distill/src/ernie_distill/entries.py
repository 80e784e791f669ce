"""What the plugin offers, with options. Light."""

from __future__ import annotations

from ernie_core.api import Entry
from ernie_distill import method_config
from ernie_distill.prompts import config as prompts_config

METHODS: tuple[Entry, ...] = method_config.METHODS
DATA_SOURCES: tuple[Entry, ...] = prompts_config.DATA_SOURCES
