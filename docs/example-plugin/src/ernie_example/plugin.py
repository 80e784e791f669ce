"""What this plugin offers. ernie-core imports it to list plugins, so it stays light: no torch here."""

from collections.abc import Iterable
from typing import Annotated

from ernie_core.api import Config, Entry, From, Positive, PositiveInt, Selection, hookimpl

ERNIE_API = (0, 1)


class ParallelBlockConfig(Config):
    """Attention and a SwiGLU feed-forward part side by side, both reading one norm."""

    ffn_factor: Positive = 1.0
    """Width of the feed-forward part, in units of the model's ``ffn_hidden_size``."""


class PseudoHuberConfig(Config):
    """Quadratic for errors far below ``scale``, linear far above."""

    scale: Positive = 0.5
    """In units of the velocity, whose standard deviation is about 1.4."""


class MidpointConfig(Config):
    """No options."""


class SharpnessConfig(Config):
    """No options."""


class ContrastConfig(Config):
    """A suite that asks for bright and for dark pictures."""

    count: PositiveInt = 8
    """Prompts; every second asks for a dark one."""
    scorer: Annotated[Selection, From("scorers")] = Selection("sharpness")
    """Judges beside brightness."""


@hookimpl
def ernie_register_dit_blocks() -> Iterable[Entry]:
    yield Entry("parallel-swiglu", "attention and SwiGLU side by side", ParallelBlockConfig, "ernie_example.block:build")


@hookimpl
def ernie_register_losses() -> Iterable[Entry]:
    yield Entry("pseudo-huber", "pseudo-Huber loss of the velocity", PseudoHuberConfig, "ernie_example.loss:build", kind="flow")


@hookimpl
def ernie_register_samplers() -> Iterable[Entry]:
    yield Entry("midpoint", "second order, 2 model calls per step", MidpointConfig, "ernie_example.sampler:build")


@hookimpl
def ernie_register_scorers() -> Iterable[Entry]:
    yield Entry("sharpness", "variance of the Laplacian", SharpnessConfig, "ernie_example.judging:build_scorer")


@hookimpl
def ernie_register_evaluations() -> Iterable[Entry]:
    yield Entry("contrast", "are bright pictures bright and dark ones dark", ContrastConfig, "ernie_example.judging:build_suite")
