"""The recipes for fine-tuning and preference training decode, every key of them."""

from pathlib import Path

import pytest

from ernie_core.cli.main import main

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize(("name", "method"), [("sft", "sft"), ("dpo", "dpo")])
def test_a_recipe_decodes(name, method, capsys):
    path = RECIPES / f"{name}.toml"
    assert main(["config", "check", str(path)]) == 0
    assert f'use = "{method}"' in path.read_text()
    capsys.readouterr()


def test_an_unknown_key_in_a_recipe_would_be_found(capsys):
    assert main(["config", "check", str(RECIPES / "dpo.toml"), "--set", "method.loss.anchor_winner=1"]) == 2
    assert "anchor_winner" in capsys.readouterr().err
