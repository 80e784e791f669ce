"""The pseudo-Huber loss of the velocity.

Source: Charbonnier et al. 1997, as used for diffusion models by Song and Dhariwal 2023 (arXiv 2310.14189); here element by element.
"""

from collections.abc import Callable
from functools import partial

from ernie_core.api import PureContext
from torch import Tensor

from ernie_example.plugin import PseudoHuberConfig


def pseudo_huber(velocity: Tensor, target: Tensor, sigma_B: Tensor, *, scale: float) -> Tensor:
    """Mean of ``2 c (sqrt(d^2 + c^2) - c)`` over each sample, d = velocity - target, c = ``scale``: loss_B, float32.

    About d^2 where |d| << c, so that learning rates found with mean squared error keep their meaning, and 2 c |d| where |d| >> c.
    Written as 2 c d^2 / (sqrt(d^2 + c^2) + c), which does not cancel for small d.
    """
    square = (velocity.float() - target.float()).square()
    loss = 2 * scale * square / ((square + scale**2).sqrt() + scale)
    return loss.flatten(1).mean(1)


def build(config: PseudoHuberConfig, context: PureContext) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return partial(pseudo_huber, scale=config.scale)
