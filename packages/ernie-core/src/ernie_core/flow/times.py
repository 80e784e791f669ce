r"""Training-time densities of sigma, and the shift that follows the number of image tokens.

A density is given as its inverse distribution function: it maps uniforms on [0, 1) to noise levels, so that stratified uniforms
(``ernie_core.rng``) lower the variance without changing the density.

The shift k moves noise levels upwards, ``s' = k s / (1 + (k - 1) s)``, that is ``logit(s') = logit(s) + ln k``: a shifted logit-normal density
is the logit-normal one with its mean moved by ln k, and its median is k / (1 + k).

Source: Esser et al. 2024 (arXiv 2403.03206), section 3.1 and 5.3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ernie_core.errors import ConfigError
from ernie_core.flow.entries import LogitNormalConfig, ModeConfig, ShiftedLogitNormalConfig, TokenShiftConfig, UniformConfig
from ernie_core.plugins.hookspecs import PureContext

Density = Callable[[Tensor], Tensor]
Sigma = TypeVar("Sigma", float, Tensor)

# Uniforms are kept this far from 0 and 1, where a normal quantile is infinite. 2^-40 is beyond anything a run draws, and sigma there is < 1e-3 or > .999.
EDGE = 2.0**-40
MODE_MAX = 2 / (math.pi - 2)  # largest scale for which mode sampling is monotone in u


def shift_sigma(sigma: Sigma, shift: float) -> Sigma:
    """``k s / (1 + (k - 1) s)``: keeps 0 and 1, is the identity for k = 1, and k followed by 1 / k gives sigma back."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def uniform(u_B: Tensor) -> Tensor:
    """Uniform on [0, 1)."""
    return u_B


def logit_normal(u_B: Tensor, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """``sigmoid(mean + std * normal quantile of u)``. Median sigmoid(mean)."""
    return torch.sigmoid(mean + std * torch.special.ndtri(u_B.double().clamp(EDGE, 1 - EDGE)))


def mode(u_B: Tensor, *, scale: float = 1.29) -> Tensor:
    """Heavy-tailed mode sampling, ``1 - u - a (cos^2(pi u / 2) - 1 + u)``; falls monotonically from 1 to 0 for -1 <= a <= 2 / (pi - 2).

    A density is an *increasing* function of its uniform here, so u runs backwards: ``u -> 1 - u`` changes no distribution.
    """
    u_B = 1 - u_B
    return (1 - u_B - scale * (torch.cos(math.pi * u_B / 2) ** 2 - 1 + u_B)).clamp(0, 1)


def shift_for_tokens(config: TokenShiftConfig, tokens: int) -> float:
    """The shift for a picture of so many image tokens, applied on top of a density by ``shift_sigma``.

    * ``none``: 1.
    * ``sqrt`` (rule A, Esser et al. 2024, eq. 23): ``reference_shift * sqrt(tokens / reference_tokens)``, at least ``floor``. Anchored at 3 for
      1024 px it is .75, 1.5 and 3 at 256, 1024 and 4096 tokens; the floor keeps small pictures from less noise than the density itself has.
    * ``exponential`` (rule B, as FLUX): ``exp(mu)``, mu linear in tokens from .5 at 256 to 1.15 at 4096: 1.65, 1.88, 3.16.

    It counts tokens, not pixels, so aspect buckets of one area share it.
    """
    if tokens < 1:
        raise ConfigError(f"shift for {tokens} image tokens: expected at least 1")
    if config.rule == "none":
        return 1.0
    if config.rule == "sqrt":
        return max(config.floor, config.reference_shift * math.sqrt(tokens / config.reference_tokens))
    return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))


def build_uniform(config: UniformConfig, context: PureContext) -> Density:
    return uniform


def build_logit_normal(config: LogitNormalConfig, context: PureContext) -> Density:
    return lambda u_B: logit_normal(u_B, mean=config.mean, std=config.std)


def build_mode(config: ModeConfig, context: PureContext) -> Density:
    return lambda u_B: mode(u_B, scale=config.scale)


def build_shifted_logit_normal(config: ShiftedLogitNormalConfig, context: PureContext) -> Density:
    return lambda u_B: shift_sigma(logit_normal(u_B, mean=config.mean, std=config.std), config.shift)
