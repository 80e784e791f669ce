"""Aspect buckets: the picture sizes of one resolution stage, and which of them a picture belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from ernie_core.api import ConfigError

AREA_TOLERANCE = 0.05
"""A bucket's area lies within this share of ``size_px`` squared."""


@lru_cache(maxsize=64)
def bucket_sizes(size_px: int, *, multiple_px: int, max_aspect: float) -> tuple[tuple[int, int], ...]:
    """All (width, height) with sides that are multiples of ``multiple_px``, an area within 5 % of ``size_px`` squared and a ratio of the longer
    to the shorter side of at most ``max_aspect``, by growing width. One size per shape: of several with one width, the one nearest in area.

    Raises:
        ConfigError: there is none, naming the nearest stage sizes that work.
    """
    target = size_px * size_px
    sizes = []
    for width in range(multiple_px, int(size_px * math.sqrt(max_aspect) * (1 + AREA_TOLERANCE)) + multiple_px, multiple_px):
        low = target / width // multiple_px * multiple_px
        heights = [int(h) for h in (low, low + multiple_px) if h >= multiple_px]
        fits = [h for h in heights if abs(width * h - target) <= AREA_TOLERANCE * target and max(width / h, h / width) <= max_aspect]
        if fits:
            sizes.append((width, min(fits, key=lambda h: (abs(width * h - target), h))))
    if not sizes:
        below, above = max(size_px // multiple_px, 1) * multiple_px, (size_px // multiple_px + 1) * multiple_px
        raise ConfigError(
            f"stage size_px = {size_px}: no picture size has sides that are multiples of {multiple_px} px (from the codec) and an area within "
            f"{AREA_TOLERANCE:.0%} of {size_px} x {size_px}; try size_px = {' or '.join(str(s) for s in sorted({below, above}))}"
        )
    return tuple(sizes)


def nearest_bucket(width_px: int, height_px: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose aspect ratio is nearest on a log scale; of two equally near, the squarer one, then the wider one."""
    aspect = math.log(width_px / height_px)
    return min(sizes, key=lambda s: (round(abs(math.log(s[0] / s[1]) - aspect), 9), round(abs(math.log(s[0] / s[1])), 9), -s[0]))


def crop_box(width_px: int, height_px: int, bucket: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest centred part (left, top, right, bottom) of a picture with the bucket's aspect ratio. Resizing it to the bucket equals resizing
    the picture to cover the bucket and cropping the centre, without rounding in between.
    """
    width, height = bucket
    scale = min(width_px / width, height_px / height)
    box_width, box_height = min(width * scale, width_px), min(height * scale, height_px)
    left, top = (width_px - box_width) / 2, (height_px - box_height) / 2
    return left, top, left + box_width, top + box_height
