"""What core offers as flow losses and training-time densities, with their config structs. Light: no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.config.base import Config, NonNegative, Positive, PositiveInt
from ernie_core.plugins.entry import Entry
from ernie_core.plugins.hookspecs import hookimpl


class UniformConfig(Config):
    """Sigma uniform on [0, 1)."""


class LogitNormalConfig(Config):
    """``logit(sigma)`` is normal with this mean and standard deviation."""

    mean: float = 0.0
    std: Positive = 1.0


class ModeConfig(Config):
    """Heavy-tailed mode sampling; ``scale`` 0 is uniform, larger puts more weight on the middle."""

    scale: Annotated[float, Meta(ge=-1, le=2 / (math.pi - 2))] = 1.29


class ShiftedLogitNormalConfig(Config):
    """Logit-normal, then shifted by k = ``shift``: more noise for k > 1."""

    mean: float = 0.0
    std: Positive = 1.0
    shift: Positive = 3.0


class TokenShiftConfig(Config):
    """A further shift that follows each picture's number of image tokens: bigger pictures need more noise to be destroyed as much."""

    rule: Literal["none", "sqrt", "exponential"] = "sqrt"
    reference_shift: Positive = 3.0
    """``sqrt``: the shift at ``reference_tokens``."""
    reference_tokens: PositiveInt = 4096
    """1024 x 1024 pixels at 16 pixels per token."""
    floor: NonNegative = 1.0


class MseConfig(Config):
    """Mean squared error of the velocity."""


class MinSnrConfig(Config):
    """Min-SNR-gamma weights (Hang et al. 2023) on the velocity's squared error.

    The weight has mean 1 under the density that ``mean``, ``std`` and ``shift`` describe: state the run's own, so that the learning rate keeps its meaning.
    """

    gamma: Positive = 5.0
    mean: float = 0.0
    std: Positive = 1.0
    shift: Positive = 1.0


@hookimpl
def ernie_register_densities() -> Iterable[Entry]:
    yield Entry("uniform", "sigma uniform on [0, 1)", UniformConfig, "ernie_core.flow.times:build_uniform")
    yield Entry("logit-normal", "normal logit of sigma (SD3)", LogitNormalConfig, "ernie_core.flow.times:build_logit_normal")
    yield Entry("mode", "heavy-tailed mode sampling (SD3)", ModeConfig, "ernie_core.flow.times:build_mode")
    yield Entry(
        "shifted-logit-normal",
        "logit-normal moved towards noise by a shift",
        ShiftedLogitNormalConfig,
        "ernie_core.flow.times:build_shifted_logit_normal",
    )


@hookimpl
def ernie_register_losses() -> Iterable[Entry]:
    yield Entry("mse", "mean squared velocity error", MseConfig, "ernie_core.flow.losses:build_mse", kind="flow")
    yield Entry("min-snr", "velocity error with min-SNR-gamma weights", MinSnrConfig, "ernie_core.flow.losses:build_min_snr", kind="flow")
