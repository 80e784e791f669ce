"""Light part: entries."""

from typing import Literal

from ernie_core.api import Config, Entry, hookimpl

ERNIE_API = (0, 1)


class PicturesConfig(Config):
    """``odd``: the category of every second record."""

    count: int = 16
    odd: str = "poster"


class PairsConfig(Config):
    """``fault``: what is wrong with row 0 and every fourth after it."""

    count: int = 12
    fault: Literal["", "shape", "identical", "prompt", "plain-record"] = ""
    tint: int = 0
    """Added to the winners' red, for other pictures under the same names."""


@hookimpl
def ernie_register_data_sources():
    yield Entry("memory-pictures", "coloured gradients with captions", PicturesConfig, "memory_sources.sources:Pictures")
    yield Entry("memory-pairs", "a coloured gradient, preferred to a grey one", PairsConfig, "memory_sources.sources:Pairs")
