"""Contracts of training methods: what they learn does not depend on where a run was interrupted, nor on micro-batches, nor on ranks.

.. code-block:: python

    from ernie_core.testing.resume import ResumeContract

    class TestMyMethod(ResumeContract):
        entry = "my-method"
        options = {"strength": 0.5}
        tables = {"data": {"use": "my-pictures"}, "optimizers": {"critic": {"learning_rate": 1e-4}}}

``KillContract`` does the same with real processes and ``kill -9``, at one rank and at two; it needs a fixture ``nursery`` that returns a
``ernie_core.testing.nursery.Nursery``, best of session scope.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from ernie_core import io
from ernie_core.config.load import from_plain
from ernie_core.testing.component import ComponentContract
from ernie_core.testing.mishaps import Plan, at_step, in_call, without_fsync
from ernie_core.testing.nursery import Nursery
from ernie_core.testing.runs import TINY_RUN, Plain, digest, leftovers, logged, merged, write_config
from ernie_core.train.checkpoint import FOLDER, LATEST, name_of, open_checkpoint
from ernie_core.train.observers import METRICS
from ernie_core.train.start import train
from ernie_core.train.trainer import Finished

MICRO_BATCH_TOLERANCE = 1e-3  # relative, over two steps: float32 sums in another order, then AdamW's division by small moments


class MethodContract(ComponentContract):
    """``entry`` and ``options`` are the ``[method]`` table; ``tables`` are the other tables, merged over ``TINY_RUN``, and must hold ``data``."""

    registry: ClassVar[str] = "methods"
    tables: ClassVar[Mapping[str, Any]]

    def plain(self, *changes: Mapping[str, Any]) -> Plain:
        return merged(TINY_RUN, self.tables, {"method": {"use": self.entry, **self.options}}, *changes)

    def train(self, out: Path, *changes: Mapping[str, Any]) -> Finished:
        """Train in this process, going on with what is in ``out``."""
        host = self.host()
        with one_thread(), without_fsync():
            return train(from_plain(self.plain(*changes), host), host=host, out=out)


class ResumeContract(MethodContract):
    """In this process. ``steps`` covers a whole period of turns and both resolution stages."""

    steps: ClassVar[int] = 6

    def short(self, *changes: Mapping[str, Any]) -> Plain:
        """A checkpoint after every step."""
        half = self.steps // 2
        stages = [{"size_px": 16, "steps": half, "batch_size": 4}, {"size_px": 24, "steps": self.steps - half, "batch_size": 4}]
        return merged({"stages": stages, "checkpoint": {"every_steps": 1, "keep": self.steps + 1}, "samples": {"every_steps": 0}}, *changes)

    def test_resume_after_every_step_gives_bitwise_the_same_state(self, tmp_path):
        import torch

        whole = tmp_path / "whole"
        self.train(whole, self.short())
        expected, compared = digest(whole), 0
        for step in range(1, self.steps):
            run = tmp_path / f"from-{step}"
            cut_back(whole, run, step)
            self.train(run, self.short())
            assert digest(run) == expected, f"resumed after step {step}"
            for name in expected:
                if name.endswith(".safetensors"):
                    ours, theirs = (open_checkpoint(r).tensors(name) for r in (run, whole))
                    assert ours.keys() == theirs.keys()
                    assert all(torch.equal(ours[key], theirs[key]) for key in ours), f"{name}, resumed after step {step}"
                    compared += len(ours)
        print(f"R1: {self.entry}: resumed after {self.steps - 1} of {self.steps - 1} steps, {compared} tensors equal")

    def test_a_step_changes_what_its_turn_trains_and_nothing_else(self, tmp_path):
        run = tmp_path / "run"
        self.train(run, self.short())
        trained = [name for name, facts in open_checkpoint(run).state["networks"].items() if facts["trained"]]
        moved = set()
        for step in range(2, self.steps + 1):
            before, after = (digest(run / FOLDER / name_of(s)) for s in (step - 1, step))
            for name in trained:
                learns = step in logged(run, f"grad_norm/{name}")
                assert (before.get(f"optimizer.{name}.safetensors") != after[f"optimizer.{name}.safetensors"]) == learns, (
                    f"{name}, step {step}"
                )
                if before[f"{name}.safetensors"] != after[f"{name}.safetensors"]:
                    assert learns, f"{name} changed at step {step}, which does not train it"
                    moved.add(name)
        assert moved == set(trained), f"networks that never learnt in {self.steps} steps: {sorted(set(trained) - moved)}"

    def test_a_refused_step_changes_nothing_but_the_counters(self, tmp_path):
        """A gradient that is not finite, at each step in turn."""
        from ernie_core.parallel.replicated import ReplicatedEngine

        original = ReplicatedEngine.backward
        for bad in range(1, self.steps):
            calls = 0

            def poisoned(engine: Any, loss: Any, bad: int = bad) -> None:
                nonlocal calls
                calls += 1
                original(engine, loss * float("nan") if calls == 2 * bad + 2 else loss)  # the last of two micro-batches

            run = tmp_path / f"bad-{bad}"
            with mock.patch.object(ReplicatedEngine, "backward", poisoned):
                self.train(run, self.short({"run": {"micro_batch_size": 2, "steps": bad + 1}}))
            before, after = (open_checkpoint(run / FOLDER / name_of(s)) for s in (bad, bad + 1))
            sums = [digest(c.directory) for c in (before, after)]
            assert {n: s for n, s in sums[0].items() if n.endswith(".safetensors")} == {
                n: s for n, s in sums[1].items() if n.endswith(".safetensors")
            }
            assert after.state["method"] == before.state["method"], "the method's own state moved with a refused step"
            assert after.state["networks"] == before.state["networks"]
            assert (after.state["train"]["refused"], after.state["train"]["step"]) == (1, bad + 1)
            (line,) = (run / "ledger.jsonl").read_text().splitlines()
            assert "network `" in json.loads(line)["reason"]

    def test_micro_batches_give_the_same_gradients_as_one_batch(self, tmp_path):
        rows = []
        for size in (1, 3, 4):
            run = tmp_path / f"micro-{size}"
            self.train(run, self.short({"run": {"micro_batch_size": size, "steps": 2}}))
            rows.append({name: logged(run, name) for name in metric_names(run) if name == "loss" or name.startswith("grad_norm/")})
        for row in rows:
            assert row.keys() == rows[-1].keys()
            for name, by_step in row.items():
                for step, value in by_step.items():
                    whole = rows[-1][name][step]
                    assert abs(value - whole) <= MICRO_BATCH_TOLERANCE * abs(whole), f"{name} at step {step}: {value} against {whole}"


class KillContract(MethodContract):
    """With real processes and ``kill -9``. The kills: before the first checkpoint, inside a save, after one, and twice in a row."""

    detect_within_s: ClassVar[float] = 30.0
    kills: ClassVar[Sequence[Sequence[Plan]]] = (
        (at_step(2, "SIGKILL"),),
        (in_call("ernie_core.io:verify_folder", "SIGKILL"),),
        (at_step(7, "SIGKILL"), at_step(9, "SIGKILL")),
    )

    def test_killed_runs_end_in_bitwise_the_same_state(self, nursery, tmp_path):
        config = write_config(tmp_path / "run.toml", self.plain())
        expected, kills = None, 0
        for number, plans in enumerate(((), *self.kills)):
            run = tmp_path / f"run-{number}"
            kills += killed_then_finished(nursery, config, run, plans)
            expected = expected or digest(run)
            assert digest(run) == expected, f"after kills at {plans}"
            assert leftovers(run) == []
        print(f"K1: {self.entry}, 1 rank: {kills} of {kills} kills left no trace")

    def test_two_ranks_of_which_one_is_killed_end_and_resume_bitwise(self, nursery, tmp_path):
        config = write_config(tmp_path / "run.toml", self.plain())
        expected, kills = None, 0
        for number, plans in enumerate(((), *self.kills)):
            run = tmp_path / f"run-{number}"
            for plan in plans:
                victim = kills % 2 if plan.where == "step" else 0  # rank 0 is the one that saves
                ranks = nursery.start_ranks(2, train_command(config, run), log=tmp_path / "log", plans={victim: plan})
                assert ranks[victim].wait() == -signal.SIGKILL, ranks[victim].output()
                code = ranks[1 - victim].wait(timeout_s=self.detect_within_s)
                assert code == 1, f"the rank that was left ended with {code}:\n{ranks[1 - victim].output()}"
                kills += 1
            ranks = nursery.start_ranks(2, train_command(config, run), log=tmp_path / "log")
            for rank in ranks:
                assert rank.wait() == 0, rank.output()
            expected = expected or digest(run)
            assert digest(run) == expected, f"after kills at {plans}"
        print(f"K1 and R3: {self.entry}, 2 ranks: {kills} of {kills} lost ranks were noticed and left no trace")


def train_command(config: Path, run: Path, *extra: str) -> list[str]:
    return ["train", str(config), "--out", str(run), *extra]


def killed_then_finished(nursery: Nursery, config: Path, run: Path, plans: Sequence[Plan]) -> int:
    """Start the run once for each plan, which must end it by SIGKILL, then to its end. Returns the number of kills."""
    log = run.with_name(f"{run.name}.log")
    for plan in plans:
        child = nursery.start(train_command(config, run), log=log, plan=plan)
        code = child.wait()
        assert code == -signal.SIGKILL, f"{plan}: ended with {code}:\n{child.output()}"
    child = nursery.start(train_command(config, run), log=log)
    assert child.wait() == 0, child.output()
    return len(plans)


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny models run on one thread: sharing their work costs more than doing it, by far where other tests keep the cores busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cut_back(whole: Path, run: Path, step: int) -> None:
    """A copy of a run folder as it was after ``step``, from a run that kept a checkpoint of every step."""
    shutil.copytree(whole, run)
    for folder in (run / FOLDER).iterdir():
        if folder.name > name_of(step):
            shutil.rmtree(folder)
    (run / LATEST).write_text(name_of(step) + "\n")


def metric_names(run: Path) -> set[str]:
    return {name for line in io.read_lines(run / METRICS) for name in json.loads(line)}
