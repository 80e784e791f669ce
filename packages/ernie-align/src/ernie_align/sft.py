r"""Supervised fine-tuning: flow matching from trained weights, all of them or an adapter, with an optional pull towards where it started.

    loss = w_domain ( |v - (noise - x0)|^2 + anchor |v - v_base|^2 ),   both means over a sample's elements

The anchor is a squared distance of velocities on the training samples: what the base model knows beyond them it preserves only as far as they reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ernie_align.method_config import SftConfig
from ernie_align.tuning import Tuning
from ernie_core.api import DataError, Metrics, Network, Part, Record, Turn
from ernie_core.flow.losses import mse
from ernie_core.flow.matching import FlowMatching, TextEmbeddings, target_of
from ernie_core.rng import StepRng

if TYPE_CHECKING:
    from ernie_core.api import MethodContext


@dataclass(frozen=True)
class Batch:
    """``latents_BCHW`` in the compute type; ``factor_B`` by domain, float32; ``indices`` are places in the global batch of ``total`` samples."""

    latents_BCHW: Tensor
    text: TextEmbeddings
    factor_B: Tensor
    indices: tuple[int, ...]
    total: int


class Sft:
    """See ``ernie_core.train.method.Method`` for the meaning of each method."""

    def __init__(
        self, config: SftConfig, context: MethodContext, *, density: Callable[[Tensor], Tensor], loss: Callable[..., Tensor]
    ) -> None:
        self._config, self._loss = config, loss
        self._matching = FlowMatching(context, density=density, shift=config.shift)
        self._tuning = Tuning(context, self._matching, config.adapter, method="sft")
        self._policy = self._tuning.policy
        self._factors = config.loss_factors()
        self._copy: nn.Module | None = context.make_transformer() if config.anchor and config.adapter is None else None

    def networks(self) -> Sequence[Network]:
        copy = [] if self._copy is None else [Network("base", self._copy, trained=False)]
        return [*self._tuning.networks(), *copy]

    def deployed(self) -> Mapping[str, str]:
        return self._tuning.deployed()

    def turn(self, step: int) -> Turn:
        return Turn("sft", self._policy.trains)

    def prepare(self, part: Part, rng: StepRng) -> Batch:
        prompts = self._matching.prompts(part, rng, dropout=self._config.caption_dropout, styles=self._config.styles or None)
        factor_B = torch.tensor([self._factor(record) for record in part.records], dtype=torch.float32)
        return Batch(self._matching.latents(part, rng), self._tuning.text(prompts), factor_B, tuple(part.indices), part.stage.batch_size)

    def loss(self, batch: Batch, turn: Turn, rng: StepRng) -> tuple[Tensor, Metrics]:
        x0_BCHW, metrics = batch.latents_BCHW, Metrics()
        tokens = x0_BCHW.shape[-2] * x0_BCHW.shape[-1]
        sigma_B = self._matching.sigmas(batch.indices, rng, total=batch.total, tokens=tokens)
        noise_BCHW = self._matching.noise(rng.at("noise"), batch.indices, x0_BCHW.shape[1:])
        velocity = self._matching.predict(self._policy.transformer, x0_BCHW, noise_BCHW, sigma_B, batch.text)
        loss_B = self._loss(velocity, target_of(x0_BCHW, noise_BCHW), sigma_B.to(x0_BCHW.device))
        metrics.add_values("sft/flow", loss_B)
        if self._config.anchor:
            with torch.no_grad(), self._base() as base:
                before = self._matching.predict(base, x0_BCHW, noise_BCHW, sigma_B, batch.text)
            away_B = mse(velocity, before, sigma_B)
            metrics.add_values("sft/anchor", away_B)
            loss_B = loss_B + self._config.anchor * away_B
        loss_B = loss_B * batch.factor_B.to(loss_B)
        metrics.add_values("loss", loss_B)
        metrics.add("tokens", float(len(batch.indices) * tokens + sum(batch.text.lens)), float(len(batch.indices)))
        return loss_B.sum(), metrics

    def after_step(self, turn: Turn, step: int) -> None:
        pass

    @torch.no_grad()
    def validate(self, batch: Batch, rng: StepRng) -> Metrics:
        return self._matching.validate(self._policy.transformer, batch.latents_BCHW, batch.text, batch.indices, rng)

    def velocity_fn(self, network: str, prompts: Sequence[str], *, guidance_scale: float) -> Callable[[Tensor, float], Tensor]:
        return self._tuning.velocity_fn(network, prompts, guidance_scale=guidance_scale)

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def describe(self) -> Sequence[str]:
        lines = [f"sft: {'all weights' if self._config.adapter is None else f'an adapter of rank {self._config.adapter.rank}'}"]
        if self._config.anchor:
            lines.append(f"anchor: {self._config.anchor:g} x mean squared distance to the velocity of the initial weights")
        if self._factors:
            lines.append("loss factors by domain: " + ", ".join(f"{name} {factor:.3g}" for name, factor in sorted(self._factors.items())))
        return lines

    @contextmanager
    def _base(self) -> Iterator[nn.Module]:
        """What training started from."""
        if self._copy is not None:
            yield self._copy
        else:
            with self._policy.base() as base:
                yield base

    def _factor(self, record: Record) -> float:
        if self._factors and record.category not in self._factors:
            found = f"is of category `{record.category}`" if record.category else "has no category"
            raise DataError(f"record `{record.key}` {found}, but method.domain_weights knows only {', '.join(sorted(self._factors))}")
        return self._factors.get(record.category, 1.0)


def build(config: SftConfig, context: MethodContext) -> Sft:
    density = context.component("densities", config.density)
    loss = context.component("losses", config.loss)
    return Sft(config, context, density=density, loss=loss)
