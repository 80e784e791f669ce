"""The ``pixel`` codec: latents are the pixels themselves, rearranged. Invertible, deterministic, without weights."""

from __future__ import annotations

from torch import Tensor

from ernie_core.latent.entries import PixelConfig
from ernie_core.latent.packing import check_divisible, pack, unpack
from ernie_core.plugins.hookspecs import CodecContext


class PixelCodec:
    """Pixels [B, 3, H, W] in [-1, 1] <-> latents [B, 3 patch^2, H / patch, W / patch].

    ``channels``: C of a latent. ``pixels_per_token``: picture sides must be multiples of it. ``posterior_noise``: encoding draws nothing.
    """

    posterior_noise = False

    def __init__(self, config: PixelConfig, context: CodecContext) -> None:
        self.config = config
        self.device = context.device
        self.channels = 3 * config.patch**2
        self.pixels_per_token = config.patch

    def encode(self, pixels_B3HW: Tensor, *, noise_BCHW: Tensor | None = None) -> Tensor:
        """Latents, float32. ``noise_BCHW`` is ignored: there is no posterior."""
        check_divisible(*pixels_B3HW.shape[2:], self.pixels_per_token)
        return pack(pixels_B3HW.to(self.device).float() * self.config.scale, self.config.patch)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Pixels, float32, not clamped."""
        return unpack(latents_BCHW.float() / self.config.scale, self.config.patch)


def build_pixel(config: PixelConfig, context: CodecContext) -> PixelCodec:
    return PixelCodec(config, context)
