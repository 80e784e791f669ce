"""``ernie align pairs inspect``."""

import json

import numpy as np
import pytest
from PIL import Image

from ernie_core.cli.main import main

from .pair_makers import new_pair, pair_folder


@pytest.fixture
def ernie(capsys):
    def run(*arguments):
        code = main(["align", "pairs", "inspect", *map(str, arguments)])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


@pytest.fixture
def folder(tmp_path):
    pairs = [new_pair(n, agreement=0.5) for n in range(5)] + [new_pair(7, size_px=(48, 24), annotator="another", prompt="一只猫 " * 40)]
    return pair_folder(tmp_path / "set", pairs)


def test_counts_and_margins_are_told(ernie, folder):
    code, out, _ = ernie(folder, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["pairs"], found["seen"], found["prompts"]) == (6, 6, 6)
    assert found["margin"] == {"least": 1.0, "q25": 2.25, "median": 3.5, "q75": 4.75, "greatest": 8.0}
    assert found["shapes"] == {"32x32": 5, "48x24": 1}
    assert found["annotators"] == {"tester": 5, "another": 1}
    assert found["agreement"] == 0.5
    code, out, _ = ernie(folder, "--verify")
    assert code == 0
    assert "6 of 6 seen, 6 prompts" in out
    assert "32x32 (5), 48x24 (1)" in out


def test_the_sheet_shows_the_winner_left_of_the_loser(ernie, folder, tmp_path):
    code, _, err = ernie(folder, "--sheet", tmp_path / "sheet.png", "--count", 4)
    assert code == 0, err
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    widest = pixels[10 + 40 : 10 + 120, 10:170]  # pair 5, twice as wide as high: rows 40 to 120 of its tile
    from .pair_makers import picture

    shown = np.asarray(Image.fromarray(picture(14, size_px=(48, 24))).resize((160, 80), Image.Resampling.NEAREST))
    assert np.array_equal(widest, shown)


def test_damage_is_found_by_verify_alone(ernie, folder):
    shard = folder / "pictures-00000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    assert ernie(folder)[0] == 0
    code, _, err = ernie(folder, "--verify")
    assert code == 2
    assert "the picture is not what was stored" in err


def test_another_folder_is_refused(ernie, tmp_path):
    code, _, err = ernie(tmp_path)
    assert code == 2
    assert "a folder without manifest.json" in err
