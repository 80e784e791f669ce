"""Coloured gradients, computed from their row number; every batch is a pure function of seed and step."""

import numpy as np

from ernie_align.pairs.record import PairRecord
from ernie_core.api import Record, RecordRef
from ernie_core.rng import Rng

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230), "white": (240, 240, 240)}


class Pictures:
    def __init__(self, config, context):
        self.config, self._seed, self._multiple = config, context.seed, context.size_multiple_px

    def __len__(self):
        return self.config.count

    def batch(self, step, *, global_batch, stage):
        side = stage.size_px // self._multiple * self._multiple
        rows = (Rng(self._seed).at("memory-rows", step).integer(index, self.config.count) for index in range(global_batch))
        return [RecordRef(f"row-{row}", row, (side, side)) for row in rows]

    def fetch(self, refs):
        return [self.read(ref) for ref in refs]

    def read(self, ref):
        category = ("photo", self.config.odd)[ref.row % 2]
        return Record(ref.key, gradient(colour(ref.row), ref), captions(ref.row), ref.size_px, category=category)


class Pairs(Pictures):
    def read(self, ref):
        fault = self.config.fault if ref.row % 4 == 0 else ""
        win, lose = gradient(colour(ref.row), ref), gradient((120, 120, 120), ref)
        win[..., 0] = np.minimum(win[..., 0].astype(int) + self.config.tint, 255)
        if fault == "plain-record":
            return Record(ref.key, win, captions(ref.row), ref.size_px)
        return PairRecord(
            ref.key,
            win,
            {"plain": "  "} if fault == "prompt" else captions(ref.row),
            ref.size_px,
            lose_pixels={"shape": lose[:-4], "identical": win.copy()}.get(fault, lose),
            lose_pixels_id="",
            margin=1.0,
            annotator="the test",
            pair_id=ref.row,
        )


def colour(row):
    return COLOURS[list(COLOURS)[row % len(COLOURS)]]


def captions(row):
    name, words = list(COLOURS)[row % len(COLOURS)], " ".join(["very"] * (row % 3))
    return {"plain": f"{name} {words}".strip(), "long": f"a picture that is {words} {name}"}


def gradient(rgb, ref):
    """uint8 [H, W, 3]."""
    width, height = ref.size_px
    ramp = np.linspace(0.3 + 0.1 * (ref.row % 7), 1, height)[:, None, None]
    return (ramp * np.array(rgb)[None, None]).repeat(width, 1).astype(np.uint8)
