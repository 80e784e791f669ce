"""`ernie data sampling plan`, its numbers and its config."""

import json
import math
import re

import numpy as np
import pytest

from ernie_core.api import App, ConfigError, DataError
from ernie_data.cli import main as data
from ernie_data.sampling.build import Chunk, build_index
from ernie_data.sampling.config import SamplingConfig, read_sampling
from ernie_data.sampling.hierarchy import ClassTable, class_table
from ernie_data.sampling.plan import KNOBS, make_plan

NAMES = ("cats", "rare birds", "trees")


def scored(count=600, seed=0):
    rng = np.random.default_rng(seed)
    category = np.repeat([0, 1, 2], [count - 110, 10, 100])
    return category, rng.normal(category, 1.0)


@pytest.fixture
def index(tmp_path):
    category, score = scored()
    n = len(category)
    chunk = Chunk(np.zeros(n, int), category, score, *(np.zeros(n, int) for _ in range(3)), np.ones(n, int), np.zeros((n, 32), np.uint8))
    build_index(tmp_path / "index", lambda: [chunk], buckets=((512, 512),), categories=NAMES, shards=("a.tar",))
    return tmp_path / "index"


@pytest.fixture
def plan(capsys):
    def run(*arguments):
        assert data(["sampling", "plan", *map(str, arguments)], App()) == 0
        return capsys.readouterr().out

    return run


def test_the_plan_prints_epochs_categories_repeats_and_every_knob(index, plan):
    out = plan(index, "--draws", 2000)
    assert f"{index}: 600 pictures in 3 categories, 2000 draws, hierarchical" in out
    assert "alpha 0.5, tau_c 2, tau_i 1, uniform 0.1, kappa 50, floor 1e-06, max_repeats 4\n" in out
    assert re.search(r"expected epochs per picture: least 0\.\d+, .*most 4, mean 3\.333", out)
    assert "at the cap" in out
    assert re.search(r"caps: without them up to \d+", out)
    assert re.search(r"most repeated: category +bin +pictures +mean score +epochs each +without caps", out)
    assert "drawn more than found" in out
    for knob, _, meaning in KNOBS:
        assert f"{knob}: {meaning}" in out
    assert len(re.findall(r"<-", out)) == len(KNOBS)
    assert re.search(r"max_repeats .*\n  1 +caps cannot be met", out)


def test_the_plans_numbers_are_those_of_the_law(index, plan):
    report = json.loads(plan(index, "--draws", 1000, "--alpha", 1, "--tau-c", "inf", "--tau-i", "inf", "--max-repeats", "inf", "--json"))
    assert report["index"] == str(index)
    assert (report["draws"], report["pictures"], report["categories"]) == (1000, 600, 3)
    shares = np.array([490, 10, 100]) / 600
    assert report["summary"]["effective_categories"] == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
    assert report["summary"]["effective_pictures"] == pytest.approx(600)
    for name in ("least", "median", "most", "mean"):
        assert report["epochs"][name] == pytest.approx(1000 / 600)
    assert report["summary"]["rare_share"] == pytest.approx(10 / 600)
    assert report["summary"]["capped_pictures"] == 0
    assert report["moved_by_caps"] == 0
    assert report["gaining"] == report["losing"] == []
    assert report["config"]["max_repeats"] is None
    assert [v["value"] for v in report["variants"] if v["knob"] == "alpha"] == [1, 0.75, 0.5, 0.25, 0]


def test_caps_show_in_the_plan():
    table, _ = class_table(*scored(), classes=3)
    made = make_plan(table, NAMES, SamplingConfig(draws=2000, max_repeats=4.0))
    assert made.summary.most_repeated == pytest.approx(4, rel=1e-12)
    assert made.uncapped.most_repeated > 10
    assert 0.05 < made.moved_by_caps < 1
    assert 0 < made.summary.capped_pictures < 1
    assert made.repeated[0].epochs == pytest.approx(4)
    assert made.repeated[0].uncapped == pytest.approx(made.uncapped.most_repeated)
    assert made.summary.most_uncapped == made.uncapped.most_repeated
    held_back = [r.uncapped for r in made.repeated]
    assert held_back == sorted(held_back, reverse=True)
    assert {s.category for s in made.gaining} & {"rare birds", "trees"}
    assert [s.category for s in made.losing] == ["cats"]
    flat = next(v.summary for v in made.variants if (v.knob, v.value) == ("alpha", 0.0))
    natural = next(v.summary for v in made.variants if (v.knob, v.value) == ("alpha", 1.0))
    assert flat.effective_categories > natural.effective_categories
    assert flat.rare_share >= natural.rare_share


