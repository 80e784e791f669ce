"""The scorers of ernie-data keep the contract that plugin authors' scorers are held to."""

from ernie_core.testing.judging import ScorerContract


class TestShapesQuality(ScorerContract):
    entry = "shapes-quality"
    sizes_px = ((64, 64), (96, 48), (33, 65), (64, 64), (16, 16))
