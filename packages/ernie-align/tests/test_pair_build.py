"""``ernie align pairs build``: from a tiny checkpoint to pairs, through kills, settings that change and scorers that break their word."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from ernie_align.pair_config import PairsConfig
from ernie_align.pairs.format import PairFolder
from ernie_align.pairs.pictures import decode
from ernie_align.pairs.source import build
from ernie_core.api import DataSourceContext, Stage
from ernie_core.cli.main import main
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.testing.mishaps import at_operation, in_call, read_trace, traced, without_fsync
from ernie_core.testing.runs import TINY_RUN, merged, write_config

PROMPTS = "red\n\na blue thing\nred\ngreen and white\n"
SIZE = 24
COUNT = 3


def tiny_run(tmp_path, name, nursery, *, seed=0):
    """A run of a few steps on pictures of the test plugin."""
    stages = [{"size_px": SIZE, "steps": 2, "batch_size": 4}]
    tables = merged(TINY_RUN, {"data": {"use": "memory-pictures"}, "stages": stages, "samples": {"every_steps": 0}, "run": {"seed": seed}})
    del tables["validation"]
    child = nursery.start(
        ["train", str(write_config(tmp_path / f"{name}.toml", tables)), "--out", str(tmp_path / name)], log=tmp_path / "log"
    )
    assert child.wait() == 0, child.output()
    return tmp_path / name


@pytest.fixture(scope="module")
def made(tmp_path_factory, nursery):
    """A checkpoint and the prompts."""
    root = tmp_path_factory.mktemp("made")
    (root / "prompts.txt").write_text(PROMPTS)
    return tiny_run(root, "run", nursery), root / "prompts.txt"


def arguments(made, out, *more, scorers=("memory-red",)):
    run, prompts = made
    given = ["align", "pairs", "build", "--checkpoint", run, "--prompts", prompts, "--out", out, "--images-per-prompt", COUNT]
    if scorers:
        given += ["--scorer", *scorers]
    return [str(argument) for argument in (*given, "--device", "cpu", *more)]


@pytest.fixture
def ernie(memory_host, capsys):
    def run(argv):
        with without_fsync():
            code = main(list(map(str, argv)))
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


def content(folder):
    """Rows and pictures."""
    opened = PairFolder(folder)
    pairs = [opened.pair(row) for row in range(len(opened))]
    return pairs, [(opened.bytes_of(pair.winner), opened.bytes_of(pair.loser)) for pair in pairs]


def test_pairs_are_sampled_scored_chosen_and_read_back(ernie, made, memory_host, tmp_path):
    out = tmp_path / "pairs"
    code, stdout, stderr = ernie(arguments(made, out, "--seed", 5, "--json"))
    assert code == 0, stderr
    assert "1 prompts are there more than once and were taken once" in stderr
    told = json.loads(stdout)
    candidates = 3 * COUNT * (COUNT - 1) // 2
    assert told["seen"] == candidates == told["pairs"] + sum(fact["count"] for fact in told["left_out"].values())
    assert told["pairs"] == 3
    pairs, pictures = content(out)
    pipeline = load_pipeline(made[0], host=memory_host)
    for prompt, (pair, data) in enumerate(zip(pairs, pictures, strict=True)):
        assert pair.prompt == ("red", "a blue thing", "green and white")[prompt]
        for picture, encoded in zip((pair.winner, pair.loser), data, strict=True):
            assert picture.score == decode(encoded, "", max_pixels=10**6)[..., 0].mean()
            assert picture.scores == {"memory-red": picture.score}
        assert pair.margin == pair.winner.score - pair.loser.score > 0
        assert (pair.agreement, pair.annotator) == (1.0, "memory-red")
        seeds = [int(word) for word in pair.source.split() if word.isdecimal()]
        assert all(5 + prompt * COUNT <= seed < 5 + (prompt + 1) * COUNT for seed in seeds[-2:])
        (again,) = pipeline.sample([pair.prompt], seed=seeds[-2], steps=2, guidance_scale=4.0, size_px=(SIZE, SIZE))
        assert np.abs(again.astype(int) - decode(data[0], "", max_pixels=10**6)).max() <= 1
    assert not (tmp_path / "pairs.work").exists()
    source = build(PairsConfig(path=str(out)), DataSourceContext(0, 4))
    (record, *_) = source.fetch(source.batch(0, global_batch=2, stage=Stage(size_px=SIZE, steps=1, batch_size=2)))
    assert record.pixels.shape == record.lose_pixels.shape == (SIZE, SIZE, 3)


def test_the_same_command_again_finds_it_done_and_another_is_refused(ernie, made, tmp_path):
    out = tmp_path / "pairs"
    assert ernie(arguments(made, out))[0] == 0
    before = (out / "manifest.json").read_bytes()
    code, stdout, stderr = ernie(arguments(made, out))
    assert code == 0
    assert "3 pairs of 9 seen" in stdout
    assert "sampling" not in stderr
    assert (out / "manifest.json").read_bytes() == before
    code, _, stderr = ernie(arguments(made, out, "--seed", 1))
    assert code == 2
    assert "holds pairs that were made with other settings: settings.config.seed: was 0, now 1" in stderr


def test_leftovers_of_a_kill_are_swept_and_a_neighbours_work_is_not(ernie, made, tmp_path):
    ours = [".tmp-7-pairs", ".tmp-removed-7-pairs.work"]
    others = [".tmp-7-my-pairs", ".tmp-7-pairs2", ".tmp-removed-7-my-pairs.work"]
    for name in (*ours, *others):
        (tmp_path / name).mkdir()
    assert ernie(arguments(made, tmp_path / "pairs"))[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "pairs"])


@pytest.fixture(scope="module")
def straight(made, nursery, tmp_path_factory):
    """What comes of a call that nothing stops, and the operations it announced."""
    root = tmp_path_factory.mktemp("straight")
    child = nursery.start(
        arguments(made, root / "pairs", scorers=("memory-red", "memory-green")), log=root / "log", plan=traced(root / "trace")
    )
    assert child.wait() == 0, child.output()
    return content(root / "pairs"), read_trace(root / "trace")


@pytest.mark.battery
def test_a_killed_build_goes_on_to_the_same_pairs(made, nursery, straight, tmp_path):
    """At one operation in nine, from the first to the last."""
    expected, trace = straight
    writing = [number for number, (operation, _) in enumerate(trace) if operation not in ("read", "fsync")]
    for number in [*writing[::9], writing[-1]]:
        out = tmp_path / f"at-{number}" / "pairs"
        argv = arguments(made, out, scorers=("memory-red", "memory-green"))
        killed = nursery.start(argv, log=tmp_path / "log", plan=at_operation(number, "SIGKILL"))
        assert killed.wait() == -signal.SIGKILL, killed.output()
        if out.exists():
            PairFolder(out)  # whole or not there
        again = nursery.start(argv, log=tmp_path / "log")
        assert again.wait() == 0, again.output()
        assert content(out) == expected, f"after a kill at operation {number}, {trace[number]}"
        left = [p.name for p in out.parent.iterdir() if p.name != "pairs"]
        assert left == [], f"after a kill at operation {number}, {trace[number]}"


def test_what_was_sampled_is_not_sampled_again(made, nursery, straight, tmp_path):
    argv = arguments(made, tmp_path / "pairs", scorers=("memory-red", "memory-green"))
    killed = nursery.start(argv, log=tmp_path / "log", plan=in_call("ernie_align.pairs.choose:choose", "SIGKILL"))
    assert killed.wait() == -signal.SIGKILL
    work = tmp_path / "pairs.work"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.png")}
    assert len(before) == 9
    again = nursery.start([*argv, "--keep-work"], log=tmp_path / "log")
    assert again.wait() == 0, again.output()
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.png")} == before
    assert content(tmp_path / "pairs") == straight[0]


def test_other_pairs_can_be_chosen_from_the_same_pictures(ernie, made, tmp_path):
    config = tmp_path / "build.toml"
    config.write_text('min_margin = 1e6\n[[scorers]]\nuse = "memory-red"\n')
    out = tmp_path / "pairs"
    argv = arguments(made, out, "--config", config, scorers=())
    code, _, stderr = ernie(argv)
    assert code == 2
    assert (
        "no pair can be used, nothing was written. 9 seen, 0 used, left out: 9 x margin below min_margin (such as min_margin = 1e+06)"
        in stderr
    )
    assert not out.exists()
    code, stdout, stderr = ernie([*argv, "--set", "min_margin=0", "--set", "pairs_per_prompt=3", "--set", "reuse_pictures=true"])
    assert code == 0, stderr
    assert "sampling: 9 of 9" in stderr
    assert "scoring" not in stderr
    assert "9 pairs of 9 seen" in stdout


def test_scorers_have_options_weights_and_names(ernie, made, tmp_path):
    config = tmp_path / "build.toml"
    config.write_text(
        'weights = [1.0, 3.0, 1.0]\nmin_agreement = 0.0\n[[scorers]]\nuse = "memory-red"\n[[scorers]]\nuse = "memory-green"\n'
        '[[scorers]]\nuse = "memory-red"\nrelease = 2\n'
    )
    code, _, stderr = ernie(arguments(made, tmp_path / "pairs", "--config", config, scorers=()))
    assert code == 0, stderr
    opened = PairFolder(tmp_path / "pairs")
    pair = opened.pair(0)
    assert set(pair.winner.scores) == {"memory-red-1", "memory-green", "memory-red-2"}
    assert pair.annotator == "memory-red-1 + memory-green + memory-red-2"
    assert pair.agreement in (0.0, 0.4, 0.6, 1.0)
    units = {name: fact["unit"] for name, fact in opened.facts["about"]["scorers"].items()}
    weights = {"memory-red-1": 0.2, "memory-green": 0.6, "memory-red-2": 0.2}
    assert pair.winner.score == pytest.approx(sum(weights[name] * score / units[name] for name, score in pair.winner.scores.items()))


def test_rounds_come_from_seeds_of_their_own_and_are_read_beside_each_other(ernie, made, nursery, tmp_path):
    newer = tiny_run(tmp_path, "newer", nursery, seed=1), made[1]
    out = tmp_path / "pairs"
    assert ernie(arguments(made, out, "--append-round", 0))[0] == 0
    code, _, stderr = ernie(arguments(newer, out, "--append-round", 1))
    assert code == 0, stderr
    assert "sampled from the same weights" not in stderr
    code, _, stderr = ernie(arguments(newer, out, "--append-round", 2))
    assert code == 0
    assert f"warning: {out / 'round-1'} was sampled from the same weights" in stderr
    rounds = [out / f"round-{n}" for n in range(3)]
    seeds = [int(content(folder)[0][0].source.split()[-1]) for folder in rounds]
    assert [seed >> 32 for seed in seeds] == [0, 1, 2]
    source = build(PairsConfig(path=tuple(map(str, rounds))), DataSourceContext(0, 4))
    assert len(source) == 9
    first, last = content(rounds[0])[1], content(rounds[2])[1]
    assert not set(first) & set(last)


WRONG = {
    "no scorer": ((), "nobody to judge the pictures: give --scorer NAME"),
    "unknown scorer": (("memory-rod",), 'no scorer is called "memory-rod"; did you mean "memory-red"?'),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_scorers_are_told_before_anything_is_sampled(ernie, made, tmp_path, case):
    scorers, message = WRONG[case]
    code, _, stderr = ernie(arguments(made, tmp_path / "pairs", scorers=scorers))
    assert code == 2
    assert message in stderr
    assert list(tmp_path.glob("pairs*")) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.txt", None, "cannot be read as UTF-8 text"),
        ("empty.txt", " \n\n", "no prompts; expected one a line"),
        ("bytes.txt", b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
        ("a.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', 'a.jsonl:2: expected {"prompt": "..."}'),
        ("a.jsonl", '{"prompt": "a"\n', "a.jsonl:1: not JSON"),
        ("a.jsonl", '{"prompt": "a", "style": 3}\n', "a.jsonl:1: style is 3"),
        ("a.jsonl", '{"prompt": "a \\ud800 cat"}\n', "a.jsonl:1: holds half of a surrogate pair"),
    ],
)
def test_wrong_prompts_are_told(ernie, made, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    code, _, stderr = ernie(arguments((made[0], tmp_path / name), tmp_path / "pairs"))
    assert code == 2
    assert message in stderr


@pytest.mark.parametrize(
    ("fault", "message"), [("nan", 'scorer "memory-red" gave nan'), ("too-few", "gave scores of shape (3,) for 4 pictures")]
)
def test_scorers_that_break_their_word_are_named(ernie, made, tmp_path, fault, message):
    config = tmp_path / "build.toml"
    config.write_text(f'[[scorers]]\nuse = "memory-red"\nfault = "{fault}"\n')
    code, _, stderr = ernie(arguments(made, tmp_path / "pairs", "--config", config, scorers=()))
    assert code == 2
    assert message in stderr


def test_configs_are_checked(ernie, made, tmp_path):
    config = tmp_path / "build.toml"
    config.write_text('weights = [1.0, 2.0]\n[[scorers]]\nuse = "memory-red"\n')
    code, _, stderr = ernie(arguments(made, tmp_path / "pairs", "--config", config, scorers=()))
    assert code == 2
    assert "`weights` has 2 numbers for 1 scorers" in stderr
    code, _, stderr = ernie(arguments(made, tmp_path / "pairs", "--set", "quantile=0.5"))
    assert code == 2
    assert "--set overrides a value of --config" in stderr


def test_a_picture_that_changed_after_it_was_scored_is_not_used(ernie, made, tmp_path):
    out = tmp_path / "pairs"
    assert ernie(arguments(made, out, "--keep-work"))[0] == 0
    shutil.rmtree(out)
    pictures = sorted((tmp_path / "pairs.work").rglob("*.png"))
    shutil.copy(pictures[1], pictures[0])
    code, _, stderr = ernie(arguments(made, out))
    assert code == 2
    assert "is not the picture that was scored" in stderr
    pictures[0].write_bytes(pictures[0].read_bytes()[:50])
    code, _, stderr = ernie(arguments(made, out))
    assert code == 2
    assert "Remove this file and run the same command again" in stderr
    pictures[0].unlink()
    assert ernie(arguments(made, out))[0] == 0


def test_another_version_of_a_scorer_does_not_go_on(ernie, made, tmp_path):
    out = tmp_path / "pairs"
    assert ernie(arguments(made, out, "--keep-work"))[0] == 0
    shutil.rmtree(out)
    scores = tmp_path / "pairs.work" / "scores-0.jsonl"
    scores.write_text(scores.read_text().replace("mean 0 1", "mean 0 0"))
    code, _, stderr = ernie(arguments(made, out))
    assert code == 2
    assert "was scored by mean 0 0, installed is mean 0 1" in stderr


def test_a_torn_scores_file_is_scored_again_from_there(ernie, made, tmp_path):
    out = tmp_path / "pairs"
    assert ernie(arguments(made, out, "--keep-work"))[0] == 0
    expected = content(out)
    scores = tmp_path / "pairs.work" / "scores-0.jsonl"
    lines = scores.read_text().splitlines(keepends=True)
    for text in ("", lines[0][:5], "".join([*lines[:2], "nonsense\n", *lines[3:]]), "".join([*lines[:-1], lines[-1][:20]])):
        shutil.rmtree(out)
        scores.write_text(text)
        assert ernie(arguments(made, out, "--keep-work"))[0] == 0
        assert content(out) == expected


def test_damaged_settings_and_seeds_beyond_what_generators_take_are_told(ernie, made, tmp_path):
    (tmp_path / "pairs.work").mkdir()
    (tmp_path / "pairs.work" / "settings.json").write_text("{torn")
    code, _, stderr = ernie(arguments(made, tmp_path / "pairs"))
    assert code == 2
    assert "settings.json: not the settings of a build" in stderr
    code, _, stderr = ernie(arguments(made, tmp_path / "other", "--append-round", 1 << 31))
    assert code == 2
    assert f"pictures would need seeds above {2**63 - 1}; lower `seed`" in stderr


def test_a_foreign_work_folder_is_left_alone(ernie, made, tmp_path):
    (tmp_path / "pairs.work").mkdir()
    (tmp_path / "pairs.work" / "letter.txt").write_text("mine")
    code, _, stderr = ernie(arguments(made, tmp_path / "pairs"))
    assert code == 2
    assert "holds letter.txt but no settings.json" in stderr
    assert Path(tmp_path / "pairs.work" / "letter.txt").read_text() == "mine"
