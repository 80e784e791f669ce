"""What all methods that match velocities do the same way: records to latents, prompts and noise levels, and a network's velocity beside its target.

Every draw is keyed by the sample's index in the global batch: pre-training, fine-tuning, preference training and distillation built on this see the
same noise for the same seed, whatever the ranks and micro-batches are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ernie_core.errors import ConfigError, DataError
from ernie_core.flow.entries import TokenShiftConfig
from ernie_core.flow.path import interpolate, model_time, velocity_target
from ernie_core.flow.times import shift_for_tokens, shift_sigma
from ernie_core.model.layout import SequenceLayout
from ernie_core.rng import Draws, StepRng
from ernie_core.sampling.guidance import guided_velocity
from ernie_core.text.embeddings import TextEmbeddings
from ernie_core.text.truncation import FirstCutOnly
from ernie_core.train.encodings import Encodings, pixels_of

if TYPE_CHECKING:
    from ernie_core.plugins.hookspecs import MethodContext
    from ernie_core.train.method import Metrics, Part

VALIDATION_SIGMAS = tuple((i + 0.5) / 8 for i in range(8))


class FlowMatching:
    """
    Args:
        context: of the method; its codec and encoder do the encoding.
        density: inverse distribution function of sigma before the shift, ``u_B -> sigma_B``.
        shift: of the noise levels, by the number of image tokens.
    """

    def __init__(self, context: MethodContext, *, density: Callable[[Tensor], Tensor], shift: TokenShiftConfig) -> None:
        self.codec, self.encoder = context.codec, context.encoder
        self._device, self._dtype, self._encodings = context.device, context.dtype, context.encodings
        self._density, self._shift = density, shift
        self._cuts = FirstCutOnly()

    def latents(self, part: Part, rng: StepRng) -> Tensor:
        """Latents [B, C, h, w] in the compute type. No gradient."""
        return encode_pixels(part, self.codec, rng.at("posterior"), self._device, self._dtype, self._encodings)

    def prompts(self, part: Part, rng: StepRng, *, dropout: float = 0.0, styles: Mapping[str, float] | None = None) -> tuple[str, ...]:
        """One caption per sample: a style drawn evenly or by ``styles`` (weights by name), or "" with probability ``dropout``."""
        return draw_prompts(part, rng, dropout=dropout, styles=styles)

    def encode(self, prompts: Sequence[str]) -> TextEmbeddings:
        """What the encoder makes of prompts; a cut prompt is told once."""
        with self._cuts():
            return self.encoder.encode(prompts)

    def text(self, prompts: Sequence[str]) -> TextEmbeddings | None:
        """The same from the store of encodings where there is one; None if the encoder learns, so that the loss must encode."""
        if self.encoder.trainable:
            return None
        return self.encode(prompts) if self._encodings is None else self._encodings.text(prompts, self.encode, self._device)

    @torch.no_grad()
    def frozen_text(self, prompts: Sequence[str]) -> TextEmbeddings:
        """The same where the encoder could learn but does not."""
        stored = self.text(prompts)
        return self.encode(prompts) if stored is None else stored

    def sigmas(self, indices: Sequence[int], rng: StepRng, *, total: int, tokens: int) -> Tensor:
        """sigma_B, float32 on the CPU: stratified over the global batch of ``total``, shifted for pictures of ``tokens`` image tokens."""
        return self.sigmas_at(torch.from_numpy(rng.at("sigma").stratified(indices, total)), tokens=tokens)

    def sigmas_at(self, u_B: Tensor, *, tokens: int) -> Tensor:
        """The same for uniforms that were drawn elsewhere."""
        return shift_sigma(self._density(u_B), shift_for_tokens(self._shift, tokens)).float()

    def noise(self, draws: Draws, indices: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Standard normal noise [B, *shape], float32, on the device."""
        return torch.from_numpy(np.stack([draws.normal(index, tuple(shape)) for index in indices])).to(self._device)

    def predict(self, transformer: nn.Module, x0_BCHW: Tensor, noise_BCHW: Tensor, sigma_B: Tensor, text: TextEmbeddings) -> Tensor:
        """A network's velocity [B, C, h, w] at ``(1 - sigma) x0 + sigma noise``, in its own type."""
        sigma_B = sigma_B.to(x0_BCHW.device)
        x_t_BCHW = interpolate(x0_BCHW, noise_BCHW, sigma_B).to(x0_BCHW.dtype)
        layout = SequenceLayout.plan((x0_BCHW.shape[-2], x0_BCHW.shape[-1]), text.lens)
        time_B = model_time(sigma_B, torch.float32)  # continuous: only the deployed sampler rounds times to the model's type
        return transformer(x_t_BCHW, time_B, text.text_BTE.to(x0_BCHW.dtype), None, layout)

    def guided(self, transformer: nn.Module, prompts: Sequence[str], *, guidance_scale: float) -> Callable[[Tensor, float], Tensor]:
        """The guided velocity for these prompts, for sample grids."""
        return guided_velocity(transformer, self.encode(prompts), self.encode([""]), guidance_scale=guidance_scale)

    @torch.no_grad()
    def validate(self, transformer: nn.Module, x0_BCHW: Tensor, text: TextEmbeddings, indices: Sequence[int], rng: StepRng) -> Metrics:
        """Mean squared velocity error at sigma = (i + .5) / 8, i = 0 ... 7, each sample with one fixed noise: comparable across checkpoints and losses."""
        from ernie_core.train.method import Metrics

        metrics = Metrics()
        noise_BCHW = self.noise(rng.at("validation-noise"), indices, x0_BCHW.shape[1:])
        target = target_of(x0_BCHW, noise_BCHW)
        for sigma in VALIDATION_SIGMAS:
            velocity = self.predict(transformer, x0_BCHW, noise_BCHW, torch.full((len(indices),), sigma), text)
            error_B = (velocity.float() - target).square().flatten(1).mean(1)
            metrics.add_values(f"loss-sigma-{sigma:.4f}", error_B)
            metrics.add_values("loss", error_B)
        return metrics


