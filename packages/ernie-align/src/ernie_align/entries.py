"""Methods, losses and data sources with their options, as the plugin offers them. Light."""

from __future__ import annotations

from ernie_align import loss_config, method_config, pair_config
from ernie_core.api import Entry

METHODS: tuple[Entry, ...] = method_config.METHODS
LOSSES: tuple[Entry, ...] = loss_config.LOSSES
DATA_SOURCES: tuple[Entry, ...] = pair_config.DATA_SOURCES
