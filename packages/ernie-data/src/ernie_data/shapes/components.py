"""Connected components of many small masks at once, in plain numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_NONE = np.iinfo(np.int32).max


def connected_components(mask_BHW: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Label 8-connected components of each mask: 0 outside, otherwise 1 + the index (row-major) of the component's first pixel.

    Every label is the minimum over its component. Rows are swept down and up and columns right and left until nothing changes, so that a
    convex component costs one round and any other a few.
    """
    _, h, w = mask_BHW.shape
    labels = np.where(mask_BHW, np.arange(1, h * w + 1, dtype=np.int32).reshape(1, h, w), _NONE)
    while True:
        before = labels.copy()
        for lines, count in ((labels, h), (labels.transpose(0, 2, 1), w)):
            inside = lines != _NONE
            for order in (range(1, count), range(count - 2, -1, -1)):
                step = 1 if order.step > 0 else -1
                for i in order:
                    lines[:, i] = np.where(inside[:, i], np.minimum(lines[:, i], _spread(lines[:, i - step])), _NONE)
        if np.array_equal(before, labels):
            return np.where(labels == _NONE, 0, labels)


def _spread(line_BW: NDArray[np.int32]) -> NDArray[np.int32]:
    """The minimum of each pixel and its left and right neighbours."""
    low = line_BW.copy()
    np.minimum(low[:, 1:], line_BW[:, :-1], out=low[:, 1:])
    np.minimum(low[:, :-1], line_BW[:, 1:], out=low[:, :-1])
    return low


def grow(labels_BHW: NDArray[np.int32], *, rounds: int) -> NDArray[np.int32]:
    """Give unlabelled pixels the label of a neighbour, ``rounds`` times; where several compete the largest label wins."""
    grown = labels_BHW
    for _ in range(rounds):
        padded = np.pad(grown, ((0, 0), (1, 1), (1, 1)))
        h, w = grown.shape[1:]
        around = np.max([padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=0)
        grown = np.where(grown == 0, around, grown)
    return grown
