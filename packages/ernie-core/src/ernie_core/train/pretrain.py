"""Pre-training: flow matching of one transformer, and of the prompt encoder where that is trainable, on captioned pictures.

Each sample draws a noise level (stratified over the global batch), one noise, one caption style, and with probability ``caption_dropout`` the empty
caption, which is what guidance compares with. The loss is the mean over each sample's elements, summed over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ernie_core.errors import ConfigError, DataError
from ernie_core.flow.path import interpolate, model_time, velocity_target
from ernie_core.flow.times import shift_for_tokens, shift_sigma
from ernie_core.model.layout import SequenceLayout
from ernie_core.plugins.hookspecs import MethodContext
from ernie_core.rng import Draws, StepRng
from ernie_core.sampling.guidance import guided_velocity
from ernie_core.text.embeddings import TextEmbeddings
from ernie_core.text.truncation import FirstCutOnly
from ernie_core.train.encodings import Encodings, pixels_of
from ernie_core.train.entries import PretrainConfig
from ernie_core.train.method import Metrics, Network, Part, Turn

VALIDATION_SIGMAS = tuple((i + 0.5) / 8 for i in range(8))


@dataclass(frozen=True)
class Batch:
    """``latents_BCHW`` in the compute type; ``prompts`` after dropout; ``indices`` are places in the global batch of ``total`` samples."""

    latents_BCHW: Tensor
    prompts: tuple[str, ...]
    text: TextEmbeddings | None  # None: the encoder learns, so the loss encodes
    indices: tuple[int, ...]
    total: int


class Pretrain:
    """See ``ernie_core.train.method.Method`` for the meaning of each method."""

    def __init__(
        self, config: PretrainConfig, context: MethodContext, *, density: Callable[[Tensor], Tensor], loss: Callable[..., Tensor]
    ) -> None:
        self._config, self._context = config, context
        self._density, self._loss = density, loss
        self._cuts = FirstCutOnly()
        self.codec, self.encoder = context.codec, context.encoder
        self.transformer = context.make_transformer()

    def networks(self) -> Sequence[Network]:
        networks = [Network("transformer", self.transformer, ema=self._context.ema)]
        if self.encoder.trainable:
            networks.append(Network("encoder", self.encoder, ema=self._context.ema))
        return networks

    def deployed(self) -> Mapping[str, str]:
        return {network.name: network.name for network in self.networks()}

    def turn(self, step: int) -> Turn:
        return Turn("pretrain", tuple(network.name for network in self.networks()))

    def prepare(self, part: Part, rng: StepRng) -> Batch:
        prompts = _prompts(part, rng, self._config.caption_dropout)
        encodings = self._context.encodings
        latents_BCHW = encode_pixels(part, self.codec, rng.at("posterior"), self._context.device, self._context.dtype, encodings)
        text = None
        if not self.encoder.trainable:
            text = self._encode(prompts) if encodings is None else encodings.text(prompts, self._encode, self._context.device)
        return Batch(latents_BCHW, prompts, text, tuple(part.indices), part.stage.batch_size)

    def loss(self, batch: Batch, turn: Turn, rng: StepRng) -> tuple[Tensor, Metrics]:
        u_B = torch.from_numpy(rng.at("sigma").stratified(batch.indices, batch.total))
        tokens = batch.latents_BCHW.shape[-2] * batch.latents_BCHW.shape[-1]
        sigma_B = shift_sigma(self._density(u_B), shift_for_tokens(self._config.shift, tokens)).float()
        velocity, target, text_lens = self._predict(batch, sigma_B, rng.at("noise"))
        loss_B = self._loss(velocity, target, sigma_B.to(batch.latents_BCHW.device))
        metrics = Metrics()
        metrics.add_values("loss", loss_B)
        metrics.add("tokens", float(len(text_lens) * tokens + sum(text_lens)), float(len(text_lens)))
        return loss_B.sum(), metrics

    def after_step(self, turn: Turn, step: int) -> None:
        pass

    @torch.no_grad()
    def validate(self, batch: Batch, rng: StepRng) -> Metrics:
        """Mean squared velocity error at sigma = (i + .5) / 8, i = 0 ... 7, each sample with one fixed noise: comparable across checkpoints and losses."""
        metrics = Metrics()
        for sigma in VALIDATION_SIGMAS:
            velocity, target, _ = self._predict(batch, torch.full((len(batch.prompts),), sigma), rng.at("validation-noise"))
            error_B = (velocity.float() - target.float()).square().flatten(1).mean(1)
            metrics.add_values(f"loss-sigma-{sigma:.4f}", error_B)
            metrics.add_values("loss", error_B)
        return metrics

    def velocity_fn(self, network: str, prompts: Sequence[str], *, guidance_scale: float) -> Callable[[Tensor, float], Tensor]:
        if network != "transformer":
            raise ConfigError(f"method pretrain samples from `transformer`, not from `{network}`")
        return guided_velocity(self.transformer, self._encode(prompts), self._encode([""]), guidance_scale=guidance_scale)

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def _encode(self, prompts: Sequence[str]) -> TextEmbeddings:
        with self._cuts():
            return self.encoder.encode(prompts)

    def _predict(self, batch: Batch, sigma_B: Tensor, noise: Draws) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """The model's velocity, its target and the text lengths, with noise drawn by each sample's index."""
        x0_BCHW = batch.latents_BCHW
        shape = x0_BCHW.shape[1:]
        noise_BCHW = torch.from_numpy(np.stack([noise.normal(index, shape) for index in batch.indices])).to(x0_BCHW.device)
        sigma_B = sigma_B.to(x0_BCHW.device)
        x_t_BCHW = interpolate(x0_BCHW, noise_BCHW, sigma_B).to(x0_BCHW.dtype)
        text = batch.text if batch.text is not None else self._encode(batch.prompts)
        layout = SequenceLayout.plan((shape[-2], shape[-1]), text.lens)
        time_B = model_time(sigma_B, torch.float32)  # continuous: only the deployed sampler rounds times to the model's type
        velocity = self.transformer(x_t_BCHW, time_B, text.text_BTE.to(x0_BCHW.dtype), None, layout)
        return velocity, velocity_target(x0_BCHW.float(), noise_BCHW), text.lens


def encode_pixels(
    part: Part, codec: Any, posterior: Draws, device: torch.device, dtype: torch.dtype, encodings: Encodings | None = None
) -> Tensor:
    """The micro-batch's latents [B, C, h, w], with posterior noise keyed by index where the codec wants it. No gradient."""
    shapes = {record.pixels.shape for record in part.records}
    if len(shapes) > 1:
        raise DataError(f"a batch mixes picture sizes {sorted(shapes)}: a data source must return one bucket per step")
    drawn = {}
    if codec.posterior_noise:
        height, width = (side // codec.pixels_per_token for side in part.records[0].pixels.shape[:2])
        noise = np.stack([posterior.normal(index, (codec.channels, height, width)) for index in part.indices])
        drawn["noise_BCHW"] = torch.from_numpy(noise).to(device)
    with torch.no_grad():
        if encodings is not None and encodings.codec is not None:
            return encodings.codec.latents(encodings.posteriors(part.records, device), **drawn).to(dtype)
        return codec.encode(pixels_of(part.records, device), **drawn).to(dtype)


def _prompts(part: Part, rng: StepRng, dropout: float) -> tuple[str, ...]:
    """One caption per sample: a style drawn evenly, or "" with probability ``dropout``."""
    style, dropped = rng.at("caption-style"), rng.at("caption-dropout")
    prompts = []
    for record, index in zip(part.records, part.indices, strict=True):
        styles = sorted(record.captions)
        if not styles:
            raise DataError(f"record `{record.key}` has no caption; a data source must give at least one (it may be empty)")
        chosen = record.captions[styles[style.integer(index, len(styles))]]
        prompts.append("" if dropped.uniform(index) < dropout else chosen)
    return tuple(prompts)


def build(config: PretrainConfig, context: MethodContext) -> Pretrain:
    density = context.component("densities", config.density)
    loss = context.component("losses", config.loss)
    return Pretrain(config, context, density=density, loss=loss)
