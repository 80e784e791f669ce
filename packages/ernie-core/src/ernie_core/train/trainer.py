"""The training loop. Read this first: everything a run does happens in ``Trainer.run``, top to bottom.

A step is a pure function of the state before it and of its number: the data source, the random draws and the method are asked by step, so a run that
was killed goes on from its last checkpoint and ends in bitwise the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from ernie_core.config.run import TrainConfig
from ernie_core.errors import ConfigError, DataError, RunFolderError, TrainingStopped
from ernie_core.model.config import DiTConfig
from ernie_core.plugins.hookspecs import RunView
from ernie_core.records import Record, Stage
from ernie_core.rng import Rng
from ernie_core.train import run_folder
from ernie_core.train.assemble import Assembly
from ernie_core.train.checkpoint import Checkpoint, has_checkpoints, open_checkpoint, save_checkpoint
from ernie_core.train.ema import Ema, Follower
from ernie_core.train.method import Metrics, Network, Part, Repeats, Turn
from ernie_core.train.prefetch import prefetched
from ernie_core.train.reduce import reduced
from ernie_core.train.schedule import learning_rate_factor
from ernie_core.train.signals import StopSignals
from ernie_core.train.snapshot import load_snapshot, take_snapshot
from ernie_core.train.state import TrainState, remember_norms
from ernie_core.train.throughput import Meter, peak_flops, train_flops
from ernie_core.train.validation import sample_grid, validation_metrics

if TYPE_CHECKING:
    from ernie_core.plugins.host import PluginHost


@dataclass(frozen=True)
class Finished:
    """How a run ended: ``reason`` is "done" or "signal" (the state is committed in both)."""

    step: int
    reason: str


class Trainer:
    """One run of one assembled config in one folder. The caller holds the folder's lock."""

    def __init__(
        self,
        parts: Assembly,
        *,
        host: PluginHost,
        run: Path,
        facts: Mapping[str, Any],
        report: Callable[[str], None],
        on_step: Callable[[int, int], None],
    ) -> None:
        self.parts, self.config, self.engine, self.method = parts, parts.config, parts.engine, parts.method
        self.host, self.run_folder, self.facts, self.report, self.on_step = host, run, facts, report, on_step
        self.rng = Rng(self.config.run.seed)
        self.networks: Sequence[Network] = checked_networks(self.method.networks())
        tables = {"default": self.config.optimizer, **self.config.optimizers}
        self.engine.prepare(self.networks, tables, ops=parts.ops, compute=parts.compute)
        self.emas = {n.name: Ema(n.ema, self.engine.masters(n.name)) for n in self.networks if n.trained and n.ema is not None}
        self.followers = {
            n.name: Follower(n, n.ema, self.engine.masters(n.follows)) for n in self.networks if n.follows and n.ema is not None
        }
        self.state = TrainState()
        self.decay_steps = self.config.schedule.decay_steps or self.config.total_steps
        self.group = self.engine.group
        self.first = self.group.rank == 0
        for stage in self.config.stages:
            self._share(stage)  # a late stage that cannot be shared out should be known now

    # ---- the loop ----

    def run(self) -> Finished:
        """Train from ``self.state.step`` to the end of the config, a signal, or too many refusals.

        Raises:
            TrainingStopped: refused steps used up all rollbacks; the last checkpoint stands.
        """
        config, total = self.config, self.config.total_steps
        view = RunView(self.run_folder, config, total, self.state.step)
        window, meter = Metrics(), Meter()
        refused_before = self.state.refused
        with ExitStack() as stack:
            signals = stack.enter_context(StopSignals())
            if self.first:
                self.host.run_started(view)
            records = stack.enter_context(_closing(prefetched(self._fetch, range(self.state.step, total), workers=config.data_workers)))
            saved_at = self.state.step if self.state.step else -1
            while self.state.step < total:
                step, stage = self.state.step, stage_at(config, self.state.step)
                turn = checked_turn(self.method.turn(step), self.networks)  # who learns now
                try:
                    batch = next(records)
                except DataError:
                    if saved_at != step and self.group.world_size == 1:
                        self._save(view)  # a picture that cannot be read must not cost the steps before it
                    raise
                seen = self._accumulate(batch, step, stage, turn, signals)
                if seen is None:
                    break  # a signal came between micro-steps: the step is abandoned, nothing of it happened
                outcome = self.engine.step(turn, learning_rate_factor=self._factor(step), refuse_above=self._spike_limits())
                if outcome.applied:
                    for name in turn.trains:
                        if name in self.emas:
                            self.emas[name].update(self.engine.masters(name))
                    for follower in self.followers.values():
                        if follower.leader in turn.trains:
                            follower.update(self.engine.masters(follower.leader))
                    self.method.after_step(turn, step)
                    norms = remember_norms(dict(self.state.mean_grad_norm), dict(outcome.grad_norms))
                    self.state = msgspec.structs.replace(self.state, step=step + 1, refused_in_a_row=0, mean_grad_norm=norms)
                    window.merge(seen)
                    for name, norm in outcome.grad_norms.items():
                        window.add(f"grad_norm/{name}", norm, 1.0)
                else:
                    self._refused(view, step, turn, outcome.reason)
                meter.add(stage.batch_size)
                step = self.state.step
                stop = self._any_rank(signals.stop)
                self.on_step(step, total)
                if due(step, config.logging.every_steps, total) or stop:
                    self._log(view, step, window, meter, refused=self.state.refused - refused_before)
                    window, refused_before = Metrics(), self.state.refused
                self._stop_if_asked(view, step)
                with meter.paused():
                    if due(step, config.validation.every_steps, total):
                        self._validate(view, step, stage)
                    if due(step, config.samples.every_steps, total) and config.samples.prompts:
                        self._sample(step, stage)
                    if due(step, config.checkpoint.every_steps, total) or stop:
                        self._save(view)
                        saved_at = step
                if stop:
                    break
            if saved_at != self.state.step:
                self._save(view)
            reason = "done" if self.state.step >= total else "signal"
            if self.first:
                self.host.run_finished(view, self.state.step, reason)
        return Finished(self.state.step, reason)

    def _accumulate(self, records: Sequence[Record], step: int, stage: Stage, turn: Turn, signals: StopSignals) -> Metrics | None:
        """Forward and backward of this rank's share of the global batch. None: stopped between micro-steps."""
        seen, rng = Metrics(), self.rng.step(step)
        parts = micro_batches(records, self._share(stage), stage, self.config.run.micro_batch_size)
        for k, part in enumerate(parts):
            if signals.stop and self.group.world_size == 1:
                self.engine.discard_gradients()
                return None
            with self.engine.micro_step(turn, last=k == len(parts) - 1):
                loss, metrics = self.method.loss(self.method.prepare(part, rng), turn, rng)
                self.engine.backward(loss / stage.batch_size)
            seen.merge(metrics)
        return seen

    # ---- data ----

    def _share(self, stage: Stage) -> range:
        """This rank's places in the global batch; shares differ by at most one."""
        ranks, rank = self.group.world_size, self.group.rank
        if stage.batch_size < ranks:
            raise ConfigError(f"stages: batch_size {stage.batch_size} is smaller than the number of ranks, {ranks}")
        return range(rank * stage.batch_size // ranks, (rank + 1) * stage.batch_size // ranks)

    def _fetch(self, step: int) -> Sequence[Record]:
        stage = stage_at(self.config, step)
        of = self.method.data_step(step) if isinstance(self.method, Repeats) else step
        refs = self.parts.source.batch(of, global_batch=stage.batch_size, stage=stage)
        share = self._share(stage)
        return self.parts.source.fetch(refs[share.start : share.stop])

    # ---- refusals ----

    def _spike_limits(self) -> dict[str, float]:
        factor = self.config.guard.spike_factor
        return {name: factor * mean for name, mean in self.state.mean_grad_norm.items()} if factor else {}

    def _refused(self, view: RunView, step: int, turn: Turn, reason: str) -> None:
        """A refused step changed nothing and still counts, so that the order of data stays a function of the step."""
        state, guard = self.state, self.config.guard
        self.state = msgspec.structs.replace(state, step=step + 1, refused=state.refused + 1, refused_in_a_row=state.refused_in_a_row + 1)
        self._note("refused", step + 1, reason=reason, turn=turn.name)
        if self.state.refused_in_a_row < guard.refused_in_a_row:
            return
        if self.state.rollbacks >= guard.max_rollbacks or self.state.rollback_step < 0:
            if self.first:
                self.host.run_finished(view, self.state.step, "stopped")
            stands = "The last checkpoint stands" if has_checkpoints(self.run_folder) else "No checkpoint was written yet"
            raise TrainingStopped(
                f"step {step}: {guard.refused_in_a_row} steps in a row were refused, the last because {reason}. "
                f"{self.state.rollbacks} of {guard.max_rollbacks} rollbacks were used and {self.state.refused} steps refused in all; see "
                f"{self.run_folder / run_folder.LEDGER}. {stands}. Lower the learning rate or raise warmup_steps, or look at the data of these steps."
            )
        checkpoint = self._rollback_target()
        load_snapshot(checkpoint, self.networks, self.engine, self._averages(), self.method)
        self.state = msgspec.structs.replace(
            self.state,
            refused_in_a_row=0,
            rollbacks=self.state.rollbacks + 1,
            mean_grad_norm=dict(checkpoint.state["train"]["mean_grad_norm"]),
        )
        self._note("rolled-back", step + 1, to_step=checkpoint.step)

    def _rollback_target(self) -> Checkpoint:
        try:
            return open_checkpoint(self.run_folder, step=self.state.rollback_step)
        except RunFolderError as error:
            self._note("damaged-checkpoint", self.state.step, note=str(error))
            return open_checkpoint(self.run_folder)

    def _note(self, event: str, step: int, **facts: Any) -> None:
        if self.first:
            self.report(f"step {step}: {event}: " + ", ".join(f"{k} {v}" for k, v in facts.items()))
            run_folder.record(self.run_folder, event, step=step, **facts)

    def _stop_if_asked(self, view: RunView, step: int) -> None:
        """An observer, which runs on rank 0 after the log, may have seen enough.

        Raises:
            TrainingStopped: on every rank, with the observer's reason on rank 0.
        """
        if not due(step, self.config.logging.every_steps, view.total_steps) or not self._any_rank(bool(view.control.stop_because)):
            return
        because = view.control.stop_because or "rank 0 was asked to stop"
        self._note("stopped", step, reason=because)
        if self.first:
            self.host.run_finished(view, step, "stopped")
        raise TrainingStopped(f"step {step}: {because}")

    def _any_rank(self, flag: bool) -> bool:
        if self.group.world_size == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.engine.device)
        self.group.sum_(flags)
        return bool(flags.item())

    # ---- what is seen ----

    def _factor(self, step: int) -> float:
        return learning_rate_factor(self.config.schedule, step, decay_steps=self.decay_steps)

    def _log(self, view: RunView, step: int, window: Metrics, meter: Meter, *, refused: int) -> None:
        means = reduced(window, self.group, self.engine.device)
        means |= {"learning_rate": self.config.optimizer.learning_rate * self._factor(step - 1), "refused": float(refused)}
        means |= meter.read(peak_flops(_device_name(self.engine.device)), self.group.world_size, flops_per_picture(self.networks, means))
        if self.first:
            self.report(
                f"step {step}/{view.total_steps}: "
                + ", ".join(f"{k} {means[k]:.4g}" for k in ("loss", "images_per_s", "mfu") if k in means)
            )
            self.host.step_finished(view, step, means)

    def _validate(self, view: RunView, step: int, stage: Stage) -> None:
        source = self.parts.validation or self.parts.source
        with self._averaged():
            metrics = validation_metrics(self.method, source, stage, self.config, self.group, share=self._share)
        means = {f"validation/{k}": v for k, v in reduced(metrics, self.group, self.engine.device).items()}
        if self.first:
            self.report(f"step {step}: validation loss {means.get('validation/loss', float('nan')):.4f}")
            self.host.step_finished(view, step, means)

    def _sample(self, step: int, stage: Stage) -> None:
        if self.first:
            with self._averaged():
                path = sample_grid(self.parts, stage, self.run_folder, step)
            self.report(f"step {step}: pictures in {path}")
        self.group.barrier()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Networks compute with their EMA, as users will."""
        with ExitStack() as stack:
            for name, ema in self.emas.items():
                stack.enter_context(self.engine.weights_replaced(name, ema.values))
            for network in self.networks:
                network.module.eval()
            stack.enter_context(torch.no_grad())
            yield

    # ---- checkpoints ----

    def _save(self, view: RunView) -> None:
        if self.state.step and self.state.step % self.config.checkpoint.every_steps == 0:
            self.state = msgspec.structs.replace(self.state, rollback_step=self.state.step)
        tensors, state = take_snapshot(self.networks, self.engine, self._averages(), self.method, first=self.first)
        state |= {"train": msgspec.to_builtins(self.state), "decay_steps": self.decay_steps, **self.facts}
        if self.first:
            manifest = {"plugins": self.facts["plugins"], "versions": self.facts["versions"]}
            path = save_checkpoint(
                self.run_folder,
                state=state,
                tensors=tensors,
                facts=manifest,
                keep=self.config.checkpoint.keep,
                spare_steps={self.state.rollback_step, *view.control.spare_steps},
            )
            self.host.checkpoint_saved(view, self.state.step, path)
        self.group.barrier()

    def _averages(self) -> dict[str, Ema]:
        return {**self.emas, **self.followers}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take over everything a checkpoint holds."""
        load_snapshot(checkpoint, self.networks, self.engine, self._averages(), self.method)
        self.state = msgspec.convert(checkpoint.state["train"], TrainState)
        self.decay_steps = int(checkpoint.state["decay_steps"])


