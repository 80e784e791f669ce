"""`ernie data ...` and the quickstart's arguments."""

import json

import pytest
from PIL import Image

from ernie_core.api import App, Command, ConfigError, DataError
from ernie_data import plugin
from ernie_data.cli import main as data
from ernie_data.quickstart.command import main as quickstart


@pytest.fixture
def app():
    return App()


def captioned(folder, sizes):
    for i, size in enumerate(sizes):
        Image.new("RGB", size, (30 * i, 60, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    return folder


def test_the_plugin_offers_its_commands_and_sources():
    assert plugin.ERNIE_API == (0, 1)
    assert [c.name for c in plugin.ernie_register_commands()] == ["quickstart", "data"]
    assert all(isinstance(c, Command) for c in plugin.ernie_register_commands())
    assert [e.name for e in plugin.ernie_register_data_sources()] == ["folder", "shapes", "curated"]


def test_shapes_writes_a_set_and_keeps_it(tmp_path, app, capsys):
    arguments = ["shapes", "--out", str(tmp_path / "set"), "--count", "5", "--size", "24"]
    assert data(arguments, app) == 0
    assert "wrote 5 pictures of 24 px, profile quick, split train" in capsys.readouterr().out
    assert data(arguments, app) == 0
    captured = capsys.readouterr().out
    assert "already there: 5 pictures" in captured
    assert "80 triples seen, 16 held out" in captured
    assert len(list((tmp_path / "set").rglob("*.png"))) == 5


def test_shapes_refuses_sizes_out_of_range(tmp_path, app):
    with pytest.raises(ConfigError, match="ShapeBench renders pictures of 16 to 256 px, found 8"):
        data(["shapes", "--out", str(tmp_path / "set"), "--size", "8"], app)
    assert not (tmp_path / "set").exists()


def test_inspect_counts_pictures_styles_and_buckets(tmp_path, app, capsys):
    captioned(tmp_path, [(600, 600), (600, 300), (100, 100)])
    assert data(["inspect", str(tmp_path), "--decode"], app) == 0
    out = capsys.readouterr().out
    assert "3 pictures with captions; styles: text 3" in out
    assert "512x512 2" in out
    assert "1 pictures have a side below 256 px and will be enlarged more than twice" in out
    assert "no problems found" in out


def test_inspect_lists_problems_and_exits_2(tmp_path, app, capsys):
    captioned(tmp_path, [(64, 64)])
    Image.new("RGB", (64, 64)).save(tmp_path / "bare.png")
    with pytest.raises(DataError, match=r"images without a caption: 1\. .*\n  bare\.png") as caught:
        data(["inspect", str(tmp_path)], app)
    assert caught.value.exit_code == 2
    assert "1 pictures with captions" in capsys.readouterr().out


def test_inspect_finds_cut_off_pictures_only_when_it_decodes(tmp_path, app):
    captioned(tmp_path, [(64, 64)])
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(whole[:-30])
    assert data(["inspect", str(tmp_path)], app) == 0
    with pytest.raises(DataError, match=r"images that cannot be read: 1\n.*0\.png: the picture is damaged or cut off"):
        data(["inspect", str(tmp_path), "--decode"], app)


def test_inspect_prints_json(tmp_path, app, capsys):
    captioned(tmp_path, [(64, 64)])
    assert data(["inspect", str(tmp_path), "--size", "64", "--json"], app) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {"pictures": 1, "styles": {"text": 1}, "buckets": {"64x64": 1}, "small": 0, "problems": {}}


def test_verify_shapes_prints_counts(app, capsys):
    assert data(["verify-shapes", "--count", "60", "--profile", "quick", "--size", "24"], app) == 0
    out = capsys.readouterr().out
    assert "clean renders judged right          60/60" in out
    assert "counterfactual captions accepted    0/60" in out
    assert data(["verify-shapes", "--count", "30", "--json"], app) == 0
    assert json.loads(capsys.readouterr().out)["full"]["clean_right"] == 30


def test_verify_shapes_names_sizes_that_are_too_small(app):
    with pytest.raises(ConfigError, match="--size 24: profile full is verified from 32 to 256 px"):
        data(["verify-shapes", "--size", "24"], app)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (data, [], "arguments are required: VERB"),
        (data, ["paint"], "invalid choice: 'paint'"),
        (data, ["shapes"], "arguments are required: --out"),
        (data, ["shapes", "--out", "x", "--count", "0"], "expected a positive number, found 0"),
        (data, ["inspect", "x", "--size", "ten"], "invalid _positive value: 'ten'"),
        (quickstart, ["--minutes", "0"], "expected minutes above 0, at most a week, found 0"),
        (quickstart, ["--minutes", "nan"], "expected minutes above 0, at most a week, found nan"),
        (quickstart, ["--minuts", "3"], "unrecognized arguments: --minuts"),
    ],
)
def test_wrong_arguments_exit_2_with_a_reason(app, capsys, command, arguments, message):
    with pytest.raises(SystemExit) as caught:
        command(arguments, app)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_quickstart_refuses_a_data_folder_that_is_not_its_own(tmp_path, app):
    (tmp_path / "data" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="train: exists and is no ShapeBench set; choose another folder"):
        quickstart(["--out", str(tmp_path)], app)
