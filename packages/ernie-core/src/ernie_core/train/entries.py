"""Core's training methods. Light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from ernie_core.config.base import Config, Fraction, From, Selection
from ernie_core.flow.entries import TokenShiftConfig
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import hookimpl


class PretrainConfig(Config):
    """Flow matching on captioned pictures. The report discloses neither density nor dropout: these defaults are ours."""

    density: Annotated[Selection, From("densities")] = Selection("logit-normal")
    loss: Annotated[Selection, From("losses", "flow")] = Selection("mse")
    shift: TokenShiftConfig = TokenShiftConfig()
    caption_dropout: Fraction = 0.1
    """Share of samples trained with the empty caption "", which guidance needs."""


@hookimpl
def ernie_register_methods() -> Iterator[Entry]:
    yield Entry("pretrain", "flow matching on captioned pictures", PretrainConfig, "ernie_core.train.pretrain:build")
