"""The tools are scripts, not a package: their folder goes on the path as it does when one is run. And a tiny workspace to try them on."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

ROOT_PYPROJECT = '[project]\nname = "root"\nversion = "0"\n[tool.uv.workspace]\nmembers = ["packages/*"]\n'
CORE_PYPROJECT = """[project]
name = "ernie-core"
version = "0.1.0"
dependencies = ["msgspec>=0.19", "numpy>=2.0"]
[project.optional-dependencies]
train = ["torch>=2.11", "pillow>=12"]
"""
DATA_PYPROJECT = """[project]
name = "ernie-data"
version = "0.1.0"
dependencies = ["ernie-core>=0.1,<0.2"]
"""
AES_PYPROJECT = DATA_PYPROJECT.replace("ernie-data", "ernie-aes")


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """A function that writes a workspace of three members, ernie-core, ernie-data and ernie-aes, with the given files added or replaced."""

    def write(files: dict[str, str]) -> Path:
        tree = {
            "pyproject.toml": ROOT_PYPROJECT,
            "packages/ernie-core/pyproject.toml": CORE_PYPROJECT,
            "packages/ernie-data/pyproject.toml": DATA_PYPROJECT,
            "packages/ernie-aes/pyproject.toml": AES_PYPROJECT,
            "packages/ernie-core/src/ernie_core/__init__.py": "",
            "packages/ernie-data/src/ernie_data/__init__.py": "",
            "packages/ernie-aes/src/ernie_aes/__init__.py": "",
        } | files
        for name, text in tree.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write
