"""What core offers as image codecs, with their config structs. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from ernie_core.config.base import Config, Positive, PositiveInt
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import hookimpl


class Flux2Config(Config):
    """The VAE of a released pipeline (diffusers' AutoencoderKLFlux2)."""

    path: str
    """A pipeline folder or its ``vae`` folder."""
    eps: Positive = 1e-5
    """Added to the latent variance. ERNIE-Image was trained and is decoded with 1e-5, although the VAE's own config says 1e-4."""
    posterior: Literal["sample", "mode"] = "sample"
    """Train on draws from the VAE's posterior or on its mode."""


class PixelConfig(Config):
    """No VAE: squares of ``patch`` x ``patch`` pixels are the tokens. Lossless."""

    patch: PositiveInt = 4
    scale: Positive = 1.0
    """Latents are pixels in [-1, 1] times this; choose it so that they have a standard deviation near 1."""


@hookimpl
def ernie_register_codecs() -> Iterable[Entry]:
    yield Entry("flux2", "the FLUX.2 VAE of a released pipeline", Flux2Config, "ernie_core.latent.flux2:build_flux2")
    yield Entry("pixel", "pixels themselves, space to depth", PixelConfig, "ernie_core.latent.pixel:build_pixel")
