"""Pictures at the two ends of sampling: the noises a user's seed stands for, and pixels as files."""

from __future__ import annotations

import io as memory
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ernie_core import io
from ernie_core.rng import Rng
from ernie_core.sampling.samplers import NoiseFn


def user_noise(seed: int, count: int, shape_CHW: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Start noise [B, C, h, w] of ``--seed``: picture i is drawn from a generator seeded with seed + i, in ``dtype``.

    The one place outside ``ernie_core.rng`` that draws numbers: it equals diffusers given a list of such generators.
    """
    draws = [torch.randn(1, *shape_CHW, generator=torch.Generator("cpu").manual_seed(seed + i), dtype=dtype) for i in range(count)]
    return torch.cat(draws)


def fresh_noise(seed: int, count: int, shape_CHW: Sequence[int], device: torch.device | str) -> NoiseFn:
    """``noise_fn(index) -> [B, C, h, w]`` for samplers that draw: float32 standard normals, another draw for each interval ``index``.

    Picture i's depend on seed + i alone, as its start noise does, so that it is the same in any batch. They are counter-based (``ernie_core.rng``): no other
    program's numbers have to be met here.
    """

    def noise_fn(index: int) -> Tensor:
        draws = [Rng(seed + i).at("sample/fresh-noise", index).normal(0, shape_CHW) for i in range(count)]
        return torch.from_numpy(np.stack(draws)).to(device)

    return noise_fn


def to_uint8(pixels_B3HW: torch.Tensor) -> NDArray[np.uint8]:
    """Pixels in [-1, 1] to uint8 [B, H, W, 3], rounded to nearest as the released pipeline does."""
    return ((pixels_B3HW.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def grid(pictures_BHW3: NDArray[np.uint8], *, columns: int | None = None, gap_px: int = 2) -> NDArray[np.uint8]:
    """Pictures side by side on white, about as wide as high unless ``columns`` says otherwise."""
    count, height, width, _ = pictures_BHW3.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3), 255, np.uint8)
    for i, picture in enumerate(pictures_BHW3):
        y, x = divmod(i, columns)
        sheet[y * (height + gap_px) : y * (height + gap_px) + height, x * (width + gap_px) : x * (width + gap_px) + width] = picture
    return sheet


def write_png(path: Path, picture_HW3: NDArray[np.uint8]) -> None:
    from PIL import Image

    buffer = memory.BytesIO()
    Image.fromarray(picture_HW3).save(buffer, "PNG")
    io.write_bytes(path, buffer.getvalue())
