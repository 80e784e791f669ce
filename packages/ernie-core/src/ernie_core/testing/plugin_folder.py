"""Tiny real distributions that hold plugins, written to a folder: for tests of discovery, in process and in subprocesses. Light."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HEADER = """
from ernie_core.api import Command, Config, Entry, From, Selection, hookimpl
from typing import Annotated
ERNIE_API = (0, 1)
class Options(Config):
    strength: float = 1.0
"""


class PluginFolder:
    """A folder on ``sys.path`` to which distributions are written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modules: list[str] = []

    def add(
        self,
        name: str,
        source: str,
        *,
        header: str = HEADER,
        distribution: str = "",
        target: str = "",
        points: str = "",
        version: str = "1.0",
    ) -> None:
        """Write a module with the plugin's source and the metadata of a distribution (default ``NAME-dist``) that names it in the group ``ernie``.

        Args:
            target: the entry point's value; default: the module.
            points: the whole text of entry_points.txt, in place of one well-formed entry.
        """
        distribution = distribution or f"{name}-dist"
        stem = distribution.replace("-", "_")
        module = f"{stem}_plugin"
        self.modules.append(module)
        (self.path / f"{module}.py").write_text(header + source)
        info = self.path / f"{stem}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(points or f"[ernie]\n{name} = {target or module}\n")
        importlib.invalidate_caches()

    def ernie(self, *arguments: str, environ: Mapping[str, str] | None = None, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """Run ``ernie`` in a process of its own that sees this folder."""
        paths = os.pathsep.join(filter(None, [str(self.path), os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-m", "ernie_core.cli.main", *arguments]
        environment = {**os.environ, "PYTHONPATH": paths, **(environ or {})}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, cwd=self.path)


@contextmanager
def plugins_in(path: Path) -> Iterator[PluginFolder]:
    """A new ``PluginFolder`` at ``path``, first on ``sys.path`` until the context ends."""
    path.mkdir()
    folder = PluginFolder(path)
    sys.path.insert(0, str(path))
    importlib.invalidate_caches()
    try:
        yield folder
    finally:
        sys.path.remove(str(path))
        for module in folder.modules:
            sys.modules.pop(module, None)
