r"""Flow losses: ``loss(velocity, target, sigma_B) -> loss_B``, one float32 number per sample.

Each sample's loss is the mean over its own elements, and methods sum over samples: averaging over tokens instead would give large pictures more weight.

An error of the velocity is an error of the clean sample, magnified: ``|v - v*|^2 = |x0 - x0*|^2 / sigma^2``. A weight w on the velocity is therefore
w / sigma^2 on the clean sample; do not apply a weight made for one to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ernie_core.flow.entries import MinSnrConfig, MseConfig
from ernie_core.flow.times import logit_normal, shift_sigma
from ernie_core.plugins.hookspecs import PureContext

FlowLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PairError:
    """Velocity errors of preference pairs, one network's: ``win_B`` of the chosen and ``lose_B`` of the rejected picture, at the same noise and time.

    Attributes:
        win_B, lose_B: mean squared errors, float32, in latent variance units.
        elements: numbers in the latent of a full-size picture of the training stage (channels x height x width): turns means into sums, by one factor
            for all aspect buckets of a stage.
    """

    win_B: Tensor
    lose_B: Tensor
    elements: int


PairLoss = Callable[[PairError, PairError], Tensor]
"""``loss(policy, reference) -> loss_B``, kind "pair". The reference carries no gradient."""

QUADRATURE_POINTS = 1 << 14  # midpoint rule over u; the weight's mean is then exact to about 1e-8


def mse(velocity: Tensor, target: Tensor, sigma_B: Tensor) -> Tensor:
    """Mean squared error of each sample, in float32 whatever the inputs are.

    Args:
        velocity: the model's output [B, ...].
        target: ``noise - x0``, same shape.
        sigma_B: noise levels; not used by this loss.
    """
    return (velocity.float() - target.float()).square().flatten(1).mean(1)


def min_snr_weight(sigma: Tensor, gamma: float) -> Tensor:
    """``min((1 - s)^2, gamma s^2)``: min-SNR-gamma, ``min(SNR, gamma)`` on x0, carried over to the velocity by the factor s^2.

    The two branches meet at s = 1 / (1 + sqrt(gamma)), where SNR = gamma.

    Source: Hang et al. 2023 (arXiv 2303.09556), eq. 7.
    """
    return torch.minimum((1 - sigma) ** 2, gamma * sigma**2)


@dataclass(frozen=True)
class MinSnrLoss:
    """``mse`` times ``min_snr_weight / mean_weight``."""

    gamma: float
    mean_weight: float

    def __call__(self, velocity: Tensor, target: Tensor, sigma_B: Tensor) -> Tensor:
        error_B = mse(velocity, target, sigma_B)
        return error_B * (min_snr_weight(sigma_B.double(), self.gamma) / self.mean_weight).to(error_B)


def mean_over_density(weight: Callable[[Tensor], Tensor], density: Callable[[Tensor], Tensor]) -> float:
    """The mean of a weight of sigma when sigma is drawn from ``density`` (an inverse distribution function)."""
    u = (torch.arange(QUADRATURE_POINTS, dtype=torch.float64) + 0.5) / QUADRATURE_POINTS
    return float(weight(density(u)).mean())


def build_mse(config: MseConfig, context: PureContext) -> FlowLoss:
    return mse


def build_min_snr(config: MinSnrConfig, context: PureContext) -> FlowLoss:
    def density(u_B: Tensor) -> Tensor:
        return shift_sigma(logit_normal(u_B, mean=config.mean, std=config.std), config.shift)

    return MinSnrLoss(config.gamma, mean_over_density(lambda s: min_snr_weight(s, config.gamma), density))
