"""Coloured pictures, computed from their row number; every batch is a pure function of seed and step."""

import numpy as np

from ernie_core.api import Record, RecordRef
from ernie_core.rng import Rng

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230), "white": (240, 240, 240)}
DOMAINS = ("warm", "cold", "")


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
        """A ramp of a colour, of one of three domains."""
        width, height = ref.size_px
        name = list(COLOURS)[ref.row % len(COLOURS)]
        ramp = np.linspace(0.3 + 0.1 * (ref.row % 7), 1, height)[:, None, None]
        pixels = (ramp * np.array(COLOURS[name])[None, None]).repeat(width, 1).astype(np.uint8)
        words = " ".join(["very"] * (ref.row % 3))
        prompt = "  " if self.config.empty and ref.row % 3 == 0 else f'{name} {words} "sign {ref.row}"'
        return Record(ref.key, pixels, {"plain": prompt}, ref.size_px, category=DOMAINS[ref.row % 3])


class Shades(Pictures):
    def read(self, ref):
        """One colour all over, red or blue in many shades, each a domain."""
        width, height = ref.size_px
        warm = ref.row % 2 == 0
        shade = 160 + 90 * ref.row // self.config.count
        pixels = np.zeros((height, width, 3), np.uint8) + np.array((shade, 40, 40) if warm else (40, 40, shade), np.uint8)
        captions = {"plain": f"{'red' if warm else 'blue'} number {ref.row}", "long": "a picture"}
        return Record(ref.key, pixels, captions, ref.size_px, category="warm" if warm else "cold")


def build(config, context):
    return Pictures(config, context)
