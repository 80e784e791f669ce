"""Weighted order without replacement, for passes that show each picture at most once.

Efraimidis and Spirakis 2006: keys u^(1/w) in falling order are the order in which successive draws without replacement, each in proportion to the
weights that are left, would take them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ernie_core.api import DataError


def weighted_order(weights_N: ArrayLike, uniforms_N: ArrayLike, *, count: int) -> NDArray[np.int64]:
    """The first ``count`` of N outcomes; a pure function of the uniform numbers in [0, 1).

    Raises:
        DataError: fewer than ``count`` weights are positive, or one is negative or not finite.
    """
    weight, uniform = np.asarray(weights_N, np.float64), np.asarray(uniforms_N, np.float64)
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise DataError("weights must be finite numbers >= 0")
    positive = int(np.count_nonzero(weight))
    if count > positive:
        raise DataError(f"{count} are to be drawn without replacement, and {positive} have a positive weight")
    # log(u) / w in place of u^(1/w), which is 0 for small weights; 1 - u lies in (0, 1].
    key = np.full(weight.shape, -np.inf)
    np.divide(np.log1p(-uniform), weight, out=key, where=weight > 0)
    return np.argsort(-key, kind="stable")[:count]
