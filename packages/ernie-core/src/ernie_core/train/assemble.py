"""Builds what a run consists of from its config: engine, codec, encoder, data sources, method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ernie_core.config.base import Selection
from ernie_core.config.plain import to_json
from ernie_core.config.run import TrainConfig
from ernie_core.errors import ConfigError, DataError, Problem
from ernie_core.latent.packing import check_divisible
from ernie_core.model.factory import make_transformer
from ernie_core.plugins.hookspecs import (
    CodecContext,
    DataSourceContext,
    EncoderContext,
    EngineContext,
    MethodContext,
    OpSetContext,
    PureContext,
)
from ernie_core.records import DataSource
from ernie_core.sampling.fixed import settle
from ernie_core.sampling.pipeline import read_shift
from ernie_core.train.checkpoint import is_own_checkpoint, open_checkpoint
from ernie_core.train.encodings import Encodings
from ernie_core.train.method import FixesSampling
from ernie_core.weights.encoder import fill_encoder

if TYPE_CHECKING:
    from ernie_core.parallel.engine import Engine
    from ernie_core.plugins.host import PluginHost
    from ernie_core.train.method import FixedSampling, Method

DEFAULT_SHIFT = 3.0  # of the released base model's scheduler
COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Assembly:
    """The built parts of a run."""

    config: TrainConfig
    engine: Engine
    compute: torch.dtype
    ops: Any
    codec: Any
    encoder: Any
    source: DataSource
    validation: DataSource | None
    method: Method
    sampler: Callable[..., Any]
    shift: float
    """Of the inference schedule."""
    sampling: FixedSampling
    """How the run's pictures are drawn; the sampler's name is that of ``sampler``."""


def build_engine(config: TrainConfig, host: PluginHost) -> Engine:
    return host.build("engines", config.engine, EngineContext(COMPUTE[config.precision.compute]))


def assemble(
    config: TrainConfig, host: PluginHost, engine: Engine, *, draws: int, note: Callable[[str, int, Mapping[str, Any]], None]
) -> Assembly:
    """Build everything. Data first, since a missing caption should be known before weights are read.

    ``draws`` and ``note`` are for data sources, see ``DataSourceContext``.
    """
    compute = COMPUTE[config.precision.compute]
    codec = host.build("codecs", config.codec, CodecContext(engine.device, compute))
    side = config.samples.size_px
    if side is not None:
        try:
            check_divisible(side, side, codec.pixels_per_token)
        except DataError as error:
            raise ConfigError([Problem("samples.size_px", str(error))]) from error
    data = DataSourceContext(config.run.seed, codec.pixels_per_token, stages=config.stages, draws=draws, note=note)
    source = host.build("data_sources", config.data, data)
    held_out = config.validation.data
    validation = None if held_out is None else host.build("data_sources", held_out, replace(data, draws=0))
    encoder = host.build("tokenizers", config.encoder, EncoderContext(engine.device, compute, config.run.seed))
    _take_over_encoder(encoder, config)
    ops = host.build("op_sets", config.ops, OpSetContext(engine.device, compute))
    context = MethodContext(
        seed=config.run.seed,
        device=engine.device,
        dtype=compute,
        make_transformer=lambda: make_transformer(
            config.model, channels=codec.channels, text_width=encoder.width, host=host, ops=ops, seed=config.run.seed
        ),
        codec=codec,
        encoder=encoder,
        component=lambda registry, selection, own=PureContext(): host.build(registry, selection, own),  # noqa: B008
        stages=config.stages,
        ema=config.ema,
        encodings=None if config.cache is None else Encodings(host.build("caches", config.cache, PureContext()), codec, encoder),
        shift=inference_shift(config),
        latent_dtype=config.precision.latent_dtype,
    )
    method = host.build("methods", config.method, context)
    sampling = settle(config.samples, method.sampling() if isinstance(method, FixesSampling) else None)
    sampler = host.build("samplers", config.samples.sampler or Selection(sampling.sampler), PureContext())
    return Assembly(config, engine, compute, ops, codec, encoder, source, validation, method, sampler, context.shift, sampling)


def _take_over_encoder(encoder: Any, config: TrainConfig) -> None:
    """A prompt encoder that was trained with the initial model goes on as it was.

    Raises:
        ConfigError: the config selects another encoder, or other options of it.
        WeightsError: see ``fill_encoder``.
    """
    init = config.model.init
    if init is None or not is_own_checkpoint(init):
        return
    checkpoint = open_checkpoint(init)
    if "encoder" not in checkpoint.state["deployed"]:
        return
    trained, asked = checkpoint.state["config"]["encoder"], to_json(config.encoder)
    if trained != asked:
        raise ConfigError([Problem("encoder", f"{asked}, but model.init = {init} was trained together with {trained}: copy its [encoder]")])
    fill_encoder(encoder, checkpoint, raw=False, seed=config.run.seed)


def inference_shift(config: TrainConfig) -> float:
    """``flow.shift`` if it is given, else what the initial weights were made for, else ``DEFAULT_SHIFT``."""
    if config.flow.shift is not None:
        return config.flow.shift
    if config.model.init is None:
        return DEFAULT_SHIFT
    init = Path(config.model.init)
    if (init / "model_index.json").is_file():
        return read_shift(init)
    if (init / "config.json").is_file():
        return DEFAULT_SHIFT  # a transformer alone says nothing of its scheduler
    return float(open_checkpoint(init).state["shift"])
