"""A reward on the student's pictures, by its gradient: the student's clean sample is decoded, judged, and moved up the reward's slope.

Matching stays on beside it and keeps the student near the teachers. Rewards that give no gradient cannot be used: with a deterministic student there
is no likelihood to weight, and an estimate by finite differences in 10^5 dimensions is noise.

Source: ReFL (Xu et al. 2023, arXiv 2304.05977); DMDR (arXiv 2511.13649) for its place beside distribution matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ernie_core.api import ConfigError
from ernie_distill.method_config import RewardConfig


@runtime_checkable
class DifferentiableScorer(Protocol):
    """A scorer that also takes tensors, with gradient."""

    def reward(self, pixels_B3HW: Tensor, prompts: Sequence[str]) -> Tensor:
        """One number per picture [B], float32, higher is better.

        Args:
            pixels_B3HW: float32, about [-1, 1]; values beyond are the student's and not cut.
        """
        ...


class Reward:
    """
    Raises:
        ConfigError: the scorer gives no gradient.
    """

    def __init__(self, config: RewardConfig, scorer: Any, codec: Any) -> None:
        if not isinstance(scorer, DifferentiableScorer):
            raise ConfigError(
                f"method.reward.scorer = `{config.scorer.use}`: gives no gradient; expected a scorer that also has `reward(pixels_B3HW, prompts) -> Tensor_B`"
            )
        self._name, self._weight, self._scorer, self._codec = config.scorer.use, config.weight, scorer, codec

    def loss(self, x0_BCHW: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The loss [B] to add, ``-weight * reward``, and the rewards [B].

        Raises:
            ConfigError: the codec or the scorer cuts the gradient, so that the reward would be logged and move nothing.
        """
        pixels_B3HW = self._codec.decode(x0_BCHW)
        reward_B = self._scorer.reward(pixels_B3HW, prompts).float()
        if x0_BCHW.requires_grad and not reward_B.requires_grad:
            cut = "the codec's decode" if not pixels_B3HW.requires_grad else f"`reward` of the scorer `{self._name}`"
            raise ConfigError(
                f"method.reward: {cut} gives no gradient, so that nothing would be learned from the reward; remove its torch.no_grad()"
            )
        return -self._weight * reward_B, reward_B