# ---- pure parts ----


def checked_networks(networks: Sequence[Network]) -> tuple[Network, ...]:
    """A method's networks, each under a name of its own: the name is that of its files.

    Raises:
        ConfigError: two networks share a name, or one follows what does not learn.
    """
    names = [network.name for network in networks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"the method has several networks called `{'`, `'.join(repeated)}`: their checkpoints would overwrite each other")
    for network in networks:
        if network.follows and (network.trained or network.ema is None or network.follows not in {n.name for n in networks if n.trained}):
            raise ConfigError(
                f"the method's network `{network.name}` follows `{network.follows}`: expected that one to be trained, and `{network.name}` itself to have "
                "an `ema` and not to be trained"
            )
    return tuple(networks)


def checked_turn(turn: Turn, networks: Sequence[Network]) -> Turn:
    """A turn that trains only what is trained.

    Raises:
        ConfigError: it names another network.
    """
    trained = [network.name for network in networks if network.trained]
    unknown = [name for name in turn.trains if name not in trained]
    if unknown:
        raise ConfigError(
            f"turn `{turn.name}` of the method trains `{'`, `'.join(unknown)}`; its trained networks are {', '.join(trained)}"
        )
    return turn


def stage_at(config: TrainConfig, step: int) -> Stage:
    """The resolution stage of a step; beyond the last stage's end it goes on."""
    for stage in config.stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return config.stages[-1]


def due(step: int, every: int, total: int) -> bool:
    """Every so many steps and at the end; never if 0."""
    return every > 0 and (step % every == 0 or step == total)


def micro_batches(records: Sequence[Record], share: range, stage: Stage, size: int | None) -> list[Part]:
    """Split a rank's records into micro-batches that know their places in the global batch."""
    size = size or len(share)
    return [Part(records[i : i + size], tuple(share[i : i + size]), stage) for i in range(0, len(share), size)]


def flops_per_picture(networks: Sequence[Network], means: Mapping[str, float]) -> float | None:
    """Forward and backward FLOPs of the first trained DiT for the mean sequence length a method reports as ``tokens``; None without either."""
    for network in networks:
        config = getattr(network.module, "config", None)
        if network.trained and isinstance(config, DiTConfig) and "tokens" in means:
            parameters = sum(p.numel() for p in network.module.parameters())
            return train_flops(parameters, tokens=round(means["tokens"]), layers=config.num_layers, width=config.hidden_size)
    return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


@contextmanager
def _closing(generator: Iterator[Any]) -> Iterator[Iterator[Any]]:
    try:
        yield generator
    finally:
        generator.close()  # type: ignore[attr-defined]
