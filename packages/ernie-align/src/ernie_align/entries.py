"""Methods, losses and data sources with their options, as the plugin offers them. Light."""

from __future__ import annotations

from ernie_core.api import Entry

METHODS: tuple[Entry, ...] = ()
LOSSES: tuple[Entry, ...] = ()
DATA_SOURCES: tuple[Entry, ...] = ()
