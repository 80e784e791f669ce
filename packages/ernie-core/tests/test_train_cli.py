"""``ernie train``: exit codes, and what a used run folder accepts and refuses."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from ernie_core import io
from ernie_core.cli.main import main
from ernie_core.testing.mishaps import at_step
from ernie_core.testing.resume import one_thread, train_command
from ernie_core.testing.runs import TINY_RUN, digest, logged, merged, write_config
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.train.pretrain import Pretrain

PLAIN = merged(TINY_RUN, {"data": {"use": "toy-pictures"}})
OTHER_PLUGIN = "@hookimpl\ndef ernie_register_losses():\n    return []\n"


@pytest.fixture
def started(nursery, tmp_path):
    """``started("--set", ...)`` runs the config in one folder and returns (exit code, output)."""
    config, run = write_config(tmp_path / "run.toml", PLAIN), tmp_path / "run"

    def start(*extra: str, plan=None) -> tuple[int, str]:
        log = tmp_path / f"log-{len(list(tmp_path.iterdir()))}"
        child = nursery.start(train_command(config, run, *extra), log=log, plan=plan)
        return child.wait(), child.output()

    start.run = run
    return start


def test_a_finished_run_says_so_and_starting_it_again_changes_nothing(started):
    code, text = started()
    assert (code, text.splitlines()[-1]) == (0, f"{started.run}: done at step 12")
    before = digest(started.run)
    assert started()[0] == 0
    assert digest(started.run) == before
    assert sorted(logged(started.run)) == list(range(1, 13))


def test_a_second_trainer_is_refused_with_pid_host_and_start_and_a_dead_ones_lock_is_free(nursery, started, tmp_path):
    child = nursery.start(train_command(tmp_path / "run.toml", started.run), log=tmp_path / "first", plan=at_step(2, "SIGSTOP"))
    until = time.monotonic() + 30
    while "State:\tT" not in Path(f"/proc/{child.pid}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    code, text = started()
    assert code == 2
    found = re.search(
        r"in use by pid (\d+) on (\S+), started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\. Wait for it, stop it, or use another", text
    )
    assert found, text
    assert (int(found[1]), found[2]) == (child.pid, socket.gethostname())
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert f"pid {child.pid} on" in (started.run / "lock").read_text(), "the dead process left its name"
    assert started()[0] == 0


def test_another_config_is_refused_with_old_and_new_values(started):
    assert started("--set", "run.steps=4")[0] == 0
    code, text = started(
        "--set", "optimizer.learning_rate=0.5", "--set", "run.seed=7", "--set", "stages=[{size_px=16,steps=9,batch_size=4}]"
    )
    assert code == 2
    assert "its checkpoints were made by another config:" in text
    assert "  optimizer.learning_rate: was 0.001, now 0.5" in text
    assert "  run.seed: was 0, now 7" in text
    assert "  stages: was [" in text
    assert "Restore these values, or use another --out. A resumed run may change only run.steps, data_workers," in text
    assert open_checkpoint(started.run).step == 4


def test_what_may_change_may_change_and_does_not_change_what_is_learnt(started, nursery, tmp_path):
    whole = tmp_path / "whole"
    assert nursery.start(train_command(tmp_path / "run.toml", whole), log=tmp_path / "log").wait() == 0
    assert started("--set", "run.steps=8", "--set", "schedule.decay_steps=12")[0] == 0
    code, text = started()
    assert code == 2, "a schedule is no part of what may change"
    assert "  schedule.decay_steps: was 12, now null" in text
    allowed = [
        "run.steps=12",
        "data_workers=0",
        "logging.every_steps=3",
        "validation.every_steps=2",
        "samples.every_steps=0",
        "checkpoint.keep=5",
    ]
    allowed += ['engine.use="single"', "checkpoint.every_steps=4", "schedule.decay_steps=12"]
    code, text = started(*(part for change in allowed for part in ("--set", change)))
    assert code == 0, text
    ours, theirs = digest(started.run), digest(whole)
    assert {n: s for n, s in ours.items() if n != "state.json"} == {n: s for n, s in theirs.items() if n != "state.json"}


def test_more_steps_extend_a_finished_run(started):
    assert started()[0] == 0
    assert started("--set", "run.steps=15")[0] == 0
    assert open_checkpoint(started.run).step == 15
    assert sorted(logged(started.run)) == list(range(1, 16))


def test_no_resume_refuses_a_used_folder(started):
    assert started("--no-resume", "--set", "run.steps=4")[0] == 0
    code, text = started("--no-resume")
    assert code == 2
    assert f"{started.run}: already holds checkpoints, and --no-resume was given. Use another --out, or leave --no-resume out" in text


def test_an_unreadable_picture_is_named_and_does_not_cost_the_steps_before_it(started):
    code, text = started("--set", "data.fail_at=3")
    assert code == 2
    assert "toy-3: cannot be read" in text
    assert "Traceback" not in text


def test_nproc_must_be_positive(started):
    assert started("--nproc", "0") == (2, "config: --nproc 0: expected at least 1\n")


def test_ddp_with_one_process_is_refused(started):
    code, text = started("--set", 'engine.use="ddp"')
    assert code == 2
    assert 'engine.use = "ddp" needs several ranks' in text


def test_another_plugin_set_is_refused_unless_accepted(toy_host, plugin_folder, tmp_path, capsys):
    config, run = write_config(tmp_path / "run.toml", PLAIN), tmp_path / "run"
    with one_thread():
        assert main(train_command(config, run, "--set", "run.steps=4")) == 0
        plugin_folder.add("bystander", OTHER_PLUGIN)
        assert main(train_command(config, run, "--set", "run.steps=5")) == 2
        text = capsys.readouterr().err
        assert "its checkpoints were made with another plugin set:" in text
        assert "  bystander: was absent, now bystander-dist 1.0" in text
        assert "Restore it, or pass --accept-plugins to go on." in text
        assert main(train_command(config, run, "--set", "run.steps=5", "--accept-plugins")) == 0
    assert open_checkpoint(run).state["plugins"]["bystander"] == "bystander-dist 1.0"


def test_a_frozen_network_that_changed_on_disk_is_refused(nursery, tmp_path):
    """The reference is read from another run's weights; that run went on in the meantime."""
    config, base = write_config(tmp_path / "base.toml", PLAIN), tmp_path / "base"
    assert nursery.start(train_command(config, base, "--set", "run.steps=4"), log=tmp_path / "log").wait() == 0
    plain = {key: value for key, value in PLAIN.items() if key != "model"}
    second = write_config(tmp_path / "run.toml", merged(plain, {"model": {"init": str(base)}, "method": {"use": "toy-reference"}}))
    run = tmp_path / "run"
    child = nursery.start(train_command(second, run, "--set", "run.steps=4"), log=tmp_path / "second")
    assert child.wait() == 0, child.output()
    child = nursery.start(train_command(second, run, "--set", "run.steps=5"), log=tmp_path / "third")
    assert child.wait() == 0, child.output()
    assert nursery.start(train_command(config, base, "--set", "run.steps=8"), log=tmp_path / "log").wait() == 0
    child = nursery.start(train_command(second, run), log=tmp_path / "fourth")
    assert child.wait() == 2
    assert "the frozen network `reference` has other weights than when the run started (expected " in child.output()
    assert "Restore the files it is loaded from." in child.output()


