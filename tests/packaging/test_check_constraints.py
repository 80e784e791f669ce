"""Every rule of tools/check_constraints.py fires on a small workspace that breaks it."""

from pathlib import Path

import pytest

import check_constraints

ROOT = Path(__file__).resolve().parents[2]
DATA = "packages/ernie-data/pyproject.toml"
LOCK = 'version = 1\nrevision = 3\nrequires-python = ">=3.11"\n'
INDEX = "https://index.example"
GOOD_LOCK = LOCK + "".join(
    f'[[package]]\nname = "{name}"\nversion = "1.0"\nsource = {{ registry = "{INDEX}" }}\n' for name in ("numpy", "pluggy")
)


def data(requirement: str, *, table: str = "dependencies") -> str:
    if table == "dependencies":
        return f'[project]\nname = "ernie-data"\nversion = "0.1.0"\ndependencies = ["{requirement}"]\n'
    return f'[project]\nname = "ernie-data"\nversion = "0.1.0"\n[project.optional-dependencies]\n{table} = ["{requirement}"]\n'


@pytest.fixture
def found(workspace):
    def run(files: dict[str, str]) -> list[str]:
        return check_constraints.check(workspace({"uv.lock": GOOD_LOCK} | files), ask_uv=False)

    return run


def test_the_repository_itself_is_consistent():
    assert check_constraints.check(ROOT, ask_uv=False) == []


def test_a_floor_and_a_cap_around_the_version_is_fine(found):
    assert found({}) == []


@pytest.mark.parametrize("table", ["dependencies", "train"])
@pytest.mark.parametrize("requirement", ["ernie-core>=0.2,<0.3", "ernie-core>=0.0.1,<0.1"])
def test_a_constraint_that_excludes_the_workspaces_version_is_found(found, requirement, table):
    messages = found({DATA: data(requirement, table=table)})
    assert len(messages) == 1
    assert "does not admit ernie-core 0.1.0, which the workspace holds" in messages[0]


@pytest.mark.parametrize("requirement", ["ernie-core==0.1.0", "ernie-core===0.1.0", "ernie-core==0.1.*"])
def test_exact_pins_between_members_are_found(found, requirement):
    assert "pins an exact version; give a floor and a cap, as in `>=0.1,<0.2`" in found({DATA: data(requirement)})[0]


@pytest.mark.parametrize("requirement", ["ernie-core", "ernie-core>=0.1", "ernie-core<0.2"])
def test_a_missing_floor_or_cap_is_found(found, requirement):
    assert "needs a floor (what it uses) and a cap" in found({DATA: data(requirement)})[0]


def test_an_extra_that_does_not_exist_is_found(found):
    assert "ernie-core has no extra fast" in found({DATA: data("ernie-core[fast]>=0.1,<0.2")})[0]


def test_an_undeclared_member_is_found(found):
    messages = found({"packages/ernie-data/src/ernie_data/x.py": "def f():\n    import ernie_aes\n"})
    assert messages == ["packages/ernie-data/src/ernie_data/x.py:2: imports ernie-aes, which ernie-data does not declare"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (f'name = "apex"\nsource = {{ registry = "{INDEX}" }}', "holds `apex`"),
        ('name = "torch"\nsource = { registry = "https://mirror.example" }', "torch comes from https://mirror.example"),
        ('name = "torch"\nsource = { url = "https://example.org/torch.whl" }', "torch comes from a url"),
        ('name = "torch"\nsource = { path = "/opt/torch.whl" }', "torch comes from a path (/opt/torch.whl)"),
        ('name = "ernie-core"\nsource = { editable = "/home/x/ernie-core" }', "outside the workspace"),
    ],
)
def test_what_a_lock_may_not_hold(found, entry, message):
    messages = found({"uv.lock": f"{GOOD_LOCK}[[package]]\n{entry}\n"})
    assert len(messages) == 1
    assert message in messages[0]


def test_a_missing_lock_is_found(workspace):
    assert check_constraints.check(workspace({}), ask_uv=False) == ["uv.lock: missing; run `uv lock`"]


def test_an_outdated_lock_is_found(workspace, monkeypatch, tmp_path):
    """The command's exit status decides; what uv itself checks is uv's."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\necho 'error: The lockfile needs to be updated' >&2\nexit 1\n", encoding="utf-8")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent), prepend=":")
    messages = check_constraints.check(workspace({"uv.lock": GOOD_LOCK}))
    assert messages == ["uv.lock: `uv lock --check` failed: error: The lockfile needs to be updated"]
