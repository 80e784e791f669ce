"""``ernie align cache-reference CONFIG.toml... --out DIR``: compute the reference's errors that a run will ask for, once, before it starts.

The data order of a run is a function of its steps, so the run is gone through without training: each pair is computed for the draws it will meet and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_align.dpo import Dpo
from ernie_align.pair_batch import draws_at
from ernie_align.reference_cache import ErrorWriter
from ernie_core.api import App, ConfigError, Part, RecordRef, Stage
from ernie_core.rng import Rng
from ernie_core.train.assemble import assemble, build_engine

if TYPE_CHECKING:
    from ernie_core.api import PluginHost


def cache_reference(config: Any, *, host: PluginHost, out: str | Path, report: Callable[[str], None] = lambda text: None) -> int:
    """Write the errors that a run of this config needs. Returns how many pairs times draws there are.

    Args:
        config: a ``TrainConfig`` whose method is ``dpo`` with ``reference.mode = "cached"``.

    Raises:
        ConfigError: another method or mode, or several ranks.
        DataError: a pair that cannot be read or learnt from.
        StorageError: ``out`` exists already, or cannot be written.
    """
    method_options = config.method.options
    if config.method.use != "dpo" or method_options.reference.mode != "cached":
        raise ConfigError('cache-reference: expected a config with [method] use = "dpo" and reference.mode = "cached"')
    target = Path(out)
    if target.exists():
        raise ConfigError(f"{target}: already exists, and finished folders are never overwritten")
    engine = build_engine(config, host)
    if engine.group.world_size > 1:
        raise ConfigError("cache-reference runs in one process: start it without torchrun")
    parts = assemble(config, host, engine, draws=config.total_pictures, note=lambda event, step, facts: None)
    method = parts.method
    if not isinstance(method, Dpo):
        raise ConfigError(f'the method "dpo" is {type(method).__qualname__} of another plugin')
    for network in method.networks():
        network.module.to(engine.device, parts.compute).requires_grad_(False).eval()
    writer, planned = ErrorWriter(), set[tuple[RecordRef, int]]()
    for step, stage in steps_of(config):
        refs = parts.source.batch(step, global_batch=stage.batch_size, stage=stage)
        rng = Rng(config.run.seed).step(step)
        draws = draws_at(range(stage.batch_size), rng, method_options.draws_per_pair)
        fresh = [pair for pair in dict.fromkeys(zip(refs, draws, strict=True)) if pair not in planned]
        planned.update(fresh)
        size = config.run.micro_batch_size or stage.batch_size
        for i in range(0, len(fresh), size):
            chunk = fresh[i : i + size]
            part = Part(parts.source.fetch([ref for ref, _ in chunk]), tuple(range(len(chunk))), stage)
            batch, errors = method.errors_to_cache(part, rng, [draw for _, draw in chunk])
            writer.add(batch, errors.win_B, errors.lose_B)
        if (step + 1) % 100 == 0:
            report(f"step {step + 1}/{config.total_steps}: {len(writer):,} errors")
    writer.write(target, method.identity())
    return len(writer)


def steps_of(config: Any) -> Iterator[tuple[int, Stage]]:
    """Every step of a run with its stage; beyond the last stage's end it goes on."""
    stages = [stage for stage in config.stages for _ in range(stage.steps)]
    for step in range(config.total_steps):
        yield step, stages[min(step, len(stages) - 1)]


def run(configs: list[str], overrides: list[str], out: str, app: App) -> int:
    """The verb's body, after its arguments."""
    loaded = app.load_config(configs, overrides)
    count = cache_reference(loaded.config, host=loaded.host, out=out, report=app.err)
    app.out(f"{out}: {count:,} errors of the reference")
    return 0
