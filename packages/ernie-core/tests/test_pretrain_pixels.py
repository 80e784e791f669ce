"""From a record's pixels to the latents that pre-training learns from."""

import numpy as np
import pytest
import torch

from ernie_core.flow.matching import encode_pixels
from ernie_core.latent.entries import PixelConfig
from ernie_core.latent.pixel import PixelCodec
from ernie_core.plugins.hookspecs import CodecContext
from ernie_core.records import Record, Stage
from ernie_core.rng import Rng
from ernie_core.train.method import Part

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_are_rounded_once_whatever_the_compute_type(dtype):
    """Every grey level; taken in bfloat16, (255 / 127.5) - 1 and its neighbours come out up to half a level off."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    part = Part([Record("a", pixels, {"": ""}, (16, 16))], [0], Stage(size_px=16, steps=1, batch_size=1))
    codec = PixelCodec(PixelConfig(patch=4), CodecContext(CPU, dtype))
    latents_BCHW = encode_pixels(part, codec, Rng(0).at("posterior", 0), CPU, dtype)
    exact_BCHW = codec.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None].double() / 127.5 - 1)
    assert latents_BCHW.dtype == dtype
    assert torch.allclose(latents_BCHW.double(), exact_BCHW.double(), rtol=2**-8, atol=1e-6)
