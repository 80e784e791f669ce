"""Documentation that is made from the code, or quotes it, says what the code says."""

import re
from pathlib import Path

import pytest

import config_doc
import hooks_doc
from ernie_core.config.run import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
QUOTE = re.compile(r"<!-- from (\S+) -->\n```\w+\n(.*?)```\n", re.DOTALL)


def test_the_hook_table_matches_the_hooks():
    assert hooks_doc.TARGET.read_text(encoding="utf-8") == hooks_doc.render(), "run `python tools/hooks_doc.py`"


def test_every_hook_is_in_the_table_with_its_arguments():
    rows = [line for line in hooks_doc.render().splitlines() if line.startswith("| `ernie_")]
    assert [row.split("`")[1] for row in rows] == [name for name, _ in hooks_doc.hooks()]
    step_finished = next(row for row in rows if "ernie_step_finished" in row)
    assert "| `run`, `step`, `metrics` |" in step_finished


def test_a_hook_without_a_text_or_a_version_is_refused():
    def ernie_silent():
        """Says nothing about its age."""

    with pytest.raises(ValueError, match=r"ernie_silent: a hook needs a docstring that ends in `\.\. versionadded:: API X\.Y`"):
        hooks_doc.documentation(ernie_silent)


def test_the_config_page_matches_the_structs():
    assert config_doc.TARGET.read_text(encoding="utf-8") == config_doc.render(), "run `python tools/config_doc.py`"


def test_every_key_of_a_training_config_is_on_the_config_page():
    text = config_doc.render()
    for name in TrainConfig.__struct_fields__:
        assert f"| `{name}` |" in text
    for header in ("[run]", "[model]", "[[model.blocks]]", "[[stages]]", "[optimizers.NAME]", "[samples]"):
        assert f"### `{header}`" in text
    assert "| `keep` | integer >= 1 | `3` |" in text


def test_every_table_of_a_component_is_on_the_config_page_too():
    text = config_doc.render()
    for component in (
        "`mt-dmd`, `guidance`:",
        "`mt-dmd`, each of `teachers`:",
        "`dpo`, `reference`:",
        "`product`, `schedule.NAME`:",
        "`product`, `domain`:",
    ):
        assert component in text
    below = [part for part in re.split(r"^\*\*`|^### ", text, flags=re.MULTILINE) if "as below" in part]
    assert below
    for part in below:
        name = part.partition("`")[0]
        for key in re.findall(r"^\| `(\w+)` \| table \| as below", part, flags=re.MULTILINE):
            assert re.search(rf"(`{name}`, `(\S+\.)?{key}`:|\[.*{key}\])", text), f"{name}: nothing below for `{key}`"


def test_quoted_code_is_the_code():
    page = (ROOT / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    quotes = QUOTE.findall(page)
    assert len(quotes) == page.count("```") // 2, "every block of code names the file it is from"
    for name, code in quotes:
        assert code in (ROOT / "docs" / name).read_text(encoding="utf-8"), f"docs/{name} no longer contains:\n{code}"


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT).as_posix() for p in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]))
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page}: nothing at {target}"
