"""The example plugin, found through its entry point as an installed package is: it keeps its contracts, trains and samples.

Its distribution metadata is written by hand, so that no installer and no network is needed; the CI script installs it with one.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.battery  # .ci/run also installs the example as a third party would

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "example-plugin"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Environment variables under which the example is installed."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8")
    points = "".join(f"{name} = {target}\n" for name, target in project["entry-points"]["ernie"].items())
    (info / "entry_points.txt").write_text(f"[ernie]\n{points}", encoding="utf-8")
    before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(EXAMPLE / "src"), *before])}


def run(environment: dict[str, str], *arguments: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def ernie(environment: dict[str, str], *arguments: str, cwd: Path) -> str:
    return run(environment, "-c", "from ernie_core.cli.main import main; raise SystemExit(main())", *arguments, cwd=cwd)


def test_it_is_listed_and_keeps_its_contracts(environment, tmp_path):
    assert "ernie-example 0.1.0" in ernie(environment, "plugins", "list", cwd=tmp_path)
    ernie(environment, "plugins", "check", "example", cwd=tmp_path)
    said = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE), str(EXAMPLE / "tests"), cwd=tmp_path)
    assert " passed" in said
    assert "skipped" not in said


@pytest.fixture(scope="module")
def trained(environment, tmp_path_factory) -> Path:
    """A run folder of a few steps with the plugin's block, loss and sampler."""
    folder = tmp_path_factory.mktemp("run")
    ernie(environment, "train", str(EXAMPLE / "train.toml"), "--out", "run", cwd=folder)
    return folder / "run"


def test_it_trains_and_samples_with_all_three_components(environment, trained, tmp_path):
    assert (trained / "latest").read_text(encoding="utf-8").strip() == "step-00000008"
    recorded = (trained / "config.toml").read_text(encoding="utf-8")
    assert all(name in recorded for name in ("parallel-swiglu", "pseudo-huber", "midpoint"))
    asked = ["--prompt", "a red circle", "--sampler", "midpoint", "--steps", "4", "--size", "32x48", "--out", "red.png"]
    assert "midpoint" in ernie(environment, "sample", "--checkpoint", str(trained), *asked, cwd=tmp_path)
    assert Image.open(tmp_path / "red.png").size == (32, 48)


def test_without_the_plugin_its_checkpoint_names_what_is_missing(trained, tmp_path):
    arguments = ["sample", "--checkpoint", str(trained), "--prompt", "a red circle", "--out", "one.png"]
    command = [sys.executable, "-c", "from ernie_core.cli.main import main; raise SystemExit(main())", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'no DiT block is called "parallel-swiglu"' in done.stderr
    assert "Traceback" not in done.stderr
