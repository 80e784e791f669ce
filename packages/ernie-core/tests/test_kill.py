"""K1: ``kill -9`` of real training processes at chosen and at random moments; what the run has learnt in the end is bitwise what an undisturbed run learns.

Weights, EMA, optimiser and the trainer's own state are compared by sha256, so are the sample grids and, but for the speed, the log.
"""

from __future__ import annotations

import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ernie_core import io
from ernie_core.testing.mishaps import Plan, at_operation, at_step, in_call, read_trace, traced
from ernie_core.testing.nursery import Nursery
from ernie_core.testing.resume import KillContract, killed_then_finished, train_command
from ernie_core.testing.runs import TINY_RUN, digest, leftovers, merged, write_config

pytestmark = pytest.mark.battery

TOY_DATA = {"data": {"use": "toy-pictures"}}
VALIDATE = "ernie_core.train.pretrain:Pretrain.validate"
WRITE_GRID = "ernie_core.train.validation:write_png"
SAMPLE = "ernie_core.train.pretrain:Pretrain.velocity_fn"


class Undisturbed:
    """The run that all others must equal, and the operations on disk it announced."""

    def __init__(self, nursery: Nursery, folder: Path, *changes: dict) -> None:
        folder.mkdir(exist_ok=True)
        self.config = write_config(folder / "run.toml", merged(TINY_RUN, TOY_DATA, *changes))
        self.run = folder / "undisturbed"
        trace = folder / "trace"
        child = nursery.start(train_command(self.config, self.run), log=folder / "log", plan=traced(trace))
        began = time.monotonic()  # the nursery itself may have had to start before
        assert child.wait() == 0, child.output()
        self.duration_s = time.monotonic() - began
        self.operations = read_trace(trace)

    def in_saves(self) -> list[int]:
        """Numbers of the operations that belong to checkpoints and to ``latest``."""
        return [n for n, (_, path) in enumerate(self.operations) if "checkpoints" in path.parts or path.name.endswith("latest")]

    def assert_equals(self, run: Path, what: object) -> None:
        assert digest(run) == digest(self.run), what
        assert leftovers(run) == [], what
        assert log_without_speed(run) == log_without_speed(self.run), what
        assert {p.name: io.sha256_file(p) for p in (run / "samples").iterdir()} == {
            p.name: io.sha256_file(p) for p in (self.run / "samples").iterdir()
        }, what


def log_without_speed(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in io.read_lines(run / "metrics.jsonl")]
    return [{name: value for name, value in row.items() if name != "images_per_s"} for row in rows]


def chosen_kills(undisturbed: Undisturbed, rng: random.Random, *, in_saves: int) -> dict[str, list[list[Plan]]]:
    saves = undisturbed.in_saves()
    spread = sorted(rng.sample(saves, in_saves))
    return {
        "before the first checkpoint": [[at_step(step, "SIGKILL")] for step in (1, 2, 3)],
        "inside a save": [[at_operation(number, "SIGKILL")] for number in spread],
        "during validation or grids": [
            [in_call(VALIDATE, "SIGKILL", call=1)],
            [in_call(SAMPLE, "SIGKILL")],
            [in_call(WRITE_GRID, "SIGKILL", call=1)],
        ],
        "twice in a row": [
            [at_step(6, "SIGKILL"), at_operation(rng.choice(saves[:20]), "SIGKILL")],
            [at_step(9, "SIGKILL"), at_step(10, "SIGKILL")],
            [at_operation(rng.choice(saves[20:]), "SIGKILL"), in_call(SAMPLE, "SIGKILL")],
        ],
    }


def test_k1_kills_of_pretraining_leave_no_trace(nursery, tmp_path):
    """20 chosen kills, 6 more at random times. About 15 s on one core."""
    rng = random.Random(20)
    undisturbed = Undisturbed(nursery, tmp_path)
    counts = {}

    def suffer(kind: str, number: int, plans: list[Plan]) -> tuple[str, int]:
        run = tmp_path / f"{kind.replace(' ', '-')}-{number}"
        kills = killed_then_finished(nursery, undisturbed.config, run, plans)
        undisturbed.assert_equals(run, (kind, plans))
        return kind, kills

    cases = [(kind, n, plans) for kind, series in chosen_kills(undisturbed, rng, in_saves=8).items() for n, plans in enumerate(series)]
    with ThreadPoolExecutor(2) as pool:
        for kind, kills in pool.map(lambda case: suffer(*case), cases):
            counts[kind] = counts.get(kind, 0) + kills
    counts["at a random time"] = random_kills(nursery, undisturbed, tmp_path / "random", rng, kills=6)
    total = sum(counts.values())
    print(f"K1: {total} of {total} kills left no trace: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    assert total >= 20


def random_kills(nursery: Nursery, undisturbed: Undisturbed, folder: Path, rng: random.Random, *, kills: int) -> int:
    """Runs killed by this process after a delay drawn over an undisturbed run's duration, one or two kills to a run."""
    folder.mkdir()
    done = 0
    while done < kills:
        run = folder / f"run-{done}"
        for _ in range(rng.choice((1, 2))):
            child = nursery.start(train_command(undisturbed.config, run), log=folder / "log")
            time.sleep(rng.uniform(0.02, undisturbed.duration_s))
            child.send(signal.SIGKILL)
            done += child.wait() == -signal.SIGKILL  # else it was done before
        child = nursery.start(train_command(undisturbed.config, run), log=folder / "log")
        assert child.wait() == 0, child.output()
        undisturbed.assert_equals(run, "random kill")
    return done


@pytest.mark.slow
def test_k1_five_hundred_kills(nursery, tmp_path):
    rng = random.Random(500)
    undisturbed = Undisturbed(nursery, tmp_path)
    done = 0
    for number in undisturbed.in_saves():
        run = tmp_path / f"operation-{number}"
        done += killed_then_finished(nursery, undisturbed.config, run, [at_operation(number, "SIGKILL")])
        undisturbed.assert_equals(run, number)
    done += random_kills(nursery, undisturbed, tmp_path / "random", rng, kills=500 - done)
    print(f"K1: {done} of {done} kills left no trace")


class TestPretrainKills(KillContract):
    entry = "pretrain"
    tables = TOY_DATA
    test_killed_runs_end_in_bitwise_the_same_state = None  # the same as above, with fewer kills


class TestReferenceKills(KillContract):
    entry = "toy-reference"
    tables = TOY_DATA


class TestAlternatingKills(KillContract):
    entry = "toy-alternating"
    tables = {**TOY_DATA, "optimizers": {"fake": {"learning_rate": 2e-3}}}


class TestEncoderKills(KillContract):
    entry = "toy-encoder"
    tables = {**TOY_DATA, "optimizers": {"encoder": {"learning_rate": 5e-4}}}
