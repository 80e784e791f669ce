"""Pre-training: flow matching of one transformer, and of the prompt encoder where that is trainable, on captioned pictures.

Each sample draws a noise level (stratified over the global batch), one noise, one caption style, and with probability ``caption_dropout`` the empty
caption, which is what guidance compares with. The loss is the mean over each sample's elements, summed over samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ernie_core.errors import ConfigError
from ernie_core.flow.matching import FlowMatching, target_of
from ernie_core.plugins.hookspecs import MethodContext
from ernie_core.rng import StepRng
from ernie_core.text.embeddings import TextEmbeddings
from ernie_core.train.entries import PretrainConfig
from ernie_core.train.method import Metrics, Network, Part, Turn


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
        self._config, self._context, self._loss = config, context, loss
        self._matching = FlowMatching(context, density=density, shift=config.shift)
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
        prompts = self._matching.prompts(part, rng, dropout=self._config.caption_dropout)
        latents_BCHW = self._matching.latents(part, rng)
        return Batch(latents_BCHW, prompts, self._matching.text(prompts), tuple(part.indices), part.stage.batch_size)

    def loss(self, batch: Batch, turn: Turn, rng: StepRng) -> tuple[Tensor, Metrics]:
        x0_BCHW, text = batch.latents_BCHW, self._text(batch)
        tokens = x0_BCHW.shape[-2] * x0_BCHW.shape[-1]
        sigma_B = self._matching.sigmas(batch.indices, rng, total=batch.total, tokens=tokens)
        noise_BCHW = self._matching.noise(rng.at("noise"), batch.indices, x0_BCHW.shape[1:])
        velocity = self._matching.predict(self.transformer, x0_BCHW, noise_BCHW, sigma_B, text)
        loss_B = self._loss(velocity, target_of(x0_BCHW, noise_BCHW), sigma_B.to(x0_BCHW.device))
        metrics = Metrics()
        metrics.add_values("loss", loss_B)
        metrics.add("tokens", float(len(text.lens) * tokens + sum(text.lens)), float(len(text.lens)))
        return loss_B.sum(), metrics

    def after_step(self, turn: Turn, step: int) -> None:
        pass

    @torch.no_grad()
    def validate(self, batch: Batch, rng: StepRng) -> Metrics:
        return self._matching.validate(self.transformer, batch.latents_BCHW, self._text(batch), batch.indices, rng)

    def velocity_fn(self, network: str, prompts: Sequence[str], *, guidance_scale: float) -> Callable[[Tensor, float], Tensor]:
        if network != "transformer":
            raise ConfigError(f"method pretrain samples from `transformer`, not from `{network}`")
        return self._matching.guided(self.transformer, prompts, guidance_scale=guidance_scale)

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def _text(self, batch: Batch) -> TextEmbeddings:
        return batch.text if batch.text is not None else self._matching.encode(batch.prompts)


def build(config: PretrainConfig, context: MethodContext) -> Pretrain:
    density = context.component("densities", config.density)
    loss = context.component("losses", config.loss)
    return Pretrain(config, context, density=density, loss=loss)
