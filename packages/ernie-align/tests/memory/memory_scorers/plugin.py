"""Light part: entries."""

from typing import Literal

from ernie_core.api import Config, Entry, hookimpl

ERNIE_API = (0, 1)


class MeanConfig(Config):
    """``fault``: a promise that is not kept. ``release``: part of the scorer's code."""

    fault: Literal["", "nan", "too-few"] = ""
    release: int = 1


@hookimpl
def ernie_register_scorers():
    for channel in ("red", "green"):
        yield Entry(f"memory-{channel}", f"the mean of {channel}", MeanConfig, f"memory_scorers.scorers:{channel}")
    yield Entry("memory-constant", "finds all equal", MeanConfig, "memory_scorers.scorers:constant")
