r"""The gate ``spatial`` (G4): weights of guidance that differ by place, from where the prompt's quoted text is drawn.

    text experts:  W = (1 - r) w + r max(w, inside S)      others share S - W as they did      r: region in [0, 1], w: weights of ``product``, S: their sum

The region is the method's: where the generalist's prediction changes when the quoted text is taken out of the prompt (DiffEdit, Couairon et al. 2022,
arXiv 2210.11427). Matching is not gated by place: its target must be one teacher's picture, or an average of pictures, as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ernie_core.api import ConfigError, GateContext
from ernie_distill.gate_config import SpatialConfig
from ernie_distill.gates.product import Product
from ernie_distill.quoted import quoted

if TYPE_CHECKING:
    from ernie_distill.api import GateInputs


class Spatial:
    """
    Raises:
        ConfigError: no teacher is an expert of the domain; see also ``Product``.
    """

    def __init__(self, config: SpatialConfig, context: GateContext) -> None:
        self._base, self._config = Product(config.base, context, name="spatial"), config
        self._expert_K = torch.tensor([config.domain in domains for domains in context.domains])
        if not self._expert_K.any():
            known = ", ".join(sorted({domain for domains in context.domains for domain in domains})) or "none"
            raise ConfigError(f"gate spatial: no teacher is an expert of `{config.domain}`; domains of the teachers: {known}")

    def __call__(self, inputs: GateInputs) -> Tensor:
        """[B, K] on the CPU for matching and for batches without quoted text, else [B, K, 1, h, w] on the region's device."""
        base_BK = self._base(inputs)
        if inputs.objective == "dm" or not any(quoted(prompt) for prompt in inputs.prompts):
            return base_BK
        return blend(base_BK, self._expert_K, inputs.region(), inside=self._config.inside)

    def describe(self) -> Sequence[str]:
        return [
            *self._base.describe(),
            f"guidance where quoted text is drawn: {self._config.inside:g} to the experts of {self._config.domain}, the rest as before",
        ]


def blend(base_BK: Tensor, expert_K: Tensor, region_B1hw: Tensor, *, inside: float) -> Tensor:
    """Weights [B, K, 1, h, w], float32, on the region's device; their sum over K is the base's at every place.

    Args:
        base_BK: weights outside of the region.
        expert_K: bool, who takes over.
        region_B1hw: in [0, 1].
        inside: the experts' share inside of the region.
    """
    base_BK, expert_K = base_BK.to(region_B1hw.device).double(), expert_K.to(region_B1hw.device)
    sum_B1 = base_BK.sum(1, keepdim=True)
    outside_B1 = (base_BK * expert_K).sum(1, keepdim=True)
    target_B1 = torch.maximum(outside_B1, inside * sum_B1)
    even_K = expert_K.double() / expert_K.sum()
    within_BK = torch.where(outside_B1 > 0, base_BK * expert_K / torch.where(outside_B1 > 0, outside_B1, 1.0), even_K) * target_B1
    rest_B1 = sum_B1 - outside_B1
    others_BK = base_BK * ~expert_K * ((sum_B1 - target_B1) / torch.where(rest_B1 > 0, rest_B1, 1.0))
    region = region_B1hw.double().clamp(0, 1)[:, None]
    return torch.lerp(base_BK[..., None, None, None], (within_BK + others_BK)[..., None, None, None], region).clamp(0, 1).float()


def build(config: SpatialConfig, context: GateContext) -> Spatial:
    return Spatial(config, context)
