"""Coloured gradients, computed from their row number; every batch is a pure function of seed and step."""

import json

import numpy as np

from ernie_core.api import DataError, Record, RecordRef
from ernie_core.rng import Rng

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230), "white": (240, 240, 240)}


class Pictures:
    def __init__(self, config, context):
        self._config, self._seed, self._multiple = config, context.seed, context.size_multiple_px

    def __len__(self):
        return self._config.count

    def batch(self, step, *, global_batch, stage):
        side = stage.size_px // self._multiple * self._multiple
        rows = (Rng(self._seed).at("toy-rows", step).integer(index, self._config.count) for index in range(global_batch))
        return [RecordRef(f"toy-{row}", row, (side, side)) for row in rows]

    def fetch(self, refs):
        if self._config.log_fetches:
            print("fetch", json.dumps([ref.key for ref in refs]), flush=True)
        return [self._read(ref) for ref in refs]

    def _read(self, ref):
        if ref.row == self._config.fail_at:
            raise DataError(f"{ref.key}: cannot be read (asked for by the test)")
        name = list(COLOURS)[ref.row % len(COLOURS)]
        width, height = ref.size_px
        ramp = np.linspace(0.3 + 0.1 * (ref.row % 7), 1, height)[:, None, None]
        pixels = (ramp * np.array(COLOURS[name])[None, None]).repeat(width, 1).astype(np.uint8)
        words = " ".join(["very"] * (ref.row % 3))
        return Record(ref.key, pixels, {"plain": f"{name} {words}".strip(), "long": f"a picture that is {words} {name}"}, ref.size_px)


def build(config, context):
    return Pictures(config, context)
