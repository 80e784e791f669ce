"""Every rule of tools/check_boundaries.py fires on a small tree that breaks it, and stays silent on one that does not."""

import subprocess
import sys
from pathlib import Path

import pytest

import check_boundaries

ROOT = Path(__file__).resolve().parents[2]
CORE = "packages/ernie-core/src/ernie_core/"
DATA = "packages/ernie-data/src/ernie_data/"


def findings(root: Path) -> list[str]:
    return [str(finding) for finding in check_boundaries.check(root)]


def test_the_repository_itself_keeps_every_rule():
    assert findings(ROOT) == []


def test_the_command_prints_findings_and_exits_with_one(workspace):
    root = workspace({CORE + "api.py": "\nimport torch\n"})
    done = subprocess.run([sys.executable, ROOT / "tools/check_boundaries.py", "--root", root], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{CORE}api.py:2: is a light module, but importing it imports `torch` (ernie_core.api -> torch)")


def test_a_clean_tree_has_no_findings(workspace):
    root = workspace(
        {
            CORE + "api.py": "import json\nimport msgspec\nimport numpy as np\n",
            CORE + "model/__init__.py": "import torch\n",
            DATA + "plugin.py": "from ernie_core.api import Entry\n\ndef build():\n    from ernie_core.model import dit\n    return dit\n",
        }
    )
    assert findings(root) == []


class TestDirection:
    def test_core_may_not_import_a_member_even_lazily(self, workspace):
        root = workspace({CORE + "train/x.py": "def f():\n    import ernie_data.shapes\n"})
        assert f"{CORE}train/x.py:2: ernie-core imports `ernie_data`: core knows no other package; use a hook" in findings(root)

    @pytest.mark.parametrize("name", ["ernie_data.shapes:main", "install ernie-data"])
    def test_core_may_not_name_a_member_in_a_string(self, workspace, name):
        root = workspace({CORE + "train/x.py": f"NAME = {name!r}\n"})
        assert len(findings(root)) == 1
        assert "ernie-core names `ernie" in findings(root)[0]

    def test_a_docstring_may_name_a_member(self, workspace):
        assert findings(workspace({CORE + "train/x.py": '"""What ernie_data does with it."""\n'})) == []

    def test_members_may_not_import_each_other(self, workspace):
        root = workspace({DATA + "x.py": "from ernie_aes import tiers\n"})
        assert f"{DATA}x.py:1: ernie-data imports `ernie_aes`: packages beside each other meet only in hooks" in findings(root)

    def test_members_may_not_name_each_other(self, workspace):
        assert "in a string" in findings(workspace({DATA + "x.py": 'BUILD = "ernie_aes.scorer:build"\n'}))[0]

    def test_an_error_may_advise_to_install_a_member(self, workspace):
        assert findings(workspace({DATA + "x.py": 'ADVICE = "pip install ernie-aes"\n'})) == []
        assert findings(workspace({DATA + "x.py": 'ADVICE = "pip install ernie-aes, then import ernie_aes"\n'})) != []

    @pytest.mark.parametrize("line", ["from ernie_core.train import trainer", "import ernie_core.train.trainer", "import ernie_core"])
    def test_members_import_only_public_core_modules(self, workspace, line):
        root = workspace({CORE + "train/__init__.py": "", CORE + "train/trainer.py": "", DATA + "x.py": line + "\n"})
        assert len(findings(root)) == 1
        assert "which is not public; of ernie_core are: api, testing, io, rng" in findings(root)[0]

    def test_a_name_that_the_api_offers_is_pointed_out(self, workspace):
        files = {CORE + "api.py": "from ernie_core.errors import DataError\n", CORE + "errors.py": ""}
        root = workspace({**files, DATA + "x.py": "from ernie_core.errors import DataError\n"})
        assert findings(root) == [
            f"{DATA}x.py:1: ernie-data imports `ernie_core.errors`, which is not public; import DataError from ernie_core.api"
        ]

    @pytest.mark.parametrize(
        "line", ["from ernie_core.train import method", "from ernie_core.train.method import Method", "from ernie_core import rng"]
    )
    def test_public_core_modules_are_public_in_every_spelling(self, workspace, line):
        root = workspace({CORE + "train/__init__.py": "", CORE + "train/method.py": "", CORE + "rng.py": "", DATA + "x.py": line + "\n"})
        assert findings(root) == []


class TestLight:
    def test_heavy_imports_are_found_through_others_with_their_chain(self, workspace):
        root = workspace(
            {
                CORE + "api.py": "from ernie_core import far\n",
                CORE + "far.py": "from .farther import x\n",
                CORE + "farther.py": "import torch\nx = 1\n",
            }
        )
        assert findings(root) == [
            f"{CORE}api.py:1: is a light module, but importing it imports `torch` "
            "(ernie_core.api -> ernie_core.far -> ernie_core.farther -> torch); import it where it is used"
        ]

    def test_importing_a_module_runs_the_packages_above_it(self, workspace):
        root = workspace(
            {CORE + "api.py": "import ernie_core.model.names\n", CORE + "model/__init__.py": "import torch\n", CORE + "model/names.py": ""}
        )
        assert "ernie_core.api -> ernie_core.model -> torch" in findings(root)[0]

    def test_the_packages_above_a_light_module_are_light_too(self, workspace):
        root = workspace({CORE + "model/__init__.py": "import torch\n", CORE + "model/entries.py": "X = 1\n"})
        assert f"{CORE}model/entries.py:1: is a light module" in findings(root)[0]
        assert "(ernie_core.model.entries -> ernie_core.model -> torch)" in findings(root)[0]

    @pytest.mark.parametrize(
        "module",
        [
            "errors.py",
            "records.py",
            "plugins/host.py",
            "config/load.py",
            "cli/main.py",
            "model/entries.py",
            "train/method.py",
            "train/watch.py",
            "report/page.py",
            "io.py",
        ],
    )
    def test_which_core_modules_are_light(self, workspace, module):
        assert "is a light module" in findings(workspace({CORE + module: "from PIL import Image\n"}))[0]

    @pytest.mark.parametrize("module", ["plugin.py", "shapes/entries.py", "__init__.py"])
    def test_which_member_modules_are_light(self, workspace, module):
        pyproject = '[project]\nname = "ernie-data"\nversion = "0.1.0"\ndependencies = ["ernie-core>=0.1,<0.2", "pillow>=12"]\n'
        assert (
            "is a light module" in findings(workspace({"packages/ernie-data/pyproject.toml": pyproject, DATA + module: "import PIL\n"}))[0]
        )

    def test_a_heavy_import_in_a_class_body_or_a_try_runs_at_import(self, workspace):
        root = workspace(
            {CORE + "api.py": "class A:\n    import torch\n", CORE + "rng.py": "try:\n    import torch\nexcept ImportError:\n    pass\n"}
        )
        assert len(findings(root)) == 2

    def test_import_module_at_module_level_is_an_import(self, workspace):
        root = workspace({CORE + "api.py": 'import importlib\nt = importlib.import_module("torch")\n'})
        assert f"{CORE}api.py:2: is a light module" in findings(root)[0]

    def test_lazy_and_type_checking_imports_are_light(self, workspace):
        text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n\ndef f():\n    import torch\n    return torch\n"
        assert findings(workspace({CORE + "api.py": text})) == []


class TestDeclared:
    def test_an_undeclared_import_is_found_even_under_type_checking(self, workspace):
        root = workspace({CORE + "model/x.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from einops import rearrange\n"})
        assert findings(root) == [
            f"{CORE}model/x.py:3: imports `einops`, which packages/ernie-core/pyproject.toml declares neither as a dependency nor in an extra"
        ]

    def test_another_members_declaration_does_not_count(self, workspace):
        assert "imports `torch`, which packages/ernie-data/pyproject.toml" in findings(workspace({DATA + "x.py": "import torch\n"}))[0]

    def test_an_undeclared_core_is_found(self, workspace):
        pyproject = '[project]\nname = "ernie-data"\nversion = "0.1.0"\n'
        root = workspace({"packages/ernie-data/pyproject.toml": pyproject, CORE + "api.py": "", DATA + "x.py": "import ernie_core.api\n"})
        assert "imports `ernie_core`, which packages/ernie-data/pyproject.toml" in findings(root)[0]

    def test_import_names_that_differ_from_the_distribution_are_known(self, workspace):
        assert findings(workspace({CORE + "model/x.py": "import PIL.Image\n"})) == []

    @pytest.mark.parametrize(
        "table", ["dependencies = [{}]", "dependencies = []\n[project.optional-dependencies]\nfast = [{}]", "[dependency-groups]\nx = [{}]"]
    )
    def test_apex_stands_in_no_list(self, workspace, table):
        pyproject = '[project]\nname = "ernie-core"\nversion = "0.1.0"\n' + table.format('"apex>=0.9"') + "\n"
        root = workspace({"packages/ernie-core/pyproject.toml": pyproject})
        assert "PyPI's apex is an unrelated package" in findings(root)[0]


WRITES = [
    'open(p, "w")',
    'open(p, mode="xb")',
    'open(p, "r+")',
    "open(p, mode)",
    'p.open("a")',
    "p.write_text(x)",
    "p.write_bytes(x)",
    "os.rename(p, x)",
    "os.replace(p, x)",
    "p.rename(x)",
    "p.replace(x)",
    "os.open(p, os.O_WRONLY | os.O_CREAT)",
    "shutil.copyfile(p, x)",
    "shutil.copytree(p, x)",
    "shutil.move(p, x)",
    "np.save(p, x)",
    "image.save(p)",
    "save_file(x, p)",
    "safetensors.torch.save_file(x, p)",
    "pipeline.save_pretrained(p)",
    'zipfile.ZipFile(p, "w")',
    'gzip.open(p, "wt")',
]
READS = [
    "open(p)",
    'open(p, "rb")',
    "p.open()",
    'p.open("rb")',
    "Image.open(p)",
    'text.replace("a", "b")',
    "dataclasses.replace(config, seed=1)",
    "p.read_text()",
    "image.save(buffer, 'PNG')",
    "np.save(buffer, x)",
    "zipfile.ZipFile(p)",
]


class TestWrites:
    @pytest.mark.parametrize("call", WRITES)
    def test_a_write_past_io_is_found(self, workspace, call):
        found = findings(workspace({CORE + "train/x.py": f"def f(p, x, mode):\n    {call}\n"}))
        assert len(found) == 1
        assert f"{CORE}train/x.py:2: " in found[0]
        assert "writes past ernie_core.io" in found[0]

    @pytest.mark.parametrize("call", READS)
    def test_reading_is_no_write(self, workspace, call):
        text = f"import io\n\ndef f(p, x, text, config):\n    buffer = io.BytesIO()\n    {call}\n"
        assert findings(workspace({CORE + "train/x.py": text})) == []

    def test_io_itself_and_helpers_of_tests_write(self, workspace):
        text = 'open("x", "w")\n'
        assert findings(workspace({CORE + "io.py": text, CORE + "testing/tiny.py": text})) == []

    @pytest.mark.parametrize("module", [CORE + "train/io.py", DATA + "io.py", DATA + "testing/tiny.py"])
    def test_nobody_else_does(self, workspace, module):
        assert len(findings(workspace({module: 'open("x", "w")\n'}))) == 1

    def test_a_reason_excuses_one_statement_and_not_the_next(self, workspace):
        text = 'def f(p):\n    p.write_text("")  # durable: a scratch file of the doctor\n    x = 1\n    p.write_text("")\n'
        found = findings(workspace({CORE + "cli/x.py": text}))
        assert [line.split(":")[1] for line in found] == ["4"]

    def test_calls_of_our_own_writer_are_what_is_wanted_and_the_standard_io_is_not(self, workspace):
        ours = "from ernie_core import io\nio.write_bytes(p, b)\n"
        standard = "import io\nio.open(p, 'w')\n"
        assert findings(workspace({CORE + "cli/x.py": ours})) == []
        assert len(findings(workspace({CORE + "cli/x.py": standard}))) == 1

    def test_a_comment_without_a_reason_excuses_nothing(self, workspace):
        assert len(findings(workspace({CORE + "cli/x.py": 'open("x", "w")  # durable:\n'}))) == 1


class TestUnsafe:
    @pytest.mark.parametrize("line", ["import pickle", "from cloudpickle import loads", "import joblib"])
    def test_pickle_is_refused(self, workspace, line):
        found = findings(workspace({CORE + "train/x.py": line + "\n"}))
        assert any("such a file runs code when it is read" in text for text in found)

    @pytest.mark.parametrize(
        "call",
        [
            "torch.load(p)",
            "archive.extractall(p)",
            "load(p, trust_remote_code=True)",
            "load(p, trust_remote_code=flag)",
            "np.load(p, allow_pickle=True)",
            "load(p, weights_only=False)",
        ],
    )
    def test_readers_that_run_code_are_refused(self, workspace, call):
        found = findings(workspace({CORE + "train/x.py": f"def f(p, archive, flag):\n    {call}\n"}))
        assert len(found) == 1

    def test_saying_no_is_allowed(self, workspace):
        assert findings(workspace({CORE + "train/x.py": "load(p, trust_remote_code=False, allow_pickle=False, weights_only=True)\n"})) == []


def test_a_file_that_does_not_parse_is_named(workspace, capsys):
    root = workspace({CORE + "x.py": "def f(:\n"})
    assert check_boundaries.main(["--root", str(root)]) == 1
    assert "x.py:1: does not parse" in capsys.readouterr().out
