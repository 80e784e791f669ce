"""The command line: lazy, exact about wrong input, and never a traceback for what a user did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from ernie_core.cli.app import App, Parser, UsageError
from ernie_core.cli.main import main
from ernie_core.testing.plugin_folder import PluginFolder, plugins_in

COMMANDS = """
@hookimpl
def ernie_register_commands():
    yield Command("greet", "say hello", "{module}:greet")
    yield Command("no-code", "returns nothing", "{module}:no_code")
    yield Command("needs", "needs a package", "{module}:needs")
    yield Command("flood", "prints for ever", "{module}:flood")
    yield Command("wait", "waits", "{module}:wait")
    yield Command("broken", "has a defect", "{module}:broken")

def greet(argv, app):
    app.out(f"hello {{argv}} {{sorted(app.host.plugin_set())}} {{app.flags}}")
    return 0
def no_code(argv, app):
    return None
def needs(argv, app):
    import package_that_is_not_here
def flood(argv, app):
    while True:
        app.out("x" * 1000)
def wait(argv, app):
    import time
    app.out("waiting")
    time.sleep(60)
def broken(argv, app):
    return 1 // 0
"""


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Iterator[PluginFolder]:
    with plugins_in(tmp_path / "plugins") as folder:
        folder.add("greeter", COMMANDS.format(module="greeter_dist_plugin"))
        yield folder


def test_help_names_every_verb_and_who_offers_it(plugin_folder, capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for verb in ("train", "sample", "weights", "config", "plugins", "doctor"):
        assert f"\n  {verb} " in out
    assert "say hello  (greeter-dist 1.0)" in out


def test_help_is_made_without_torch_and_without_numpy():
    code = "import sys; from ernie_core.cli.main import main; main(['--no-plugins', '--help']); print([m for m in ('torch', 'numpy', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_version_and_empty_command_line(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ernie-core {metadata.version('ernie-core')}\n"
    assert main([]) == 0
    assert "usage: ernie" in capsys.readouterr().out
    assert main(["--no-plugins"]) == 2


def test_a_plugin_command_gets_its_arguments_and_the_app(plugin_folder, capsys):
    assert main(["--disable-plugins", "data,other", "greet", "a", "--b"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("hello ['a', '--b'] [")
    assert "'core'" in out
    assert "'greeter'" in out
    assert "'data'" not in out.partition("['--disable")[0]
    assert "['--disable-plugins', 'data,other']" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["gret"], 2, "ernie: no verb is called `gret`; did you mean `greet`? Known: "),
        (["--no-plugins", "greet"], 2, "ernie: no verb is called `greet`. Known: config, doctor, eval, plugins, sample, train, weights."),
        (["--disable-plugin", "x"], 2, "ernie: unknown option `--disable-plugin`; did you mean `--disable-plugins`?"),
        (["--disable-plugins"], 2, "ernie: --disable-plugins needs names, separated by commas"),
        (["config", "shw"], 2, "ernie config: argument VERB: invalid choice: 'shw'"),
        (["config", "show"], 2, "ernie config show: the following arguments are required: CONFIG.toml. See `ernie config show --help`."),
        (["plugins", "check", "greter"], 2, "no plugin is called `greter`; did you mean `greeter`? Installed: "),
        (["no-code"], 1, "ernie no-code: the command returned None, expected an exit code"),
        (
            ["needs"],
            2,
            '`ernie needs` needs the package `package_that_is_not_here`, which is not installed: pip install "package_that_is_not_here"',
        ),
    ],
)
def test_wrong_input_is_one_line_on_stderr(arguments, code, text, plugin_folder, capsys):
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_defect_shows_where_it_is_and_exits_1(plugin_folder, capsys):
    assert main(["broken"]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert "This is a defect of ernie or of a plugin" in err


def test_plugins_list_does_not_import_plugins(plugin_folder, capsys):
    marker = plugin_folder.path / "imported"
    plugin_folder.add("spy", f"open({str(marker)!r}, 'w').close()")
    assert main(["--disable-plugins", "greeter", "plugins", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["spy"] == {"name": "spy", "distribution": "spy-dist", "version": "1.0", "state": "installed"}
    assert rows["greeter"]["state"] == "switched off"
    assert not marker.exists()
    assert "spy_dist_plugin" not in sys.modules


def test_core_verbs_do_not_import_plugins_either(plugin_folder, capsys):
    marker = plugin_folder.path / "imported"
    plugin_folder.add("spy", f"open({str(marker)!r}, 'w').close()")
    main(["config", "--help"])
    main(["sample", "--help"])
    assert not marker.exists()
    assert "usage: ernie sample" in capsys.readouterr().out


def test_a_config_disables_a_plugin_before_it_is_imported(plugin_folder, tmp_path, capsys):
    marker = plugin_folder.path / "imported"
    plugin_folder.add("spy", f"open({str(marker)!r}, 'w').close()")
    config = tmp_path / "run.toml"
    config.write_text('[plugins]\ndisable = ["spy", "data"]\n')
    assert main(["config", "check", str(config)]) == 2
    assert "missing key `codec`" in capsys.readouterr().err
    assert not marker.exists()


def test_ctrl_c_exits_130_without_a_traceback(plugin_folder):
    environ = {**os.environ, "PYTHONPATH": str(plugin_folder.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ernie_core.cli.main", "wait"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "interrupted\n"


def test_a_reader_that_went_away_is_no_traceback(plugin_folder):
    environ = {**os.environ, "PYTHONPATH": str(plugin_folder.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "ernie_core.cli.main", "flood"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 1
    assert err == ""


def test_a_parser_raises_instead_of_printing_its_usage():
    parser = Parser("demo", "a demonstration")
    parser.add_argument("--count", type=int)
    with pytest.raises(UsageError, match=r"ernie demo: argument --count: invalid int value: 'x'. See `ernie demo --help`."):
        parser.parse_args(["--count", "x"])


def test_flags_are_handed_on_to_further_processes():
    assert App().flags == []
    assert App(plugins=False, disable=["a", "b", "a"]).flags == ["--no-plugins", "--disable-plugins", "a,b"]
