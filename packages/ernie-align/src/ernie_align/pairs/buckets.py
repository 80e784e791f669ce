"""The size at which a pair is trained in a stage."""

from __future__ import annotations

import math

from ernie_core.api import ConfigError

AREA_TOLERANCE = 0.25
MAX_ASPECT = 4.0


def bucket_of(width_px: int, height_px: int, *, size_px: int, multiple_px: int) -> tuple[int, int]:
    """The (width, height) with sides that are multiples of ``multiple_px`` which is nearest to the picture's aspect ratio and to an area of ``size_px``
    squared, on a log scale where the ratio counts twice, since it costs cropping. Ratios beyond 4 : 1 are cropped to it. A square at a size that is a
    multiple stays exactly that.

    Raises:
        ConfigError: no such size has an area within 25 % of the stage's; names sizes that have.
    """
    aspect = min(max(width_px / height_px, 1 / MAX_ASPECT), MAX_ASPECT)
    ideal = size_px * math.sqrt(aspect), size_px / math.sqrt(aspect)
    sides = [{max(1, math.floor(side / multiple_px)) * multiple_px, (math.floor(side / multiple_px) + 1) * multiple_px} for side in ideal]

    def distance(size: tuple[int, int]) -> tuple[float, tuple[int, int]]:
        shape, area = math.log(size[0] / size[1] / aspect), math.log(size[0] * size[1] / size_px**2)
        return round(2 * abs(shape) + abs(area), 9), size

    best = min(((w, h) for w in sides[0] for h in sides[1]), key=distance)
    if not 1 - AREA_TOLERANCE <= best[0] * best[1] / size_px**2 <= 1 + AREA_TOLERANCE:
        near = sorted({max(size_px // multiple_px, 1) * multiple_px, (size_px // multiple_px + 1) * multiple_px})
        raise ConfigError(
            f"stage size_px = {size_px}: no size for pairs of {width_px} x {height_px} px has sides that are multiples of {multiple_px} px (from the codec) "
            f"and an area within {AREA_TOLERANCE:.0%} of {size_px} x {size_px}; try size_px = {' or '.join(map(str, near))}"
        )
    return best
