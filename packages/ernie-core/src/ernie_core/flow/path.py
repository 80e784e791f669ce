r"""The straight path between a picture and noise: every sign and every formula of it, in one place.

    x_t = (1 - sigma) x0 + sigma noise,      sigma in [0, 1]: 0 is data, 1 is noise
    v   = d x_t / d sigma = noise - x0       what the model returns
    t   = 1000 sigma                         what the model is told: a float, not an index, and not 1 - sigma

Other sources use other conventions (Z-Image negates v; Decoupled DMD counts t from noise to data): convert at their border, not here.

Source: rectified flow (Liu et al. 2022, arXiv 2209.03003); ERNIE-Image's released pipeline for t.
"""

from __future__ import annotations

import torch
from torch import Tensor

TIME_SCALE = 1000.0  # the released scheduler's num_train_timesteps


def per_sample(sigma_B: Tensor, like: Tensor) -> Tensor:
    """``sigma_B`` reshaped to [B, 1, 1, ...] so that it broadcasts over each sample of ``like``."""
    return sigma_B.to(like.device, torch.promote_types(like.dtype, torch.float32)).reshape(-1, *[1] * (like.ndim - 1))


def interpolate(x0: Tensor, noise: Tensor, sigma_B: Tensor) -> Tensor:
    """The noisy sample ``x_t = (1 - sigma) x0 + sigma noise``, at least float32.

    Args:
        x0: clean latents [B, ...].
        noise: standard normal, the shape of ``x0``.
        sigma_B: noise level of each sample, in [0, 1].
    """
    sigma = per_sample(sigma_B, x0)
    return (1 - sigma) * x0 + sigma * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """What the model learns to return at every sigma: ``noise - x0``."""
    return noise - x0


def x0_from_velocity(x_t: Tensor, velocity: Tensor, sigma_B: Tensor) -> Tensor:
    """The clean sample a velocity implies: ``x_t - sigma v``."""
    return x_t - per_sample(sigma_B, x_t) * velocity


def noise_from_velocity(x_t: Tensor, velocity: Tensor, sigma_B: Tensor) -> Tensor:
    """The noise a velocity implies: ``x_t + (1 - sigma) v``."""
    return x_t + (1 - per_sample(sigma_B, x_t)) * velocity


def velocity_from_x0(x_t: Tensor, x0: Tensor, sigma_B: Tensor) -> Tensor:
    """The velocity at ``x_t`` that implies the clean sample ``x0``: ``(x_t - x0) / sigma``; sigma > 0."""
    return (x_t - x0) / per_sample(sigma_B, x_t)


def score_from_velocity(x_t: Tensor, velocity: Tensor, sigma_B: Tensor) -> Tensor:
    """Gradient of the log density of ``x_t``: ``-noise / sigma``; sigma > 0."""
    return -noise_from_velocity(x_t, velocity, sigma_B) / per_sample(sigma_B, x_t)


def signal_to_noise(sigma_B: Tensor) -> Tensor:
    """Power ratio ``((1 - sigma) / sigma)^2`` of data and noise in ``x_t``; infinite at 0."""
    return ((1 - sigma_B) / sigma_B) ** 2


def model_time(sigma_B: Tensor, dtype: torch.dtype) -> Tensor:
    """The time a model of this dtype is given: ``1000 sigma``, taken in float32 and then rounded to the model's dtype.

    The rounding belongs to the released pipeline: in bfloat16 it moves a time above 512 to a multiple of 4, by up to 2.
    """
    return (sigma_B.float() * TIME_SCALE).to(dtype)
