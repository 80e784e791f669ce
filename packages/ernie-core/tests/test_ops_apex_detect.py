"""Whatever is called ``apex`` is recognised by its files; none of it is ever imported."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from ernie_core.ops.apex_detect import detect_apex


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all there is on ``sys.path``."""
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    importlib.invalidate_caches()
    return tmp_path


def package(site: Path, *folders: str) -> None:
    for folder in ("", *folders):
        (site / "apex" / folder).mkdir(exist_ok=True)
        (site / "apex" / folder / "__init__.py").write_text("raise SystemExit('apex was imported')\n")


def distribution(site: Path, requires: str) -> None:
    info = site / "apex-0.9.10.dev0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: apex\nVersion: 0.9.10.dev0\nRequires-Dist: {requires}\n")


def test_absent(site):
    state = detect_apex()
    assert (state.usable, state.kind) == (False, "absent")
    assert state.reason.startswith('NVIDIA Apex is not installed: set ops.use = "auto", or build NVIDIA Apex with its extensions')


def test_the_pyramid_toolkit_is_named_with_the_fix(site):
    package(site, "lib")
    distribution(site, "pyramid >1.1.2")
    state = detect_apex()
    assert (state.usable, state.kind) == (False, "impostor")
    assert state.reason == (
        "the installed `apex` 0.9.10.dev0 is an unrelated package (a Pyramid toolkit). Remove it (`pip uninstall apex`) and build NVIDIA Apex, "
        'or set ops.use = "auto".'
    )


def test_another_package_or_a_stray_module_is_an_impostor_too(site):
    (site / "apex.py").write_text("raise SystemExit('apex was imported')\n")
    assert detect_apex().kind == "impostor"
    assert "(it has no multi_tensor_apply/)" in detect_apex().reason
    (site / "apex.py").unlink()
    package(site, "normalization")
    importlib.invalidate_caches()
    assert detect_apex().kind == "impostor"


def test_a_python_only_build_is_not_usable(site):
    package(site, "multi_tensor_apply", "normalization")
    (site / "amp_C.py").write_text("")
    state = detect_apex()
    assert (state.usable, state.kind) == (False, "no-extensions")
    assert "without its compiled extensions (fused_layer_norm_cuda missing)" in state.reason


def test_a_whole_build_is_usable(site):
    package(site, "multi_tensor_apply", "normalization")
    for extension in ("amp_C", "fused_layer_norm_cuda"):
        (site / f"{extension}.py").write_text("")
    assert detect_apex().usable
    assert detect_apex().kind == "built"
