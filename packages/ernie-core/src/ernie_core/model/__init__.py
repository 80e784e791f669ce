"""The single-stream DiT of ERNIE-Image. Light: torch is imported when one of the names below is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ernie_core.model.config import RELEASE, DiTConfig

if TYPE_CHECKING:
    from ernie_core.model.block import BlockInputs
    from ernie_core.model.block_ranges import block_factory
    from ernie_core.model.dit import ErnieDiT
    from ernie_core.model.factory import dit_config, make_transformer
    from ernie_core.model.fusion import Fusion, fusion_of
    from ernie_core.model.layout import SequenceLayout
    from ernie_core.model.load import load_transformer

__all__ = [
    "RELEASE",
    "BlockInputs",
    "DiTConfig",
    "ErnieDiT",
    "Fusion",
    "SequenceLayout",
    "block_factory",
    "dit_config",
    "fusion_of",
    "load_transformer",
    "make_transformer",
]

_HOME = {
    "BlockInputs": "block",
    "ErnieDiT": "dit",
    "Fusion": "fusion",
    "SequenceLayout": "layout",
    "block_factory": "block_ranges",
    "dit_config": "factory",
    "fusion_of": "fusion",
    "load_transformer": "load",
    "make_transformer": "factory",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
