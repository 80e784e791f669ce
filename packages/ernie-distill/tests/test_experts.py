"""`ernie distill teachers build` without training: its file, and what it needs. Experts are trained in /tests, with the package that offers `sft`."""

import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from ernie_core.api import App, ConfigError, MissingComponent, PluginHost, from_plain
from ernie_core.cli.main import main
from ernie_core.testing.runs import write_config
from ernie_distill.experts.build import teachers_toml
from ernie_distill.experts.config import TeachersConfig
from ernie_distill.experts.plan import Planned, require_method
from ernie_distill.method_config import MtDmdConfig, TeacherConfig

TEXT = {"name": "text", "domains": ["text"]}


@pytest.fixture(scope="module")
def host():
    return PluginHost.discover(disable=["align"])


def decoded(host, **tables):
    return from_plain({"train": "base.toml", "experts": [TEXT], **tables}, host, struct=TeachersConfig)


def test_the_shared_config_is_a_file_or_several_or_tables(host):
    assert decoded(host).train == "base.toml"
    assert decoded(host, train=["base.toml", "more.toml"]).train == ("base.toml", "more.toml")
    assert decoded(host, train={"codec": {"use": "pixel"}}).train == {"codec": {"use": "pixel"}}
    assert decoded(host, adapter=False).adapter is None


@pytest.mark.parametrize("name", ["generalist", "lock", "Text", "a b", "_configs", "../text", ""])
def test_names_that_would_be_something_else_are_refused(host, name):
    with pytest.raises(ConfigError, match=r"experts"):
        decoded(host, experts=[{**TEXT, "name": name}])


def test_without_the_method_the_error_says_what_to_install_and_writes_nothing(host, tmp_path, capsys):
    with pytest.raises(MissingComponent, match="pip install ernie-align"):
        require_method(host)
    config = write_config(tmp_path / "experts.toml", {"train": "base.toml", "experts": [TEXT]})
    assert main(["--disable-plugins", "align", "distill", "teachers", "build", str(config), "--out", str(tmp_path / "built")]) == 2
    assert "the method `sft`" in capsys.readouterr().err
    assert not list((tmp_path / "built").glob("**/*.toml"))


def test_the_table_of_teachers_has_the_generalist_first_and_absolute_paths(host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expert = decoded(host).experts[0]
    run = SimpleNamespace(model=SimpleNamespace(init="pretrained"))
    text = teachers_toml([Planned(expert, (), Path("built/text"), run, host)])
    assert text.startswith("# Written by")
    (written,) = tomllib.loads(text)["method"].values()
    assert from_plain({"teachers": written}, host, struct=Teachers).teachers == (
        TeacherConfig(name="generalist"),
        TeacherConfig(name="text", path=str(tmp_path / "built/text"), domains=("text",)),
    )


class Teachers(MtDmdConfig, frozen=True, kw_only=True):
    gate: None = None  # of another plugin or none: not what is looked at here


def test_help_names_the_verb(capsys):
    with pytest.raises(SystemExit) as ended:
        App().host.load("commands", "distill")(["teachers", "build", "--help"], App())
    assert ended.value.code == 0
    assert "--nproc" in capsys.readouterr().out
