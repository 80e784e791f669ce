"""Starts or resumes a run in a folder: the function behind ``ernie train``, and the one other packages call."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ernie_core import io
from ernie_core.config.plain import to_json, to_table
from ernie_core.config.run import TrainConfig
from ernie_core.config.toml import to_toml
from ernie_core.errors import ConfigError, OutOfMemory, RunFolderError
from ernie_core.plugins.host import PluginHost, require_healthy
from ernie_core.records import Identified
from ernie_core.train import run_folder
from ernie_core.train.assemble import assemble, build_engine
from ernie_core.train.checkpoint import Checkpoint, has_checkpoints, open_checkpoint, remove_after
from ernie_core.train.method import Described
from ernie_core.train.trainer import Finished, Trainer

VERSIONED = ("ernie-core", "torch", "numpy", "diffusers", "transformers", "safetensors")


def train(
    config: TrainConfig,
    *,
    host: PluginHost,
    out: str | Path,
    resume: bool = True,
    accept_plugins: bool = False,
    report: Callable[[str], None] = lambda text: None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> Finished:
    """Train in the folder ``out``, going on from its newest valid checkpoint if it has one.

    Args:
        resume: False refuses a folder that holds checkpoints.
        accept_plugins: go on although the plugin set differs from the checkpoint's.
        report: receives lines for people, on rank 0.
        on_step: called with (steps done, total steps) after every step, on every rank.

    Raises:
        ConfigError: the config names something that does not exist or does not fit together.
        DataError: training data is missing or unreadable.
        OutOfMemory: a step needs more memory than the device has.
        RunFolderError: the folder is in use, was made by another config, or is used and ``resume`` is False.
        StorageError: a durable write failed; the last checkpoint stands.
        TrainingStopped: too many steps were refused; the last checkpoint stands.
    """
    host = host.without(config.plugins.disable)
    require_healthy(host, allow_failed=config.plugins.allow_failed)
    problems = host.check_config(config)
    if problems:
        raise ConfigError(problems)
    run = Path(out)
    plain = to_json(config)
    with ExitStack() as stack:
        engine = build_engine(config, host)
        stack.callback(engine.group.close)
        first = engine.group.rank == 0
        if first:
            stack.enter_context(io.FolderLock(run))
            _prepare_folder(run, plain, resume=resume)
        engine.group.barrier()
        checkpoint = _agree_on_checkpoint(
            run, engine, plain, host, accept_plugins=accept_plugins, report=report if first else lambda text: None
        )
        draws = config.total_pictures if checkpoint is None else int(checkpoint.state.get("draws", config.total_pictures))

        def note(event: str, step: int, noted: Mapping[str, Any]) -> None:
            run_folder.record(run, event, step=step + 1, rank=engine.group.rank, **noted)  # the ledger counts steps done

        parts = assemble(config, host, engine, draws=draws, note=note)
        data = parts.source.identity() if isinstance(parts.source, Identified) else ""
        if checkpoint is not None:
            run_folder.check_data(run, checkpoint.state.get("data", ""), data)
        facts = {
            "config": plain,
            "plugins": host.plugin_set(),
            "versions": versions(),
            "ops": parts.ops.name,
            "shift": parts.shift,
            "data": data,
            "draws": draws,
        }
        trainer = Trainer(parts, host=host, run=run, facts=facts, report=report if first else lambda text: None, on_step=on_step)
        if checkpoint is not None:
            trainer.resume(checkpoint)
        if first:
            _write_run_files(run, config, facts, start_step=trainer.state.step, total_steps=config.total_steps)
            for line in describe(trainer):
                report(line)
        engine.group.barrier()  # the ledger is cut back before any rank's reading of records may add to it
        try:
            return trainer.run()
        except torch.OutOfMemoryError as error:
            reason = (str(error).strip().splitlines() or ["no details"])[0][:300]
            raise OutOfMemory(
                f"step {trainer.state.step}: the memory of {engine.device} is too small ({reason}). Lower run.micro_batch_size, or set "
                'model.checkpointing = "selective" or "full"; both begin another run, so use another --out, and model.init to keep these weights.'
            ) from error


def versions() -> dict[str, str]:
    return {name: version(name) for name in VERSIONED} | {"python": platform.python_version()}


def describe(trainer: Trainer) -> list[str]:
    """What is about to be trained, for people."""
    parts, config = trainer.parts, trainer.config
    lines = [
        f"{n.name}: {sum(p.numel() for p in n.module.parameters()):,} parameters, {'trained' if n.trained else 'frozen'}"
        for n in trainer.networks
    ]
    world = trainer.group.world_size
    lines.append(
        f"{len(parts.source):,} pictures; {world} rank{'s' if world > 1 else ''} on {trainer.engine.device}, compute {config.precision.compute}, ops {parts.ops.name}"
    )
    if isinstance(trainer.method, Described):
        lines += trainer.method.describe()
    lines.append(f"steps {trainer.state.step} to {config.total_steps}" + (" (resumed)" if trainer.state.step else ""))
    return lines


def _prepare_folder(run: Path, plain: dict[str, Any], *, resume: bool) -> None:
    if has_checkpoints(run) and not resume:
        raise RunFolderError(
            f"{run}: already holds checkpoints, and --no-resume was given. Use another --out, or leave --no-resume out to go on from them."
        )
    io.sweep_temporary(run)
    io.sweep_temporary(run / "checkpoints")
    io.sweep_temporary(run / "samples")


def _agree_on_checkpoint(
    run: Path, engine: Any, plain: dict[str, Any], host: PluginHost, *, accept_plugins: bool, report: Callable[[str], None]
) -> Checkpoint | None:
    """Rank 0 chooses and verifies; the others open the same one."""
    step = torch.full((1,), -1, dtype=torch.int64, device=engine.device)
    checkpoint = None
    if engine.group.rank == 0 and has_checkpoints(run):
        checkpoint = open_checkpoint(run)
        for note in checkpoint.notes:
            report(f"warning: {note}")
            run_folder.record(run, "damaged-checkpoint", step=checkpoint.step, note=note)
        run_folder.check_resumable(run, checkpoint.state["config"], plain)
        run_folder.check_plugins(run, checkpoint.state["plugins"], host.plugin_set(), accept=accept_plugins)
        remove_after(run, checkpoint.step)
        step.fill_(checkpoint.step)
    engine.group.broadcast_(step)
    if engine.group.rank != 0 and int(step) >= 0:
        checkpoint = open_checkpoint(run, step=int(step))
    return checkpoint


def _write_run_files(run: Path, config: TrainConfig, facts: dict[str, Any], *, start_step: int, total_steps: int) -> None:
    io.write_text(run / "config.toml", to_toml(to_table(config)))
    run_folder.forget_after(run, start_step)
    started = {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "pid": os.getpid(), "host": platform.node(), "from_step": start_step}
    before = run_folder.read_run(run).get("starts", [])
    io.write_json(
        run / "run.json",
        {
            "plugins": facts["plugins"],
            "versions": facts["versions"],
            "ops": facts["ops"],
            "total_steps": total_steps,
            "starts": [*before, started],
        },
    )
