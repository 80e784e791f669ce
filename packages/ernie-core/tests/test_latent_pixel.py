"""Packing and the pixel codec: invertible, in the released channel order."""

import pytest
import torch

from ernie_core.errors import DataError
from ernie_core.latent.entries import PixelConfig
from ernie_core.latent.packing import pack, unpack
from ernie_core.latent.pixel import build_pixel
from ernie_core.plugins.hookspecs import CodecContext

CONTEXT = CodecContext(torch.device("cpu"), torch.float32)


def test_packed_channels_are_channel_then_row_then_column():
    B, C, H, W = 2, 3, 4, 6
    ids = torch.arange(B * C * H * W).reshape(B, C, H, W)
    packed = pack(ids, 2)
    for c in range(C):
        for row in range(2):
            for column in range(2):
                assert torch.equal(packed[:, c * 4 + row * 2 + column], ids[:, c, row::2, column::2])


@pytest.mark.parametrize("patch", [1, 2, 3, 8])
def test_unpack_inverts_pack_bit_for_bit(patch):
    x = torch.randn(2, 5, 24, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack(pack(x, patch), patch), x)
    assert pack(x, patch).shape == (2, 5 * patch**2, 24 // patch, 48 // patch)


def test_packing_equals_the_reference_pipelines():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference")
    x = torch.randn(2, 4, 6, 10)
    assert torch.equal(pack(x, 2), diffusers.ErnieImagePipeline._patchify_latents(x))
    assert torch.equal(unpack(pack(x, 2), 2), x)


@pytest.mark.parametrize(("patch", "scale"), [(4, 1.0), (2, 2.0), (8, 0.5)])
def test_the_pixel_codec_is_lossless(patch, scale):
    codec = build_pixel(PixelConfig(patch=patch, scale=scale), CONTEXT)
    pixels = torch.arange(3 * 16 * 32).reshape(1, 3, 16, 32) % 256 / 127.5 - 1
    latents = codec.encode(pixels)
    assert latents.shape == (1, codec.channels, 16 // patch, 32 // patch)
    assert codec.pixels_per_token == patch
    assert torch.equal(codec.decode(latents), pixels)
    assert torch.equal(codec.encode(pixels, noise_BCHW=torch.randn_like(latents)), latents)
    assert not codec.posterior_noise


@pytest.mark.parametrize(("height", "width", "nearest"), [(30, 32, "32x32"), (32, 2, "4x32"), (33, 35, "36x32")])
def test_sizes_that_do_not_divide_are_refused_with_the_nearest_that_do(height, width, nearest):
    codec = build_pixel(PixelConfig(patch=4), CONTEXT)
    message = f"picture size {width}x{height}: width and height must be multiples of 4 pixels; the nearest is {nearest}"
    with pytest.raises(DataError, match=message):
        codec.encode(torch.zeros(1, 3, height, width))
