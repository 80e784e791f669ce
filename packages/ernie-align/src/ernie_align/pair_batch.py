r"""Preference pairs as tensors, with what the two pictures of a pair share: prompt, noise, noise level and the codec's posterior noise.

Draws are keyed in one of two ways:

* by step and place in the global batch, as everywhere: every step sees new noise, noise levels are stratified over the batch;
* with ``draws_per_pair`` K > 0, by the pair's number and k in 0 ... K - 1, k drawn at each step: then the reference's error on (pair, k) is a constant that
  can be kept. The K noise levels of a pair are stratified, u_k = frac((k + r) / K) with r uniform on [0, K); its caption and posterior noise are drawn once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ernie_align.pairs.record import PairRecord
from ernie_align.tuning import Tuning
from ernie_core.api import DataError, Part, Record
from ernie_core.flow.matching import TextEmbeddings
from ernie_core.rng import Rng, StepRng

KEYED_STEP = 1 << 62  # no run gets there: draws keyed by pairs do not meet those of a step


@dataclass(frozen=True)
class PairKey:
    """Decides about a pair's latents, noise and noise level. ``content`` is a hash of both pictures and the prompt."""

    pair_id: int
    draw: int
    size_px: tuple[int, int]
    content: bytes


@dataclass(frozen=True)
class PairBatch:
    """B pairs.

    Attributes:
        latents_2BCHW: the chosen pictures, then the rejected ones in the same order, in the compute type.
        text: of 2B rows: both pictures of a pair have its prompt.
        indices: places in the global batch of ``total`` pairs.
        elements: see ``PairError``.
        keys: one per pair where draws are keyed by pairs, else none.
    """

    latents_2BCHW: Tensor
    text: TextEmbeddings
    indices: tuple[int, ...]
    total: int
    elements: int
    keys: tuple[PairKey, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)


class PairReader:
    """
    Args:
        styles: see ``DpoConfig``.
        draws_per_pair: 0 keys draws by step and place.
        seed: of draws that are keyed by pairs.
    """

    def __init__(self, tuning: Tuning, *, styles: Mapping[str, float], draws_per_pair: int, seed: int) -> None:
        self._tuning, self._matching = tuning, tuning.matching
        self._styles, self._draws, self._seed = dict(styles) or None, draws_per_pair, seed

    def read(self, part: Part, rng: StepRng, *, draws: Sequence[int] | None = None) -> PairBatch:
        """
        Args:
            draws: k of each pair, where it is not to be drawn.

        Raises:
            DataError: a record that is no pair, or a pair that cannot be learnt from.
        """
        pairs = [checked_pair(record) for record in part.records]
        indices = tuple(part.indices)
        keyed = Part(pairs, tuple(pair.pair_id for pair in pairs), part.stage) if self._draws else part
        source = StepRng(self._seed, KEYED_STEP) if self._draws else rng
        prompts = self._matching.prompts(keyed, source, styles=self._styles)
        for pair, prompt in zip(pairs, prompts, strict=True):
            if not prompt.strip():
                raise DataError(f"pair `{pair.key}` has no prompt: without one there is nothing that its pictures are compared by")
        losers = [replace(pair, pixels=pair.lose_pixels, pixels_id=pair.lose_pixels_id) for pair in pairs]
        latents_2BCHW = self._matching.latents(Part([*pairs, *losers], (*keyed.indices, *keyed.indices), part.stage), source)
        text = self._tuning.text(prompts)
        codec = self._matching.codec
        keys: tuple[PairKey, ...] = ()
        if self._draws:
            numbers = draws_at(indices, rng, self._draws) if draws is None else draws
            keys = tuple(
                PairKey(pair.pair_id, number, pair.bucket, content_of(pair, prompt))
                for pair, number, prompt in zip(pairs, numbers, prompts, strict=True)
            )
        return PairBatch(
            latents_2BCHW,
            text.rows([*range(len(pairs)), *range(len(pairs))]),
            indices,
            part.stage.batch_size,
            elements_of(codec, part.stage.size_px),
            keys,
        )

    def noise(self, batch: PairBatch, rng: StepRng) -> tuple[Tensor, Tensor]:
        """noise_BCHW on the device and sigma_B on the CPU, float32, one of each per pair."""
        shape = tuple(batch.latents_2BCHW.shape[1:])
        tokens = shape[-1] * shape[-2]
        if not batch.keys:
            sigma_B = self._matching.sigmas(batch.indices, rng, total=batch.total, tokens=tokens)
            return self._matching.noise(rng.at("noise"), batch.indices, shape), sigma_B
        places = Rng(self._seed).at("pair-sigma", 0)
        shifts = [self._draws * places.generator(key.pair_id).random() for key in batch.keys]
        u_B = torch.tensor([(key.draw + r) / self._draws % 1.0 for key, r in zip(batch.keys, shifts, strict=True)], dtype=torch.float64)
        rows = [Rng(self._seed).at("pair-noise", key.draw).normal(key.pair_id, shape) for key in batch.keys]
        noise_BCHW = torch.from_numpy(np.stack(rows)).to(batch.latents_2BCHW.device)
        return noise_BCHW, self._matching.sigmas_at(u_B, tokens=tokens)


def checked_pair(record: Record) -> PairRecord:
    """
    Raises:
        DataError: not a pair; pictures of different shapes, or equal ones.
    """
    if not isinstance(record, PairRecord):
        raise DataError(f"record `{record.key}` is no preference pair: method dpo needs a data source of pairs, such as `pairs`")
    if record.pixels.shape != record.lose_pixels.shape:
        sides = [" x ".join(map(str, pixels.shape[1::-1])) for pixels in (record.pixels, record.lose_pixels)]
        raise DataError(f"pair `{record.key}`: the chosen picture is {sides[0]}, the rejected one {sides[1]}; expected the same size")
    for name, pixels in (("chosen", record.pixels), ("rejected", record.lose_pixels)):
        if pixels.dtype != np.uint8:
            raise DataError(f"pair `{record.key}`: the {name} picture is {pixels.dtype}, expected uint8")
    if np.array_equal(record.pixels, record.lose_pixels):
        raise DataError(f"pair `{record.key}`: chosen and rejected picture are equal, so the pair prefers nothing. Remove it.")
    return record


def content_of(pair: PairRecord, prompt: str) -> bytes:
    """16 bytes that change with either picture or the prompt."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=16)
    for pixels in (pair.pixels, pair.lose_pixels):
        digest.update(str(pixels.shape).encode())
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def draws_at(indices: Sequence[int], rng: StepRng, draws_per_pair: int) -> list[int]:
    """k of the pairs at these places of the global batch."""
    draws = rng.at("pair-draw")
    return [draws.integer(index, draws_per_pair) for index in indices]


def elements_of(codec: object, size_px: int) -> int:
    """Numbers in the latent of a square picture of this size."""
    return codec.channels * (size_px // codec.pixels_per_token) ** 2  # type: ignore[attr-defined]


def both(values_B: Tensor) -> Tensor:
    """[2B, ...]: what the chosen and the rejected pictures share."""
    return torch.cat([values_B, values_B])
