"""What every contract shares: building the component under test from the name its plugin registered. Light: no torch, no pytest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from ernie_core.config.base import Config, Selection
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.host import PluginHost


class ComponentContract:
    """Base of all contracts. A subclass named ``Test...`` is collected by pytest and runs every ``test_...`` of its contract.

    Attributes:
        registry: which hook offered the component, such as "losses"; set by each contract.
        entry: the component's name, as a config would write it.
        options: the other keys of the ``{ use = ... }`` table.
    """

    registry: ClassVar[str]
    entry: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    def host(self) -> PluginHost:
        """The installed plugins. Override it to test a plugin that is not installed."""
        return PluginHost.discover()

    def registered(self) -> Entry:
        return self.host().entry(self.registry, self.entry)

    def build(self, context: object) -> Any:
        """The component, built as a run would build it: options decoded by its config struct, then ``build(config, context)``."""
        host = self.host()
        config: Config = msgspec.convert(dict(self.options), host.entry(self.registry, self.entry).config)
        return host.build(self.registry, Selection(self.entry, config), context)
