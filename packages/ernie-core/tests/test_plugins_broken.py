"""Every kind of broken plugin is skipped whole, named with its reason, and leaves core and healthy plugins working."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ernie_core.config.base import Selection
from ernie_core.errors import MissingComponent, PluginError
from ernie_core.plugins.hookspecs import API_VERSION
from ernie_core.plugins.host import PluginHost, require_healthy
from ernie_core.testing.plugin_folder import PluginFolder, plugins_in

GOOD = """
@hookimpl
def ernie_register_samplers():
    yield Entry("good-sampler", "works", Options, "ernie_core.api:Config")
"""
SAMPLER = """
@hookimpl
def ernie_register_samplers():
    yield Entry("a-{0}", "first", Options, "json:dumps")
    yield Entry("b-{0}", "second", Options, "json:dumps")
"""
HOOK = "@hookimpl\ndef ernie_register_samplers"
NEWER = f"ERNIE_API = ({API_VERSION[0]}, {API_VERSION[1] + 1})"

# name: (source below the common header, phase, part of the reason)
KINDS: dict[str, tuple[str, str, str]] = {
    "import-error": ("raise ImportError('half installed')", "import", "ImportError: half installed"),
    "missing-module": ("import no_such_package_anywhere", "import", "Install what missing-module-dist needs (`no_such_package_anywhere`)"),
    "syntax-error": ("def broken(:\n", "import", "SyntaxError"),
    "exit-on-import": ("import sys; sys.exit(3)", "import", "it called sys.exit(3) while it was imported"),
    "base-exception": ("class Odd(BaseException): pass\nraise Odd('odd')", "import", "Odd: odd"),
    "recursion": ("def f(): f()\nf()", "import", "RecursionError"),
    "no-api": ("del ERNIE_API" + GOOD, "api", "does not say for which plugin API it was written"),
    "next-major": (
        "ERNIE_API = (9, 0)" + GOOD,
        "api",
        "it was written for plugin API 9.0, this ernie-core offers 0.1. Upgrade ernie-core or install an older next-major-dist.",
    ),
    "next-minor": (NEWER + GOOD, "api", "it was written for plugin API 0.2, this ernie-core offers 0.1."),
    "odd-api": ("ERNIE_API = '0.1'" + GOOD, "api", "ERNIE_API must be two integers"),
    "unknown-argument": ("@hookimpl\ndef ernie_run_started(runs): pass", "hooks", "parameter `runs` is unknown; did you mean `run`?"),
    "extra-argument": (HOOK + "(config): return []", "hooks", "parameter `config` is unknown; this hook takes no arguments"),
    "keyword-only": ("@hookimpl\ndef ernie_run_started(*, run): pass", "hooks", "parameter `run` is keyword-only, which is never filled"),
    "default-argument": (
        "@hookimpl\ndef ernie_run_started(run=None): pass",
        "hooks",
        "parameter `run` has a default, so the value would never be filled in",
    ),
    "star-arguments": ("@hookimpl\ndef ernie_run_started(**run): pass", "hooks", "collects arguments, which are never filled"),
    "unknown-hook": (
        "@hookimpl\ndef ernie_register_sampler(): return []",
        "hooks",
        "`ernie_register_sampler` is no hook of plugin API 0.1; did you mean `ernie_register_samplers`?",
    ),
    "unmarked": (GOOD.replace("@hookimpl", ""), "hooks", "`ernie_register_samplers` is not marked with @hookimpl"),
    "no-hooks": ("", "hooks", "it implements no hook"),
    "async": ("@hookimpl\nasync def ernie_register_samplers(): return []", "hooks", "is async: hooks are plain functions"),
    "wrapper": ("@hookimpl(wrapper=True)\ndef ernie_run_started(run): yield", "hooks", "is a hook wrapper"),
    "raises-midway": (SAMPLER.format("m") + "    raise RuntimeError('midway')", "collect", "RuntimeError: midway"),
    "exits-midway": (SAMPLER.format("e") + "    raise SystemExit(0)", "collect", "after 2 entries"),
    "returns-none": (HOOK + "(): pass", "collect", "returned NoneType, expected an iterable"),
    "no-entry": (HOOK + "(): yield 'euler'", "collect", "offers 'euler', expected ernie_core.api.Entry"),
    "command-as-entry": (HOOK + "(): yield Command('x', 'y', 'json:dumps')", "collect", "expected ernie_core.api.Entry"),
    "bad-name": (
        HOOK + "(): yield Entry('Not Good', 'x', Options, 'json:dumps')",
        "collect",
        "entry name 'Not Good': expected lower case letters",
    ),
    "bad-build": (HOOK + "(): yield Entry('x', 'x', Options, 'json.dumps')", "collect", 'build must read "package.module:attribute"'),
    "no-config": (HOOK + "(): yield Entry('x', 'x', dict, 'json:dumps')", "collect", "config must be a subclass of ernie_core.api.Config"),
    "twice": (
        SAMPLER.format("t") + SAMPLER.format("t").split("yield")[0][:0] + "    yield Entry('a-t', 'again', Options, 'json:dumps')",
        "collect",
        'offers "a-t" twice',
    ),
    "endless": (
        HOOK + "():\n    n = 0\n    while True:\n        n += 1\n        yield Entry(f'n{n}', 'x', Options, 'json:dumps')",
        "collect",
        "more than 1000 entries",
    ),
    "undecodable": (
        "class Bad(Config):\n    thing: object.__class__.__class__ | None = None\nclass Odd: pass\nclass Worse(Config):\n    odd: Odd\n"
        + HOOK
        + "(): yield Entry('x', 'x', Worse, 'json:dumps')",
        "config",
        "field `odd`: a TOML value cannot become",
    ),
    "unresolved-type": (
        "class Bad(Config):\n    odd: 'NoSuchType'\n" + HOOK + "(): yield Entry('x', 'x', Bad, 'json:dumps')",
        "config",
        "name 'NoSuchType' is not defined",
    ),
    "reserved-key": (
        "class Bad(Config):\n    use: str\n" + HOOK + "(): yield Entry('x', 'x', Bad, 'json:dumps')",
        "config",
        "the key `use` is reserved",
    ),
    "bare-selection": (
        "class Bad(Config):\n    loss: Selection\n" + HOOK + "(): yield Entry('x', 'x', Bad, 'json:dumps')",
        "config",
        "a Selection needs its registry",
    ),
    "no-build-module": (
        HOOK + "(): yield Entry('x', 'x', Options, 'no_such_module.at_all:build')",
        "build",
        "the module `no_such_module.at_all`, which cannot be found",
    ),
    "takes-core-name": (
        HOOK + "(): yield Entry('euler', 'mine', Options, 'json:dumps')",
        "names",
        'it offers the sampler "euler", which ernie-core has itself',
    ),
    "raises-when-looked-at": (
        "del ERNIE_API\ndef __getattr__(name): raise RuntimeError(f'do not touch {name}')" + GOOD,
        "check",
        "it failed while it was checked: RuntimeError: do not touch ERNIE_API",
    ),
    "takes-core-verb": (
        "@hookimpl\ndef ernie_register_commands(): yield Command('doctor', 'mine', 'json:dumps')",
        "names",
        'the command "doctor"',
    ),
}


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Iterator[PluginFolder]:
    with plugins_in(tmp_path / "plugins") as folder:
        yield folder


def failure(host: PluginHost, name: str):
    found = [f for f in host.failures if f.name == name]
    assert len(found) == 1, (name, [str(f) for f in host.failures])
    return found[0]


def test_at_least_twenty_kinds_are_listed():
    assert len(KINDS) >= 20


@pytest.mark.parametrize("name", KINDS)
def test_a_broken_plugin_is_skipped_whole_and_named_with_its_reason(name, plugin_folder):
    source, phase, reason = KINDS[name]
    alone = PluginHost.discover(plugins=False)
    plugin_folder.add(name, source)
    plugin_folder.add("good", GOOD)
    host = PluginHost.discover()
    failed = failure(host, name)
    assert failed.phase == phase, failed
    assert reason in failed.reason
    assert str(failed).startswith(f"plugin `{name}` ({name}-dist 1.0) was skipped: ")
    assert name not in host.plugin_set()
    assert "good-sampler" in host.entries("samplers")
    assert not [n for r in host.registries.values() for n, offer in r.items() if offer.source.plugin == name]
    for registry, offers in alone.registries.items():
        assert set(offers) <= set(host.entries(registry))


def test_metadata_faults_are_found_without_importing_anything(plugin_folder):
    plugin_folder.add("core", GOOD)
    plugin_folder.add("Bad Name", GOOD, distribution="bad-name-dist")
    plugin_folder.add("same", GOOD, distribution="one")
    plugin_folder.add("same", GOOD, distribution="two")
    plugin_folder.add("corrupt", GOOD, points="[ernie]\nthis line has no value\n")
    plugin_folder.add("nowhere", GOOD, target="no_such_plugin_module")
    plugin_folder.add("noattr", GOOD, target="json:no_such_object")
    host = PluginHost.discover()
    assert "the name `core` is reserved" in failure(host, "core").reason
    assert "may only have lower case letters" in failure(host, "Bad Name").reason
    same = [f for f in host.failures if f.name == "same"]
    assert {f.distribution for f in same} == {"one", "two"}
    assert all("the plugin name `same` is declared by one 1.0 and two 1.0" in f.reason for f in same)
    assert "its entry_points.txt cannot be read" in failure(host, "corrupt-dist").reason
    assert "No module named 'no_such_plugin_module'" in failure(host, "nowhere").reason
    assert "json has no `no_such_object`" in failure(host, "noattr").reason


def test_two_plugins_with_one_name_lose_that_name_only(plugin_folder):
    for name in ("left", "right"):
        plugin_folder.add(
            name,
            HOOK + f"():\n    yield Entry('same', 'x', Options, 'json:dumps')\n    yield Entry('only-{name}', 'x', Options, 'json:dumps')",
        )
    host = PluginHost.discover()
    assert {"only-left", "only-right"} <= set(host.entries("samplers"))
    assert "same" not in host.entries("samplers")
    assert {"left", "right"} <= set(host.plugin_set())
    with pytest.raises(PluginError, match=r'2 plugins offer the sampler "same"'):
        require_healthy(host)
    with pytest.raises(PluginError, match=r'2 plugins offer the sampler "same": `left` \(left-dist 1.0\) and `right` \(right-dist 1.0\)'):
        host.entry("samplers", "same")
    assert "same" in host.without(["left"]).entries("samplers")


def test_the_result_does_not_depend_on_the_order_of_discovery(tmp_path, monkeypatch, plugin_folder):
    names = ["zeta", "alpha", "mid"]
    for name in names:
        plugin_folder.add(
            name,
            HOOK + f"():\n    yield Entry('shared', 'x', Options, 'json:dumps')\n    yield Entry('{name}', 'x', Options, 'json:dumps')",
        )
    plugin_folder.add("thief", KINDS["takes-core-name"][0])
    first = PluginHost.discover()
    import ernie_core.plugins.discovery as discovery

    listed = list(discovery.metadata.distributions())
    monkeypatch.setattr(discovery.metadata, "distributions", lambda: reversed(listed))
    second = PluginHost.discover()
    assert first.plugin_set() == second.plugin_set()
    assert list(first.plugin_set()) == list(second.plugin_set())
    assert first.failures == second.failures
    assert first.conflicts == second.conflicts
    assert {r: list(o) for r, o in first.registries.items()} == {r: list(o) for r, o in second.registries.items()}


def test_a_missing_component_names_the_failed_plugin_that_had_offered_it(plugin_folder):
    plugin_folder.add("half", SAMPLER.format("half") + "    raise RuntimeError('midway')")
    host = PluginHost.discover()
    with pytest.raises(MissingComponent, match=r'no sampler is called "a-half".*plugin `half` \(half-dist 1.0\) was skipped: .*midway'):
        host.entry("samplers", "a-half")


def test_training_refuses_a_broken_plugin_set_unless_told_otherwise(plugin_folder):
    plugin_folder.add("half", KINDS["raises-midway"][0])
    host = PluginHost.discover()
    with pytest.raises(PluginError, match=r"plugin `half` .* was skipped(.|\n)*plugins.allow_failed = true"):
        require_healthy(host)
    require_healthy(host, allow_failed=True)
    require_healthy(PluginHost.discover(plugins=False))


def test_a_build_attribute_that_is_missing_is_an_error_when_it_is_used(plugin_folder):
    plugin_folder.add("late", HOOK + "(): yield Entry('late', 'x', Options, 'json:no_such_build')")
    host = PluginHost.discover()
    with pytest.raises(PluginError, match=r'the sampler "late" of plugin `late` .* cannot be built: `json` has no `no_such_build`'):
        host.build("samplers", Selection("late"), None)


def test_a_missing_package_of_an_implementation_is_one_line_with_the_fix(plugin_folder):
    (plugin_folder.path / "needs_more.py").write_text("import package_that_is_not_here\n")
    plugin_folder.add("needy", HOOK + "(): yield Entry('needy', 'x', Options, 'needs_more:build')")
    host = PluginHost.discover()
    with pytest.raises(
        MissingComponent,
        match=r'the sampler "needy" needs the package `package_that_is_not_here`, .*: pip install "package_that_is_not_here"',
    ):
        host.build("samplers", Selection("needy"), None)


def test_what_a_plugin_prints_on_import_does_not_mix_with_results(plugin_folder):
    plugin_folder.add("chatty", "print('hello from the plugin')" + GOOD)
    done = plugin_folder.ernie("plugins", "check", "chatty", "--json")
    json.loads(done.stdout)
    assert "hello from the plugin" in done.stderr


def test_commands_work_beside_all_broken_plugins_at_once_and_check_reports_each(plugin_folder):
    for name, (source, _, _) in KINDS.items():
        plugin_folder.add(name, source)
    plugin_folder.add("late", HOOK + "(): yield Entry('late', 'x', Options, 'json:no_such_build')")
    help_ = plugin_folder.ernie("--help")
    assert help_.returncode == 0, help_.stderr
    assert "see `ernie plugins check`" in help_.stdout
    listed = plugin_folder.ernie("plugins", "list", "--json")
    assert listed.returncode == 0
    assert set(KINDS) <= {row["name"] for row in json.loads(listed.stdout)}
    check = plugin_folder.ernie("plugins", "check", "--json")
    assert check.returncode == 2
    assert "Traceback" not in check.stderr
    phases = {row["name"]: row["phase"] for row in json.loads(check.stdout)["failed"]}
    assert {name: phases.get(name) for name in KINDS} == {name: phase for name, (_, phase, _) in KINDS.items()}
    assert phases["late"] == "build"
    schema = plugin_folder.ernie("config", "schema")
    assert schema.returncode == 0


def test_check_notes_a_plugin_that_slows_every_command_down(plugin_folder):
    (plugin_folder.path / "transformers.py").write_text("")  # stands in front of the real one
    plugin_folder.add("slow", "import transformers" + GOOD)
    done = plugin_folder.ernie("plugins", "check", "slow")
    assert done.returncode == 0
    assert done.stdout == "slow  slow-dist 1.0  ok, but importing it loads transformers, which slows every command down\n"


HANGS = {"exits-hard": "import os; os._exit(7)", "loops": "while True: pass"}


@pytest.mark.parametrize("name", HANGS)
def test_what_no_import_survives_can_be_listed_and_switched_off(name, plugin_folder):
    plugin_folder.add(name, HANGS[name])
    listed = plugin_folder.ernie("plugins", "list")
    assert listed.returncode == 0
    assert f"{name}  {name}-dist 1.0  installed" in listed.stdout
    if name == "loops":
        assert plugin_folder.ernie("--no-plugins", "--help").returncode == 0
    assert plugin_folder.ernie("--disable-plugins", name, "--help").returncode == 0
    off = plugin_folder.ernie("plugins", "check", name, environ={"ERNIE_DISABLE_PLUGINS": f"other, {name}"})
    assert f"{name}  {name}-dist 1.0  switched off" in off.stdout
    config = plugin_folder.path / "run.toml"
    config.write_text(f'[plugins]\ndisable = ["{name}"]\nrequire = ["absent"]\n')
    checked = plugin_folder.ernie("config", "check", str(config))
    assert checked.returncode == 2
    assert f"{config}:3: `plugins.require`: no usable plugin `absent`" in checked.stderr
