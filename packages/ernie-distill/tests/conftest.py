"""Tests distil on prompts made in memory by a plugin that is found as an installed one is (tests/memory)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_core.api import PluginHost
from ernie_core.testing.nursery import Nursery

from .distill_makers import DATA, TINY_RUN, from_teacher, merged, options, run

MEMORY = Path(__file__).parent / "memory"
OTHERS = ["data", "align"]


def memory(patch: pytest.MonkeyPatch) -> PluginHost:
    patch.syspath_prepend(str(MEMORY))
    patch.setenv("ERNIE_DISABLE_PLUGINS", ",".join(OTHERS))
    return PluginHost.discover(disable=OTHERS)


@pytest.fixture
def memory_host(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    return memory(monkeypatch)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery(path=[MEMORY], disable=OTHERS) as started:
        yield started


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A teacher whose output is not 0, and two experts of it: an adapter over it, and a model of its own."""
    folder, quick = tmp_path_factory.mktemp("teachers"), {"optimizer": {"learning_rate": 1e-2}}
    with pytest.MonkeyPatch.context() as patch:
        host = memory(patch)
        base = run(merged(TINY_RUN, DATA, {"run": {"steps": 6}, "samples": {"every_steps": 0}}, quick), folder / "base", host)
        whole = run(from_teacher(base, {"method": options(adapter=False)}, quick), folder / "whole", host)
        adapter = run(from_teacher(base, {"method": options()}, quick), folder / "adapter", host)
    return {"base": base, "whole": whole, "adapter": adapter}
