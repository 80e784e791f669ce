"""The host as a value: what it offers, builds and calls, and what becomes of an observer that raises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ernie_core.config.base import Config, Selection
from ernie_core.errors import ConfigError, MissingComponent
from ernie_core.plugins.hookspecs import REGISTRIES, RunView, hookimpl
from ernie_core.plugins.host import BUILTIN, PluginHost, disabled_by_environment
from ernie_core.plugins.observers import HookCaller
from ernie_core.plugins.registry import NOUNS, did_you_mean, noun
from ernie_core.testing.plugin_folder import PluginFolder, plugins_in

BUILDERS = """
class Needs(Config):
    size: int
def build(config, context):
    return ("built", config, context)
def build_lazily(config, context):
    import package_that_is_not_here
@hookimpl
def ernie_register_samplers():
    yield Entry("plain", "with defaults", Options, "builder_dist_plugin:build")
    yield Entry("needs-options", "without defaults", Needs, "builder_dist_plugin:build")
    yield Entry("lazy", "fails late", Options, "builder_dist_plugin:build_lazily")
"""


class Observer:
    """Notes what it is called with; the names of its parameters say what it wants."""

    def __init__(self, *, fails: bool) -> None:
        self.seen: list = []
        self.fails = fails

    @hookimpl
    def ernie_run_started(self, run):
        self.seen.append(("started", run.start_step))

    @hookimpl
    def ernie_step_finished(self, metrics, step):
        self.seen.append((step, dict(metrics)))
        if self.fails:
            metrics["loss"] = 1.0

    @hookimpl
    def ernie_checkpoint_saved(self, path, step):
        self.seen.append((step, path.name))

    @hookimpl
    def ernie_run_finished(self, reason):
        self.seen.append(reason)
        if self.fails:
            raise SystemExit(1)


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Iterator[PluginFolder]:
    with plugins_in(tmp_path / "plugins") as folder:
        yield folder


def test_core_offers_its_components_through_the_hooks():
    host = PluginHost.discover(plugins=False)
    assert len(host.plugins) == 1
    assert len(host.plugins[0].parts) == len(BUILTIN)
    assert list(host.plugin_set()) == ["core"]
    assert host.plugin_set()["core"].startswith("ernie-core ")
    assert {"euler", "heun", "ab2"} <= set(host.entries("samplers"))
    assert not host.failures
    assert not host.conflicts


def test_every_registry_has_a_noun_for_messages():
    assert set(NOUNS) == set(REGISTRIES)
    assert noun("reward_models") == "reward model"


def test_build_gives_the_component_its_options_and_context(plugin_folder):
    plugin_folder.add("builder", BUILDERS)
    host = PluginHost.discover()
    what, options, context = host.build("samplers", Selection("plain"), "context")
    assert (what, options.strength, context) == ("built", 1.0, "context")
    given = type(options)(strength=2.0)
    assert host.build("samplers", Selection("plain", given), None)[1] is given


def test_build_refuses_options_that_are_missing_or_of_another_component(plugin_folder):
    plugin_folder.add("builder", BUILDERS)
    host = PluginHost.discover()
    with pytest.raises(ConfigError, match=r'"needs-options" cannot be used without options: Missing required argument .size.'):
        host.build("samplers", Selection("needs-options"), None)
    with pytest.raises(ConfigError, match=r'the sampler "plain" is configured by Options, found Config'):
        host.build("samplers", Selection("plain", Config()), None)
    with pytest.raises(MissingComponent, match=r'the sampler "lazy" needs the package `package_that_is_not_here`'):
        host.build("samplers", Selection("lazy"), None)


def test_an_unknown_name_or_registry_lists_what_is_near_and_what_there_is(plugin_folder):
    host = PluginHost.discover(plugins=False)
    with pytest.raises(
        MissingComponent, match=r'no sampler is called "eular"; did you mean "euler"\? Installed: ab2 \(ernie-core .*\), euler \(ernie-core'
    ):
        host.entry("samplers", "eular")
    with pytest.raises(MissingComponent, match=r"there is no registry `sampler`; did you mean `samplers`\?"):
        host.entries("sampler")


def test_observers_get_what_they_ask_for_and_one_that_raises_is_switched_off_for_the_run(capsys, tmp_path):
    calm, wild = Observer(fails=False), Observer(fails=True)
    core = PluginHost.discover(plugins=False)
    host = replace(core, hooks=HookCaller([("wild", wild), ("calm", calm)]))
    view = RunView(tmp_path, Config(), 10, 4)
    metrics = {"loss": 0.5}
    host.run_started(view)
    host.step_finished(view, 5, metrics)
    host.step_finished(view, 6, metrics)
    host.checkpoint_saved(view, 6, tmp_path / "step-6")
    host.run_finished(view, 6, "done")
    assert calm.seen == [("started", 4), (5, metrics), (6, metrics), (6, "step-6"), "done"]
    assert wild.seen == [("started", 4), (5, metrics), (6, "step-6"), "done"]
    assert metrics == {"loss": 0.5}
    lines = capsys.readouterr().err.strip().split("\n")
    assert lines[0].startswith(
        "plugin `wild`: ernie_step_finished failed with TypeError: 'mappingproxy' object does not support item assignment"
    )
    assert lines[1].startswith("plugin `wild`: ernie_run_finished failed with SystemExit: 1")
    assert all(line.endswith("It is switched off for this run.") for line in lines)
    assert len(lines) == 2
    host.run_started(view)
    host.step_finished(view, 7, metrics)
    assert wild.seen[-1] == (7, metrics)


def test_ctrl_c_in_an_observer_is_not_swallowed(tmp_path):
    class Interrupted:
        @hookimpl
        def ernie_run_finished(self):
            raise KeyboardInterrupt

    host = replace(PluginHost.discover(plugins=False), hooks=HookCaller([("interrupted", Interrupted())]))
    with pytest.raises(KeyboardInterrupt):
        host.run_finished(RunView(tmp_path, Config(), 1, 0), 1, "done")


def test_disabled_names_come_from_the_environment():
    assert disabled_by_environment({"ERNIE_DISABLE_PLUGINS": " a, b ,,c"}) == ("a", "b", "c")
    assert disabled_by_environment({}) == ()


def test_a_narrowed_host_remembers_what_was_switched_off(plugin_folder):
    plugin_folder.add("builder", BUILDERS)
    host = PluginHost.discover()
    narrow = host.without(["builder"])
    assert "plain" in host.entries("samplers")
    assert "plain" not in narrow.entries("samplers")
    with pytest.raises(MissingComponent, match=r"Switched off: .*builder \(builder-dist 1.0\)"):
        narrow.entry("samplers", "plain")
    assert host.without(["absent"]) is host


def test_did_you_mean_is_silent_about_what_is_not_near():
    assert did_you_mean("xyz", ["abc"]) == ""
