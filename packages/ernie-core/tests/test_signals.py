"""K4: SIGTERM, SIGINT and SIGUSR1 commit within 10 s and exit with 75; a second signal exits at once and harms nothing; the run resumes bitwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ernie_core.testing.mishaps import Plan, at_step, in_call
from ernie_core.testing.resume import train_command
from ernie_core.testing.runs import TINY_RUN, digest, leftovers, merged, write_config
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.train.signals import EXIT_STOPPED

TOY_DATA = {"data": {"use": "toy-pictures"}}
TOY = Path(__file__).parent / "toy"
VALIDATE = "ernie_core.train.pretrain:Pretrain.validate"
SAVE = "ernie_core.train.trainer:save_checkpoint"
PREPARE = "ernie_core.train.pretrain:Pretrain.prepare"
COMMIT_WITHIN_S = 10.0

# (the mishap, the step that must be committed)
SINGLE: list[tuple[Plan, int]] = [
    (in_call(PREPARE, "SIGTERM"), 0),  # in the first micro-batch: the step is abandoned before its second
    (at_step(1, "SIGTERM"), 1),
    (at_step(5, "SIGINT"), 5),
    (at_step(7, "SIGUSR1"), 7),
    (in_call(VALIDATE, "SIGTERM"), 5),
    (in_call(SAVE, "SIGINT"), 4),
]
DOUBLE: list[tuple[Plan, int]] = [  # a second signal leaves at once: what was committed last is what counts
    (at_step(2, "SIGTERM", twice=True), -1),
    (at_step(6, "SIGINT", twice=True), 4),
    (at_step(9, "SIGUSR1", twice=True), 8),
]


@pytest.mark.battery
def test_k4_signals_commit_and_the_run_resumes_bitwise(nursery, tmp_path):
    config = write_config(tmp_path / "run.toml", merged(TINY_RUN, TOY_DATA))
    whole = tmp_path / "whole"
    child = nursery.start(train_command(config, whole), log=tmp_path / "log")
    assert child.wait() == 0, child.output()
    for number, (plan, step) in enumerate((*SINGLE, *DOUBLE)):
        run, log = tmp_path / f"run-{number}", tmp_path / f"log-{number}"
        child = nursery.start(train_command(config, run), log=log, plan=plan)
        code = child.wait(timeout_s=COMMIT_WITHIN_S)
        if plan.twice:
            assert code == 128 + signal.Signals[plan.action], (plan, child.output())
        else:
            assert code == EXIT_STOPPED == 75, (plan, child.output())
            assert f"stopped by a signal at step {step}; the state is saved. Run the same command again to go on." in child.output()
        if step >= 0:
            assert open_checkpoint(run).step == step, plan
        child = nursery.start(train_command(config, run), log=log)
        assert child.wait() == 0, child.output()
        assert digest(run) == digest(whole), plan
        assert leftovers(run) == []
    ranks = two_ranks_stopped_by_one_signal(nursery, tmp_path)
    total = len(SINGLE) + len(DOUBLE) + ranks
    print(f"K4: {total} of {total} signals: committed in {COMMIT_WITHIN_S:g} s, exit code 75 or 128 + n, resumed bitwise")


def two_ranks_stopped_by_one_signal(nursery, tmp_path: Path) -> int:
    """Only rank 1 is told, after step 5; the ranks agree on stopping after the next."""
    config = write_config(tmp_path / "two.toml", merged(TINY_RUN, TOY_DATA))
    whole, run = tmp_path / "two-whole", tmp_path / "two"
    for out, plans, expected in ((whole, {}, 0), (run, {1: at_step(5, "SIGTERM")}, EXIT_STOPPED), (run, {}, 0)):
        children = nursery.start_ranks(2, train_command(config, out), log=tmp_path / "two-log", plans=plans)
        assert [child.wait() for child in children] == [expected] * 2, children[0].output() + children[1].output()
        if expected:
            assert open_checkpoint(run).step == 6
    assert digest(run) == digest(whole)
    return 1


def test_a_signal_before_training_begins_leaves_nothing_that_hinders_the_next_start(nursery, tmp_path):
    config, run = write_config(tmp_path / "run.toml", merged(TINY_RUN, TOY_DATA)), tmp_path / "run"
    plan = in_call("ernie_core.train.start:assemble", "SIGINT")
    child = nursery.start(train_command(config, run), log=tmp_path / "log", plan=plan)
    assert child.wait() == 130
    assert "interrupted" in child.output()
    assert nursery.start(train_command(config, run), log=tmp_path / "log").wait() == 0


def test_nproc_hands_a_signal_on_to_its_ranks_and_ends_with_75(tmp_path):
    """The whole way, as a user starts it: the signal goes to the command alone, not to its ranks."""
    endless = {
        "stages": [{"size_px": 16, "steps": 1000000, "batch_size": 4}],
        "samples": {"every_steps": 0},
        "validation": {"every_steps": 0},
    }
    config, run = write_config(tmp_path / "run.toml", merged(TINY_RUN, TOY_DATA, endless)), tmp_path / "run"
    env = {**os.environ, "PYTHONPATH": str(TOY), "OMP_NUM_THREADS": "1", "ERNIE_DISABLE_PLUGINS": "data"}
    command = [sys.executable, "-m", "ernie_core.cli.main", *train_command(config, run, "--nproc", "2")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 120
            while not (run / "latest").exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == EXIT_STOPPED, (tmp_path / "log").read_text()
        finally:
            process.kill()
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    assert f"stopped by a signal at step {open_checkpoint(run).step}" in text