def test_ten_thousand_categories_plan_without_the_cap_as_the_reference_does():
    rng = np.random.default_rng(0)
    rows = np.minimum(rng.zipf(1.3, 10_000), 200_000)
    quality = rng.normal(5, 1, 10_000)
    table = ClassTable(rows[:, None], np.zeros((10_000, 1)), quality, np.zeros(10_000))
    config = SamplingConfig(draws=10**8, alpha=0.5, kappa=0.0, max_repeats=math.inf)
    made = make_plan(table, [str(i) for i in range(10_000)], config, top=3)
    assert round(made.summary.effective_categories) == 1430
    assert round(made.summary.most_repeated) == 1906
    found = {v.value: v.summary for v in made.variants if v.knob == "alpha"}
    assert [round(found[a].effective_categories) for a in (0.75, 0.25, 0.0)] == [608, 5419, 8808]
    assert [round(found[a].most_repeated) for a in (0.75, 0.25, 0.0)] == [130, 15024, 44119]


def test_comparators_print_what_matters_for_them(index, plan):
    out = plan(index, "--draws", 500, "--strategy", "hard-threshold", "--min-score", "0.5")
    assert "500 draws, hard-threshold\n  max_repeats 4, min_score 0.5\n" in out
    assert "tau_c" not in out
    assert re.search(r"[1-9]\d\.\d\d% of the pictures are expected less than 0\.1 times", out)


def test_a_config_file_gives_the_index_and_the_knobs_and_options_win(index, tmp_path, plan):
    path = tmp_path / "sampling.toml"
    path.write_text('index = "index"\ndraws = 1_000\nalpha = 0.25\nmax_repeats = inf\n')
    assert read_sampling(path).index == str(index)
    report = json.loads(plan(path, "--json", "--alpha", 0.75, "--top", 0))
    assert (report["draws"], report["config"]["alpha"], report["config"]["max_repeats"]) == (1000, 0.75, None)
    assert report["repeated"] == []


def refused(arguments, error=ConfigError):
    with pytest.raises(error) as caught:
        data(["sampling", "plan", *map(str, arguments)], App())
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_configs_are_refused_with_line_key_and_nearest_name(tmp_path):
    path = tmp_path / "sampling.toml"
    path.write_text('index = "x"\nalpa = 0.5\n\ntau_c = 0\nuniform = "much"\nkappa = -1\nwhatever = 1\n')
    lines = refused([path, "--draws", 10]).splitlines()
    assert lines[0] == f"{path}:2: unknown key `alpa`; did you mean `alpha`?"
    assert lines[1] == f"{path}:4: `tau_c`: expected `float` > 0.0, found 0"
    assert lines[2] == f"{path}:5: `uniform`: expected `float`, got `str`, found 'much'"
    assert lines[3] == f"{path}:6: `kappa`: expected `float` >= 0.0, found -1"
    assert lines[4].startswith(f"{path}:7: unknown key `whatever`. Known: strategy, alpha")
    path.write_text("alpha = \n")
    assert re.match(rf"{re.escape(str(path))}: not valid TOML: ", refused([path]))
    path.write_text("alpha = 0.5\n")
    assert refused([path]) == f'{path}: `index`: missing; expected the folder of a sampling index, as index = "..."'
    assert refused([tmp_path / "none.toml"]) == f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"
    path.write_text("alpha = nan\nindex = 'x'\n")
    assert "`alpha`" in refused([path])


def test_plans_that_cannot_be_made_say_why(index, tmp_path):
    assert "a plan needs the number of draws of the run" in refused([index])
    assert "max_repeats = 4 over 2401 draws needs at least 601 pictures, and 600 can be drawn: at most 2400 draws are feasible" in refused(
        [index, "--draws", 2401]
    )
    assert '`strategy`: nothing is called "uniform"' in refused([index, "--draws", 10, "--strategy", "uniform"])
    assert refused([index, "--draws", 10, "--alpha", -1, "--tau-c", 0]).splitlines() == [
        "--alpha -1.0: expected `float` >= 0.0, found -1.0",
        "--tau-c 0.0: expected `float` > 0.0, found 0.0",
    ]
    assert refused([index, "--draws", 10, "--alpha", "nan"]) == "--alpha nan: expected `float` >= 0.0, found nan"
    assert refused([index, "--draws", 10, "--min-score", "nan"]) == "--min-score nan: expected a number, found nan"
    assert refused([index, "--draws", 10, "--kappa", "inf"]) == "--kappa inf: alpha and kappa must be finite, found inf"
    assert refused([index, "--draws", -5]) == "--draws -5: expected `int` >= 0, found -5"
    assert "not a sampling index" in refused([tmp_path, "--draws", 10], DataError)
    with pytest.raises(SystemExit):
        data(["sampling", "plan", str(index), "--top", "-1"], App())
