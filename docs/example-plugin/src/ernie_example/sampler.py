"""The midpoint rule as a sampler.

Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.1 (Runge's method).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from ernie_core.api import PureContext
from torch import Tensor

from ernie_example.plugin import MidpointConfig

Sampler = Callable[..., Tensor]


def midpoint(
    velocity_fn: Callable[[Tensor, float], Tensor],
    x: Tensor,
    sigmas: Sequence[float],
    *,
    noise_fn: Callable[[int], Tensor] | None = None,
    on_step: Callable[[int, float, Tensor], None] | None = None,
) -> Tensor:
    """Second order, two velocities per interval: one at its start, one at its middle, and only the second moves x."""
    for index, (sigma, after) in enumerate(pairwise(sigmas)):
        middle = (sigma + after) / 2
        x_middle = x + (middle - sigma) * velocity_fn(x, sigma)
        x = x + (after - sigma) * velocity_fn(x_middle, middle)
        if on_step is not None:
            on_step(index, after, x)
    return x


def build(config: MidpointConfig, context: PureContext) -> Sampler:
    return midpoint
