"""What the README and the pages show can be typed: configs decode, verbs and options exist."""

import re
import shlex
from pathlib import Path

import pytest

from ernie_core.cli.main import main
from ernie_core.config.load import load_config
from ernie_core.plugins.host import PluginHost

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/curation.md",
    "docs/write-a-plugin.md",
    "docs/example-plugin/README.md",
    "packages/ernie-core/README.md",
    "packages/ernie-align/README.md",
    "packages/ernie-data/README.md",
    "packages/ernie-distill/README.md",
)
GROUPS = {"align", "config", "data", "distill", "plugins", "weights"}
INNER = {"align pairs", "data sampling", "data sft", "data taxonomy", "distill gates", "distill teachers", "weights lora"}
"""Verbs that are groups themselves."""


def documented() -> list[tuple[str, ...]]:
    """Every ``ernie`` command of the pages' indented lines, as (verb, option, ...)."""
    found = []
    for page in PAGES:
        for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
            if not line.startswith("    "):
                continue
            for part in line.split("#")[0].split("&&"):
                words = shlex.split(part)
                words = words[2:] if words[:2] == ["uv", "run"] else words
                if words[:1] == ["ernie"]:
                    depth = 1 + (words[1] in GROUPS) + (" ".join(words[1:3]) in INNER)
                    verb = " ".join(words[1 : 1 + depth])
                    found.append((verb, *(word for word in words if word.startswith("--"))))
    return sorted(set(found))


def test_commands_are_found():
    assert {"quickstart", "train", "sample", "weights export", "config check", "doctor"} <= {verb for verb, *_ in documented()}


@pytest.mark.parametrize("command", documented(), ids=" ".join)
def test_every_documented_verb_and_option_exists(command, capsys):
    verb, *options = command
    try:
        code = main([*verb.split(), "--help"])
    except SystemExit as stop:
        code = stop.code
    text = capsys.readouterr().out
    assert code in (0, None), text
    for option in options:
        assert re.search(rf"{option}\b", text), f"`ernie {verb} --help` does not know {option}"


def test_the_readmes_configs_decode(tmp_path):
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / "run.toml"
        path.write_text(block, encoding="utf-8")
        assert load_config([path], [], PluginHost.discover()).config.stages
