"""The aspect buckets of many pictures at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def nearest_buckets(width_N: ArrayLike, height_N: ArrayLike, sizes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Number of each picture's bucket: what ``ernie_data.buckets.nearest_bucket`` gives for one."""
    order = sorted(range(len(sizes)), key=lambda b: (round(abs(math.log(sizes[b][0] / sizes[b][1])), 9), -sizes[b][0]))
    aspect_B = np.array([math.log(sizes[b][0] / sizes[b][1]) for b in order])
    aspect_N = np.log(np.asarray(width_N, np.float64) / np.asarray(height_N, np.float64))
    distance_NB = np.abs(aspect_B - aspect_N[:, None]).round(9)
    return np.array(order, np.int64)[distance_NB.argmin(1)]  # of equally near ones the first in the order of preference
