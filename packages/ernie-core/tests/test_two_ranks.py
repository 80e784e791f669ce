"""Two ranks over gloo learn what one rank learns: the same records, the same draws, losses and weights within rounding; and 2 -> 1 -> 2 resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ernie_core import io
from ernie_core.testing.mishaps import at_step, in_call
from ernie_core.testing.resume import train_command
from ernie_core.testing.runs import TINY_RUN, digest, logged, merged, write_config
from ernie_core.train.checkpoint import open_checkpoint

TOLERANCE = 1e-6  # of a loss
ODD = {"stages": [{"size_px": 16, "steps": 5, "batch_size": 5}, {"size_px": 24, "steps": 5, "batch_size": 3}]}  # shares of 2 and 3, 1 and 2
TOY_DATA = {"data": {"use": "toy-pictures"}, "samples": {"every_steps": 0}}
METHODS = {
    "pretrain": {},
    "toy-reference": {},
    "toy-alternating": {"optimizers": {"fake": {"learning_rate": 1e-3}}},
    "toy-encoder": {"optimizers": {"encoder": {"learning_rate": 1e-3}}},
}


def two(nursery, config: Path, run: Path, **options) -> None:
    children = nursery.start_ranks(2, train_command(config, run), log=run.with_name(f"{run.name}.log"), **options)
    assert [child.wait() for child in children] == [0, 0], "".join(child.output() for child in children)


def one(nursery, config: Path, run: Path, **options) -> None:
    child = nursery.start(train_command(config, run), log=run.with_name(f"{run.name}.log"), **options)
    assert child.wait() == 0, child.output()


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_give_the_losses_of_one(nursery, tmp_path, method):
    plain = merged(TINY_RUN, TOY_DATA, ODD, METHODS[method], {"method": {"use": method}, "run": {"micro_batch_size": 2}})
    config = write_config(tmp_path / "run.toml", plain)
    one(nursery, config, tmp_path / "one")
    two(nursery, config, tmp_path / "two")
    assert_same_losses(tmp_path / "one", tmp_path / "two")
    ours, theirs = (open_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert ours.state["train"]["step"] == theirs.state["train"]["step"] == 10
    for path in ours.directory.glob("*.safetensors"):
        a, b = ours.tensors(path.name), theirs.tensors(path.name)
        assert a.keys() == b.keys()
        if "optimizer" not in path.name:
            for key in a:
                assert torch.allclose(a[key], b[key], atol=2e-3, rtol=0), (
                    f"{path.name}: {key}"
                )  # AdamW turns the sign of a rounding error into a step


def assert_same_losses(one_run: Path, two_run: Path) -> None:
    for name in ("loss", "validation/loss"):
        a, b = logged(one_run, name), logged(two_run, name)
        assert a.keys() == b.keys()
        assert len(a) > 0
        worst = max(abs(a[step] - b[step]) / abs(a[step]) for step in a)
        assert worst <= TOLERANCE, f"{name}: {worst:.2e}"
    print(f"two ranks: {len(logged(one_run))} losses within {TOLERANCE:g} of one rank's")


def fetched(log: Path) -> list[list[str]]:
    """The ids of each batch that was read, as the data source printed them."""
    return [json.loads(line.split(" ", 1)[1]) for line in log.read_text().splitlines() if line.startswith("fetch ")]


def test_the_ranks_read_the_sample_ids_of_one_rank_between_them(nursery, tmp_path):
    plain = merged(TINY_RUN, TOY_DATA, ODD, {"data_workers": 0, "validation": {"every_steps": 0}})
    plain = merged(plain, {"data": {"use": "toy-pictures", "log_fetches": True}})
    config = write_config(tmp_path / "run.toml", plain)
    one(nursery, config, tmp_path / "one")
    two(nursery, config, tmp_path / "two")
    whole = fetched(tmp_path / "one.log")
    shares = [fetched(tmp_path / f"two.log.{rank}") for rank in (0, 1)]
    assert len(whole) == 10
    assert [len(ids) for ids in whole] == [5] * 5 + [3] * 5
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
    print(f"two ranks: {sum(map(len, whole))} of {sum(map(len, whole))} sample ids identical over {len(whole)} steps")


def test_a_run_goes_from_two_ranks_to_one_and_back(nursery, tmp_path):
    """Each change after a signal, in the middle of an interval; ids and losses as on one rank, and bitwise as the same changes without a kill."""
    plain = merged(TINY_RUN, TOY_DATA, ODD, {"data_workers": 0, "data": {"use": "toy-pictures", "log_fetches": True}})
    config = write_config(tmp_path / "run.toml", plain)
    one(nursery, config, tmp_path / "one")

    def changing(run: Path, *, killed: bool) -> None:
        log = run.with_name(f"{run.name}.log")
        for child in nursery.start_ranks(2, train_command(config, run), log=log, plans={0: at_step(2, "SIGTERM")}):
            assert child.wait() == 75, child.output()
        assert open_checkpoint(run).step == 3
        if killed:
            assert nursery.start(train_command(config, run), log=log, plan=at_step(5, "SIGKILL")).wait() == -9
        assert nursery.start(train_command(config, run), log=log, plan=at_step(6, "SIGTERM")).wait() == 75
        assert open_checkpoint(run).step == 6
        if killed:
            children = nursery.start_ranks(2, train_command(config, run), log=log, plans={1: at_step(9, "SIGKILL")})
            assert [child.wait(timeout_s=30) for child in children] == [1, -9], children[0].output()
        two(nursery, config, run)

    changing(tmp_path / "changed", killed=False)
    changing(tmp_path / "killed", killed=True)
    assert_same_losses(tmp_path / "one", tmp_path / "changed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "changed")
    assert open_checkpoint(tmp_path / "changed").step == 10
    print("two ranks: 2 -> 1 -> 2 gives the losses of one rank; with two kills between, bitwise the same")


@pytest.mark.battery
def test_r3_a_lost_rank_ends_the_run_wherever_it_is_lost(nursery, tmp_path):
    """At a step, while rank 0 saves, and before the first step; the rank that is left says what happened."""
    config = write_config(tmp_path / "run.toml", merged(TINY_RUN, TOY_DATA))
    plans = [
        {1: at_step(3, "SIGKILL")},
        {0: in_call("ernie_core.io:verify_folder", "SIGKILL")},
        {1: in_call("ernie_core.train.start:assemble", "SIGKILL")},
    ]
    for number, plan in enumerate(plans):
        run, log = tmp_path / f"run-{number}", tmp_path / f"log-{number}"
        children = nursery.start_ranks(2, train_command(config, run), log=log, plans=plan)
        (victim,) = plan
        assert children[victim].wait() == -9
        assert children[1 - victim].wait(timeout_s=30) == 1, children[1 - victim].output()
        text = children[1 - victim].output()
        assert f"rank {1 - victim}: lost contact with another rank" in text
        assert "the last checkpoint stands, and the same command goes on from it" in text
        assert "Traceback" not in text
    print(f"R3: {len(plans)} of {len(plans)} lost ranks noticed within 30 s")


def test_fewer_pictures_in_a_batch_than_ranks_is_refused(nursery, tmp_path):
    stages = [{"size_px": 16, "steps": 2, "batch_size": size} for size in (4, 1)]
    plain = merged(TINY_RUN, TOY_DATA, {"stages": stages})
    config = write_config(tmp_path / "run.toml", plain)
    children = nursery.start_ranks(2, train_command(config, tmp_path / "run"), log=tmp_path / "log")
    assert [child.wait() for child in children] == [2, 2]
    assert "batch_size 1 is smaller than the number of ranks, 2" in children[0].output()
    assert not (tmp_path / "run" / "metrics.jsonl").exists(), "known before the first step, also of a later stage"


def test_only_rank_0_writes(nursery, tmp_path):
    config = write_config(tmp_path / "run.toml", merged(TINY_RUN, TOY_DATA))
    two(nursery, config, tmp_path / "run")
    assert len(logged(tmp_path / "run")) == 12
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["starts"]) == 1
    assert io.read_lines(tmp_path / "run.log.1") == []
