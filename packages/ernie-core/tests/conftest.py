"""Fixtures: tiny real distributions (a module and a .dist-info) that hold plugins, in process and for subprocesses; the plugin in ``tests/toy``, and
one nursery for all tests that kill processes. Nothing here applies to a test that does not ask for it by name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ernie_core.plugins.discovery import find_plugins
from ernie_core.plugins.host import PluginHost
from ernie_core.testing.nursery import Nursery

TOY = Path(__file__).parent / "toy"
TOY_PLUGIN = "toy-methods"

HEADER = """
from ernie_core.api import Command, Config, Entry, From, Selection, hookimpl
from typing import Annotated
ERNIE_API = (0, 1)
class Options(Config):
    strength: float = 1.0
"""


@dataclass
class PluginFolder:
    """A folder on ``sys.path`` to which distributions are written."""

    path: Path
    modules: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        source: str,
        *,
        header: bool = True,
        distribution: str = "",
        target: str = "",
        points: str = "",
        version: str = "1.0",
    ) -> None:
        """Write ``<name>_plugin.py`` and the metadata of a distribution (default ``<name>-dist``) that names it in the group ``ernie``."""
        distribution = distribution or f"{name}-dist"
        module = f"{distribution.replace('-', '_')}_plugin"
        self.modules.append(module)
        (self.path / f"{module}.py").write_text((HEADER if header else "") + source)
        info = self.path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(points or f"[ernie]\n{name} = {target or module}\n")

    def ernie(self, *arguments: str, environ: Mapping[str, str] | None = None, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run ``ernie`` in a process of its own that sees this folder."""
        paths = os.pathsep.join(filter(None, [str(self.path), os.environ.get("PYTHONPATH", "")]))
        return subprocess.run(
            [sys.executable, "-m", "ernie_core.cli.main", *arguments],
            env={**os.environ, "PYTHONPATH": paths, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=self.path,
        )


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PluginFolder]:
    folder = PluginFolder(tmp_path / "plugins")
    folder.path.mkdir()
    monkeypatch.syspath_prepend(str(folder.path))
    yield folder
    for module in folder.modules:
        sys.modules.pop(module, None)


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write a config file and return its path."""

    def write(text: str, name: str = "run.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def other_plugins() -> list[str]:
    """Whatever else happens to be installed: these tests are about core."""
    return [found.source.plugin for found in find_plugins()[0] if found.source.plugin != TOY_PLUGIN]


@pytest.fixture
def toy_host(monkeypatch: pytest.MonkeyPatch) -> PluginHost:
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("ERNIE_DISABLE_PLUGINS", ",".join(other_plugins()))
    return PluginHost.discover(disable=other_plugins())


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    with Nursery(path=[TOY], disable=other_plugins()) as started:
        yield started
