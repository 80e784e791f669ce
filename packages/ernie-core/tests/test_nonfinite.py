"""N1: a step whose loss or gradient is not finite, or is a spike, changes nothing; too many in a row roll back, a bounded number of times."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from unittest import mock

import pytest

from ernie_core import io
from ernie_core.config.load import from_plain
from ernie_core.errors import TrainingStopped
from ernie_core.parallel.replicated import ReplicatedEngine
from ernie_core.plugins.host import PluginHost
from ernie_core.testing.mishaps import at_operation, at_step, read_trace, traced, without_fsync
from ernie_core.testing.resume import killed_then_finished, one_thread, train_command
from ernie_core.testing.runs import TINY_RUN, digest, logged, merged, write_config
from ernie_core.train.checkpoint import FOLDER, name_of, open_checkpoint
from ernie_core.train.start import train

SHORT = merged(
    TINY_RUN,
    {
        "data": {"use": "toy-pictures"},
        "stages": [{"size_px": 16, "steps": 3, "batch_size": 4}],
        "checkpoint": {"every_steps": 1, "keep": 9},
        "validation": {"every_steps": 0},
        "samples": {"every_steps": 0},
    },
)
OPTIMIZERS = {"optimizers": {"fake": {"learning_rate": 1e-3}, "encoder": {"learning_rate": 1e-3}}}


def run_it(plain: dict, host, out: Path) -> list[str]:
    said: list[str] = []
    with one_thread(), without_fsync():
        train(from_plain(plain, host), host=host, out=out, report=said.append)
    return said


def ledger(run: Path) -> list[dict]:
    path = run / "ledger.jsonl"
    return [json.loads(line) for line in io.read_lines(path)] if path.exists() else []


def assert_refused(run: Path, step: int, *, networks: tuple[str, ...], parameter: bool = True) -> None:
    """Step ``step`` (counted from 1) left weights, EMA, optimiser, method and norms bitwise as they were, and the ledger says why."""
    before, after = (open_checkpoint(run / FOLDER / name_of(s)) for s in (step - 1, step))
    tensors = [{n: s for n, s in digest(c.directory).items() if n.endswith(".safetensors")} for c in (before, after)]
    assert tensors[0] == tensors[1]
    assert len(tensors[0]) >= 4
    for key in ("networks", "method"):
        assert before.state[key] == after.state[key]
    old, new = before.state["train"], after.state["train"]
    assert (new["step"], new["refused"], new["refused_in_a_row"]) == (step, old["refused"] + 1, old["refused_in_a_row"] + 1)
    assert new["mean_grad_norm"] == old["mean_grad_norm"]
    (line,) = (row for row in ledger(run) if row["step"] == step)
    assert line["event"] == "refused"
    assert any(f"`{name}`" in line["reason"] for name in networks), line
    assert ("parameter `" in line["reason"]) == parameter, line


def poisoned(call: int, change):
    """Backward number ``call`` (from 0) gets ``change(loss)``."""
    original, count = ReplicatedEngine.backward, itertools.count()
    return mock.patch.object(
        ReplicatedEngine, "backward", lambda engine, loss: original(engine, change(loss) if next(count) == call else loss)
    )


METHODS = {
    "pretrain": ("transformer", "encoder"),
    "toy-reference": ("policy", "encoder"),
    "toy-alternating": ("fake",),
    "toy-encoder": ("transformer", "encoder", "scale"),
}


def test_n1_a_step_that_is_not_finite_changes_nothing(toy_host, tmp_path):
    cases = 0
    for method, networks in METHODS.items():
        for value in ("nan", "inf", "-inf"):
            for micro_step in (0, 1):  # the first, and the last after a good one
                run = tmp_path / f"{method}-{value}-{micro_step}"
                with poisoned(2 + micro_step, lambda loss, value=value: loss * float(value)):
                    run_it(merged(SHORT, OPTIMIZERS, {"method": {"use": method}}), toy_host, run)
                assert_refused(run, 2, networks=networks)
                cases += 1
    for value in ("nan", "inf"):  # the loss alone: its gradient is finite
        run = tmp_path / f"loss-{value}"
        with poisoned(3, lambda loss, value=value: loss + float(value)):
            run_it(SHORT, toy_host, run)
        assert_refused(run, 2, networks=METHODS["pretrain"], parameter=False)
        assert "the loss is not finite" in ledger(run)[0]["reason"]
        cases += 1
    for limit, factor in (({"max_grad_norm": 1.0}, 1e4), ({}, 50.0)):
        run = tmp_path / f"spike-{factor}"
        with poisoned(3, lambda loss, factor=factor: loss * factor):
            run_it(merged(SHORT, {"guard": {"spike_factor": 8.0}, "optimizer": limit}), toy_host, run)
        assert_refused(run, 2, networks=METHODS["pretrain"], parameter=False)
        assert "is a spike (limit" in ledger(run)[0]["reason"]
        cases += 1
    run = tmp_path / "overflow"
    with poisoned(3, lambda loss: loss * 1e30):  # each gradient is finite, the sum of their squares is not
        run_it(SHORT, toy_host, run)
    assert_refused(run, 2, networks=METHODS["pretrain"], parameter=False)
    assert "the norm overflows" in ledger(run)[0]["reason"]
    run = tmp_path / "bfloat16"
    with poisoned(3, lambda loss: loss * float("nan")):
        run_it(merged(SHORT, {"precision": {"compute": "bfloat16"}}), toy_host, run)
    assert_refused(run, 2, networks=METHODS["pretrain"])
    cases += 2
    print(f"N1: {cases} of {cases} refused steps left weights, EMA, optimiser and method bitwise unchanged")
    assert cases >= 30


@pytest.mark.parametrize("rank", [0, 1])
def test_n1_one_rank_of_two(nursery, tmp_path, rank):
    plain = merged(SHORT, {"method": {"use": "toy-reference", "nan_steps": [1], "nan_rank": rank}})
    run = tmp_path / "run"
    children = nursery.start_ranks(2, train_command(write_config(tmp_path / "run.toml", plain), run), log=tmp_path / "log")
    assert [child.wait() for child in children] == [0, 0], children[0].output() + children[1].output()
    assert_refused(run, 2, networks=METHODS["toy-reference"])
    print(f"N1: a NaN on rank {rank} of two was refused on both")


def failing(steps: list[int], **guard: int) -> dict:
    """Twelve steps, checkpoints at 4, 8 and 12, NaN in ``steps``."""
    return merged(
        TINY_RUN, {"data": {"use": "toy-pictures"}, "method": {"use": "toy-encoder", "nan_steps": steps}, "guard": guard}, OPTIMIZERS
    )


def test_refusals_in_a_row_roll_back_to_the_last_checkpoint_and_go_on_with_later_data(toy_host, tmp_path):
    run = tmp_path / "run"
    run_it(failing([5, 6], refused_in_a_row=2), toy_host, run)
    assert [(row["event"], row["step"]) for row in ledger(run)] == [("refused", 6), ("refused", 7), ("rolled-back", 7)]
    assert ledger(run)[-1]["to_step"] == 4
    state = open_checkpoint(run).state
    assert (state["train"]["step"], state["train"]["rollbacks"], state["train"]["refused"]) == (12, 1, 2)
    assert state["method"]["applied"] == 12 - 2 - 1, "step 5 was applied and taken back, steps 6 and 7 refused"


def test_rollbacks_are_bounded_and_the_report_says_what_to_do(toy_host, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped) as caught:
        run_it(failing(list(range(5, 12)), refused_in_a_row=2, max_rollbacks=2), toy_host, run)
    text = str(caught.value)
    assert caught.value.exit_code == 1
    assert "step 10: 2 steps in a row were refused, the last because network `transformer`: the gradient is not finite (parameter `" in text
    assert "2 of 2 rollbacks were used and 6 steps refused in all" in text
    assert str(run / "ledger.jsonl") in text
    assert "The last checkpoint stands. Lower the learning rate or raise warmup_steps, or look at the data of these steps." in text
    assert open_checkpoint(run).step == 8
    with pytest.raises(TrainingStopped) as again:
        run_it(failing(list(range(5, 12)), refused_in_a_row=2, max_rollbacks=2), toy_host, run)
    assert str(again.value) == text, "the same command gives the same report"


def test_without_a_checkpoint_there_is_nothing_to_roll_back_to(toy_host, tmp_path):
    finished = []
    with (
        mock.patch.object(PluginHost, "run_finished", lambda host, view, step, reason: finished.append((step, reason))),
        pytest.raises(TrainingStopped, match=r"0 of 2 rollbacks were used and 3 steps refused in all; .*No checkpoint was written yet\."),
    ):
        run_it(failing([0, 1, 2], refused_in_a_row=3), toy_host, tmp_path / "run")
    assert finished == [(3, "stopped")]
    assert sorted(logged(tmp_path / "run", "refused")) == [1, 2]
    assert logged(tmp_path / "run", "grad_norm/transformer") == {}, "a refused step has no gradient norm, not one of 0"


@pytest.mark.battery
def test_n1_kills_and_signals_around_a_rollback_leave_no_trace(nursery, tmp_path):
    config = write_config(tmp_path / "run.toml", failing([5, 6, 9, 10], refused_in_a_row=2))
    whole = tmp_path / "whole"
    assert nursery.start(train_command(config, whole), log=tmp_path / "log", plan=traced(tmp_path / "trace")).wait() == 0
    assert [row["to_step"] for row in ledger(whole) if row["event"] == "rolled-back"] == [4, 8]
    notes = [n for n, (_, path) in enumerate(read_trace(tmp_path / "trace")) if path.name == "ledger.jsonl"]
    plans = [*(at_step(step, "SIGKILL") for step in (5, 7, 8, 11)), *(at_operation(n, "SIGKILL") for n in notes[1::4])]
    for number, plan in enumerate(plans):
        run = tmp_path / f"killed-{number}"
        killed_then_finished(nursery, config, run, [plan])
        assert digest(run) == digest(whole), plan
        assert ledger(run) == ledger(whole), plan
    for step in (5, 6, 10):  # a stop commits between two due checkpoints: that one must not become the target
        run = tmp_path / f"stopped-{step}"
        assert nursery.start(train_command(config, run), log=tmp_path / "log", plan=at_step(step, "SIGTERM")).wait() == 75
        assert nursery.start(train_command(config, run), log=tmp_path / "log").wait() == 0
        assert digest(run) == digest(whole), f"stopped after step {step}"
    print(f"N1: {len(plans)} kills and 3 stops around 2 rollbacks left no trace")