def target_of(x0_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """The velocity that ``predict`` should give, float32."""
    return velocity_target(x0_BCHW.float(), noise_BCHW)


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


def draw_prompts(part: Part, rng: StepRng, *, dropout: float, styles: Mapping[str, float] | None = None) -> tuple[str, ...]:
    """See ``FlowMatching.prompts``.

    Raises:
        DataError: a record has no caption, or none in a style that has a weight.
    """
    style, dropped = rng.at("caption-style"), rng.at("caption-dropout")
    prompts = []
    for record, index in zip(part.records, part.indices, strict=True):
        names = sorted(record.captions)
        if not names:
            raise DataError(f"record `{record.key}` has no caption; a data source must give at least one (it may be empty)")
        if styles is None:
            chosen = names[style.integer(index, len(names))]
        else:
            chosen = _weighted(names, styles, style.uniform(index), record.key)
        prompts.append("" if dropped.uniform(index) < dropout else record.captions[chosen])
    return tuple(prompts)


def check_styles(styles: Mapping[str, float]) -> None:
    """
    Raises:
        ConfigError: no weight is above 0, or one is no weight.
    """
    if wrong := [name for name, weight in styles.items() if not (weight >= 0 and math.isfinite(weight))]:
        raise ConfigError(f"caption styles: the weight of `{wrong[0]}` is {styles[wrong[0]]}, expected a number >= 0")
    if not sum(styles.values()) > 0:
        raise ConfigError("caption styles: no style has a weight above 0")


def _weighted(names: Sequence[str], styles: Mapping[str, float], u: float, key: str) -> str:
    weights = np.cumsum([styles.get(name, 0.0) for name in names])
    if not weights[-1] > 0:
        raise DataError(f"record `{key}` has captions of the styles {', '.join(names)}, none of which has a weight: {', '.join(styles)}")
    return names[int(np.searchsorted(weights, u * weights[-1], side="right"))]