def test_a_run_folder_that_cannot_be_written_is_one_line(nursery, tmp_path):
    config = write_config(tmp_path / "run.toml", PLAIN)
    (tmp_path / "file").write_text("not a folder")
    child = nursery.start(train_command(config, tmp_path / "file" / "run"), log=tmp_path / "log")
    assert child.wait() == 1
    assert f"{tmp_path / 'file' / 'run'}: cannot be written: Not a directory" in child.output()
    assert "Traceback" not in child.output()


def test_too_little_memory_is_told_without_a_traceback_and_with_what_helps(toy_host, tmp_path, monkeypatch, capsys):
    def too_large(self, batch, turn, rng):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nAnd much more text.")

    monkeypatch.setattr(Pretrain, "loss", too_large)
    config = write_config(tmp_path / "run.toml", PLAIN)
    assert main(train_command(config, tmp_path / "run")) == 1
    text = capsys.readouterr().err
    assert "step 0: the memory of cpu is too small (CUDA out of memory. Tried to allocate 20.00 GiB.)" in text
    assert 'Lower run.micro_batch_size, or set model.checkpointing = "selective" or "full"; both begin another run' in text
    assert "Traceback" not in text


def test_the_lock_names_its_holder_only_while_it_is_held(tmp_path):
    with io.FolderLock(tmp_path) as lock:
        assert f"pid {os.getpid()} on {socket.gethostname()}, started" in lock.path.read_text()
    assert lock.path.read_text() == ""
