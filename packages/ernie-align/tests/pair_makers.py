"""Pairs of plain pictures for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ernie_align.pairs.pair import NewPair, NewPicture
from ernie_align.pairs.pictures import png
from ernie_align.pairs.writer import write_pairs


def picture(number: int, *, size_px: tuple[int, int] = (32, 32)) -> NDArray[np.uint8]:
    """Noise that is another one for each number."""
    width, height = size_px
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def new_pair(number: int, *, size_px: tuple[int, int] = (32, 32), **changes: object) -> NewPair:
    """Pair ``number``: pictures 2 n and 2 n + 1, margin n + 1."""
    winner, loser = (NewPicture(png(picture(2 * number + side, size_px=size_px)), f"picture {2 * number + side}") for side in (0, 1))
    pair = NewPair(f"prompt {number}", winner, loser, number + 1.0, "tester", "made up")
    return replace(pair, **changes)


def pair_folder(out: Path, pairs: Sequence[NewPair]) -> Path:
    with write_pairs(out) as writer:
        for pair in pairs:
            assert writer.add(pair), writer.counts()
    return out
