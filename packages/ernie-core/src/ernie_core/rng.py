"""Counter-based random numbers: a draw is a pure function of (seed, stream, step, index in the global batch).

Rank, worker, micro-step and world size never enter, so a run is bitwise the same after a kill and on another number of ranks.
Numbers come from numpy's Philox 4x64 (Salmon et al. 2011) on the CPU in float32; the caller moves them, so that every device sees the same.

One exception, on purpose: noise for a user's ``ernie sample --seed S`` is drawn with ``torch.Generator("cpu").manual_seed(S + i)`` by
``ernie_core.sampling.pipeline``, which equals what diffusers draws from a list of such generators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Draws:
    """Draws of one stream at one step. ``index`` is the sample's place in the global batch."""

    key: tuple[int, int]
    step: int

    def generator(self, index: int) -> np.random.Generator:
        """A fresh generator for one sample, for draws that the methods below do not cover."""
        return np.random.Generator(
            np.random.Philox(key=np.array(self.key, np.uint64), counter=np.array([0, 0, index, self.step], np.uint64))
        )

    def normal(self, index: int, shape: Sequence[int]) -> NDArray[np.float32]:
        return self.generator(index).standard_normal(tuple(shape), dtype=np.float32)

    def uniform(self, index: int, shape: Sequence[int] = ()) -> NDArray[np.float32]:
        """Uniform on [0, 1)."""
        return np.asarray(self.generator(index).random(tuple(shape), dtype=np.float32))

    def integer(self, index: int, high: int) -> int:
        """Uniform on {0, ..., high - 1}."""
        return int(self.generator(index).integers(high))

    def stratified(self, indices: Sequence[int], total: int) -> NDArray[np.float64]:
        """Stratified uniforms ``u_i = frac((i + r) / total)``, with one ``r`` uniform on [0, total) per step.

        Together they fill [0, 1) evenly, one in each interval of length 1 / total up to a common shift; and since r covers the whole circle, each
        index is uniform by itself, so that nothing that depends on a sample's place in the batch is tied to a part of [0, 1).
        """
        r = total * self.generator(2**32).random()
        return np.mod((np.asarray(indices, np.float64) + r) / total, 1.0)


@dataclass(frozen=True)
class StepRng:
    """All streams at one step; what ``Method.prepare`` and ``Method.loss`` receive."""

    seed: int
    step: int

    def at(self, stream: str) -> Draws:
        return Rng(self.seed).at(stream, self.step)


@dataclass(frozen=True)
class Rng:
    """The run's source of randomness. ``seed`` may be any integer."""

    seed: int

    def at(self, stream: str, step: int) -> Draws:
        digest = hashlib.blake2b(f"{self.seed}\0{stream}".encode(), digest_size=16).digest()
        return Draws((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")), step)

    def step(self, step: int) -> StepRng:
        return StepRng(self.seed, step)
