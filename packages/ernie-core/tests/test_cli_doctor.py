"""``ernie doctor``: what is here, what is usable, and the known ways an environment is broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from ernie_core.cli import doctor
from ernie_core.cli.main import main
from ernie_core.plugins.host import PluginHost
from ernie_core.testing.plugin_folder import PluginFolder, plugins_in

OP_SETS = """
import json
def build(config, context):
    return None
def why_unusable(name, device):
    if name == "raises":
        raise RuntimeError("asked too much")
    return None if name == "fits" else f"it wants a quantum computer, this is a {{device.type}}"
@hookimpl
def ernie_register_op_sets():
    for name in ("fits", "picky", "raises"):
        yield Entry(name, "an op set", Options, "{module}:build")
    yield Entry("lost", "an op set", Options, "json:no_such_build")
"""


CHECKS = """
from ernie_core.api import EnvironmentCheck
@hookimpl
def ernie_doctor():
    yield EnvironmentCheck("weasel", "absent", "apt install weasel")
    yield EnvironmentCheck("stoat", "problem", "too small")
    yield EnvironmentCheck("otter", "ok", "otter 3.2")
"""
WRONG_CHECKS = """
@hookimpl
def ernie_doctor():
    return ["otter"]
"""
FAILING_CHECKS = """
@hookimpl
def ernie_doctor():
    raise OSError("no such animal")
"""


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Iterator[PluginFolder]:
    with plugins_in(tmp_path / "plugins") as folder:
        yield folder


def fake_distribution(folder: Path, name: str, version: str, requires: str = "") -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(text + (f"Requires-Dist: {requires}\n" if requires else ""))


def test_the_report_names_packages_op_sets_engines_and_plugins(plugin_folder, capsys):
    plugin_folder.add("odd", OP_SETS.format(module="odd_dist_plugin"))
    plugin_folder.add("broken", "raise ImportError('half installed')")
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["ernie-core"] == metadata.version("ernie-core")
    assert report["packages"]["msgspec"] == metadata.version("msgspec")
    assert set(report["op_sets"]) == {*PluginHost.discover().entries("op_sets")}
    assert set(report["engines"]) >= {"auto", "single", "ddp"}
    assert report["plugins"]["odd"] == "odd-dist 1.0"
    assert any(
        p.startswith("plugin `broken` (broken-dist 1.0) was skipped: importing broken_dist_plugin failed") for p in report["problems"]
    )


def test_op_sets_answer_for_themselves_and_their_failures_are_answers(plugin_folder):
    pytest.importorskip("torch", reason="without torch nothing is asked: tests/light covers that")
    plugin_folder.add("odd", OP_SETS.format(module="odd_dist_plugin"))
    report = doctor.examine(PluginHost.discover(disable=["data"]))
    rows = report["op_sets"]
    assert rows["fits"] == {"usable": True, "reason": "an op set"}
    assert rows["picky"]["reason"].startswith("it wants a quantum computer, this is a ")
    assert not rows["picky"]["usable"]
    assert "RuntimeError: asked too much" in rows["raises"]["reason"]
    assert "`json` has no `no_such_build`" in rows["lost"]["reason"]
    assert rows["reference"]["usable"]


def test_plugins_say_what_they_need_of_the_machine_and_their_failures_are_problems(plugin_folder, capsys):
    for name, source in (("river", CHECKS), ("rude", WRONG_CHECKS), ("broken", FAILING_CHECKS)):
        plugin_folder.add(name, source)
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["checks"]["weasel"] == {"state": "absent", "detail": "apt install weasel"}
    assert "stoat: too small" in report["problems"]
    assert not [p for p in report["problems"] if "weasel" in p or "otter 3.2" in p]
    assert any(
        p.startswith("plugin rude: its ernie_doctor returned 'otter', expected ernie_core.api.EnvironmentCheck") for p in report["problems"]
    )
    assert any(p.startswith("plugin broken: its ernie_doctor failed with OSError: no such animal") for p in report["problems"])
    assert {"apex", "torchvision"} <= report["checks"].keys()
    assert main(["doctor"]) == 0
    assert "\n  weasel: absent: apt install weasel\n  stoat: problem: too small\n  otter: ok: otter 3.2\n" in capsys.readouterr().out


def test_the_impostor_is_named_with_the_fix(tmp_path, monkeypatch, capsys):
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise SystemExit('apex was imported')\n")
    fake_distribution(tmp_path, "apex", "0.9.10.dev0", "pyramid >1.1.2")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["--no-plugins", "doctor"]) == 0
    out = capsys.readouterr().out
    assert "apex: the installed `apex` 0.9.10.dev0 is an unrelated package (a Pyramid toolkit). Remove it (`pip uninstall apex`)" in out
    assert out.split("\nproblems\n")[1].startswith("  the installed `apex` 0.9.10.dev0 is an unrelated package")


@pytest.mark.parametrize(
    ("torch", "vision", "requires", "wrong"),
    [
        ("2.11.0", "0.26.0", "torch==2.11.0", False),
        ("2.11.0+cpu", "0.26.0+cpu", "torch==2.11.0", False),
        ("2.11.0+cpu", "0.26.0", "torch==2.11.0", True),
        ("2.12.0", "0.26.0", "torch==2.11.0", True),
        ("2.11.0", "not-a-version", "", False),
    ],
)
def test_a_torchvision_of_another_build_is_named_with_the_fix(tmp_path, monkeypatch, torch, vision, requires, wrong):
    fake_distribution(tmp_path, "torch", torch)
    fake_distribution(tmp_path, "torchvision", vision, requires)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor._torchvision_problems()
    assert bool(found) is wrong
    if wrong:
        assert f"torchvision {vision} was built for another torch than the installed {torch}" in found[0]
        assert "`operator torchvision::nms does not exist`" in found[0]
        assert found[0].endswith("pip uninstall torchvision")


def test_the_report_in_words_says_none_when_nothing_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_torchvision_problems", list)
    assert main(["--no-plugins", "doctor"]) == 0
    assert capsys.readouterr().out.endswith("problems\n  none\n")
