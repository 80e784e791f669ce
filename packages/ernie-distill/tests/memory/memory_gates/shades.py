"""Pictures of one colour each, red or blue in many shades, made from their row number."""

import numpy as np

from ernie_core.api import Record, RecordRef
from ernie_core.rng import Rng


class Shades:
    def __init__(self, config, context):
        self.config, self._seed, self._multiple = config, context.seed, context.size_multiple_px

    def __len__(self):
        return self.config.count

    def batch(self, step, *, global_batch, stage):
        side = stage.size_px // self._multiple * self._multiple
        rows = (Rng(self._seed).at("shade-rows", step).integer(index, self.config.count) for index in range(global_batch))
        return [RecordRef(f"row-{row}", row, (side, side)) for row in rows]

    def fetch(self, refs):
        return [self.read(ref) for ref in refs]

    def read(self, ref):
        width, height = ref.size_px
        warm = ref.row % 2 == 0
        shade = 160 + 90 * ref.row // self.config.count
        pixels = np.zeros((height, width, 3), np.uint8) + np.array((shade, 40, 40) if warm else (40, 40, shade), np.uint8)
        captions = {"plain": f"{'red' if warm else 'blue'} number {ref.row}", "long": "a picture"}
        return Record(ref.key, pixels, captions, ref.size_px, category="warm" if warm else "cold")
