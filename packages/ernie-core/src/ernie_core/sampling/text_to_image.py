"""``Pipeline``: prompts to pictures with one model, its codec, its prompt encoder and its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ernie_core.errors import ConfigError
from ernie_core.latent.packing import check_divisible
from ernie_core.sampling.fixed import DEFAULT_SAMPLER, refusals
from ernie_core.sampling.guidance import guided_velocity
from ernie_core.sampling.pictures import fresh_noise, to_uint8, user_noise
from ernie_core.sampling.samplers import NoiseFn, OnStep, Sampler, euler
from ernie_core.sampling.schedule import inference_sigmas
from ernie_core.text.embeddings import TextEmbeddings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ernie_core.train.method import FixedSampling


@dataclass(frozen=True)
class SampleDefaults:
    """What is used where the user says nothing. ``size_px`` is width, height."""

    size_px: tuple[int, int] = (1024, 1024)
    steps: int = 50
    guidance_scale: float = 4.0
    sampler: str = DEFAULT_SAMPLER


@dataclass(frozen=True)
class Pipeline:
    """Everything needed for pictures.

    Args:
        transformer: the velocity model; its parameters' dtype and device are those of the computation.
        codec: pixels <-> latents.
        encoder: prompts -> ``TextEmbeddings``.
        shift: of the inference schedule, as the checkpoint says.
        latent_dtype: "model" keeps the sampler's state in the transformer's dtype, as the released pipeline does; "float32" avoids its rounding.
        defaults: what ``ernie sample`` uses where no option is given.
        fixed: how the model must be sampled, where its method says so. Other steps or guidance are refused; who studies them all the same replaces this
            by None.
    """

    transformer: nn.Module
    codec: Any
    encoder: Any
    shift: float
    latent_dtype: Literal["model", "float32"] = "model"
    defaults: SampleDefaults = SampleDefaults()
    fixed: FixedSampling | None = None

    def sample(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        steps: int,
        guidance_scale: float,
        size_px: tuple[int, int],
        sampler: Sampler = euler,
        on_step: OnStep | None = None,
    ) -> NDArray[np.uint8]:
        """One picture per prompt, uint8 [B, H, W, 3].

        Picture i starts from the noise of seed ``seed + i``, and what a sampler draws on the way hangs on that seed too: the picture is the same in any
        batch, up to rounding.

        Args:
            size_px: width, height.

        Raises:
            DataError: a size the codec cannot cut into whole tokens.
            ConfigError: no steps, or steps or guidance that the model must not be sampled with.
        """
        self._refuse(steps, guidance_scale)  # before anything is encoded
        noise_BCHW = self.noise(len(prompts), seed=seed, size_px=size_px)
        latents_BCHW = self.sample_latents(
            self.encode(prompts, guidance_scale=guidance_scale),
            noise_BCHW=noise_BCHW,
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            noise_fn=fresh_noise(seed, len(prompts), noise_BCHW.shape[1:], noise_BCHW.device),
            on_step=on_step,
        )
        return self.decode(latents_BCHW)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, guidance_scale: float) -> tuple[TextEmbeddings, TextEmbeddings | None]:
        """Embeddings of the prompts, each distinct one encoded once, and of "" if there is guidance."""
        distinct = list(dict.fromkeys(prompts))
        cond = self.encoder.encode(distinct).rows([distinct.index(prompt) for prompt in prompts])
        return cond, self.encoder.encode([""]) if guidance_scale > 1 else None

    def noise(self, count: int, *, seed: int, size_px: tuple[int, int]) -> Tensor:
        """Start noise [B, C, h, w] in the transformer's dtype; picture i's comes from ``torch.Generator("cpu").manual_seed(seed + i)``.

        It is drawn in that dtype, which in bfloat16 gives other numbers than float32: so diffusers draws, given a list of such generators.
        """
        width, height = size_px
        per_token = self.codec.pixels_per_token
        check_divisible(height, width, per_token)
        parameter = next(self.transformer.parameters())
        shape_CHW = (self.codec.channels, height // per_token, width // per_token)
        return user_noise(seed, count, shape_CHW, parameter.dtype).to(parameter.device)

    @torch.no_grad()
    def sample_latents(
        self,
        text: tuple[TextEmbeddings, TextEmbeddings | None],
        *,
        noise_BCHW: Tensor,
        steps: int,
        guidance_scale: float,
        sampler: Sampler = euler,
        noise_fn: NoiseFn | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Latents for encoded prompts (see ``encode``) from given noise. A sampler that draws needs ``noise_fn`` (``pictures.fresh_noise``)."""
        self._refuse(steps, guidance_scale)
        cond, uncond = (None if t is None else t.to(device=noise_BCHW.device) for t in text)
        velocity_fn = guided_velocity(self.transformer, cond, uncond, guidance_scale)
        start = noise_BCHW.float() if self.latent_dtype == "float32" else noise_BCHW
        return sampler(velocity_fn, start, inference_sigmas(steps, self.shift), noise_fn=noise_fn, on_step=on_step)

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> NDArray[np.uint8]:
        """Pictures [B, H, W, 3], decoded one at a time to bound memory."""
        return np.concatenate([to_uint8(self.codec.decode(latents)) for latents in latents_BCHW.split(1)])

    def _refuse(self, steps: int, guidance_scale: float) -> None:
        if self.fixed is None:
            return
        if wrong := refusals(self.fixed, steps=steps, guidance_scale=guidance_scale, names=("steps", "guidance_scale")):
            raise ConfigError("; ".join(reason for _, reason in wrong))
