"""What a run shows of itself: the fixed-noise validation loss, and picture grids of fixed prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ernie_core import io
from ernie_core.config.run import TrainConfig
from ernie_core.records import DataSource, Stage
from ernie_core.rng import Rng
from ernie_core.sampling.pictures import fresh_noise, grid, to_uint8, user_noise, write_png
from ernie_core.sampling.schedule import inference_sigmas
from ernie_core.train.assemble import Assembly
from ernie_core.train.method import Method, Metrics, Part


def validation_metrics(
    method: Method, source: DataSource, stage: Stage, config: TrainConfig, group: Any, *, share: Callable[[Stage], range]
) -> Metrics:
    """This rank's part of the metrics over a fixed batch: the same records and the same noise at every call of one stage."""
    fixed = Stage(size_px=stage.size_px, steps=1, batch_size=max(config.validation.samples, group.world_size))
    places = share(fixed)
    refs = source.batch(0, global_batch=fixed.batch_size, stage=fixed)
    rng = Rng(config.run.seed).step(0)
    metrics = Metrics()
    size = config.run.micro_batch_size or len(share(stage))  # no more at a time than in training
    for i in range(0, len(places), size):
        part = Part(source.fetch(refs[places[i] : places[i] + len(places[i : i + size])]), tuple(places[i : i + size]), fixed)
        metrics.merge(method.validate(method.prepare(part, rng), rng))
    return metrics


def sample_grid(parts: Assembly, stage: Stage, run: Path, step: int) -> Path:
    """Sample the config's prompts from the deployed transformer and write one PNG, prompts in reading order."""
    samples, sampling = parts.config.samples, parts.sampling
    side = (samples.size_px or stage.size_px) // parts.codec.pixels_per_token
    transformer = parts.method.deployed()["transformer"]
    velocity_fn = parts.method.velocity_fn(transformer, samples.prompts, guidance_scale=sampling.guidance_scale)
    noise = user_noise(samples.seed, len(samples.prompts), (parts.codec.channels, side, side), parts.compute).to(parts.engine.device)
    start = noise.float() if parts.config.precision.latent_dtype == "float32" else noise
    noise_fn = fresh_noise(samples.seed, len(samples.prompts), start.shape[1:], start.device)
    latents = parts.sampler(velocity_fn, start, inference_sigmas(sampling.steps, parts.shift), noise_fn=noise_fn)
    path = io.make_folder(run / "samples") / f"step-{step:08d}.png"
    write_png(path, grid(to_uint8(parts.codec.decode(latents))))
    return path
