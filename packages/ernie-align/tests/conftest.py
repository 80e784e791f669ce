"""Tests train on pictures and pairs made in memory by a plugin that is found as an installed one is (tests/memory)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_core.api import PluginHost
from ernie_core.testing.nursery import Nursery

MEMORY = Path(__file__).parent / "memory"


@pytest.fixture
def memory_host(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    monkeypatch.syspath_prepend(str(MEMORY))
    monkeypatch.setenv("ERNIE_DISABLE_PLUGINS", "data")
    return PluginHost.discover(disable=["data"])


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery(path=[MEMORY], disable=["data"]) as started:
        yield started
