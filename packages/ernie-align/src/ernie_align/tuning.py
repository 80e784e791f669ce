"""What fine-tuning and preference training have in common: a policy over the initial weights, and a prompt encoder that stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ernie_core.adapters.config import AdapterConfig
from ernie_core.adapters.policy import Policy
from ernie_core.api import ConfigError, Network
from ernie_core.flow.matching import FlowMatching, TextEmbeddings

if TYPE_CHECKING:
    from ernie_core.api import MethodContext

ENCODER = "encoder"


class Tuning:
    """
    Args:
        context: of the method.
        matching: what encodes pictures and prompts.
        adapter: None trains all weights.
        method: its name, for errors.
    """

    def __init__(self, context: MethodContext, matching: FlowMatching, adapter: AdapterConfig | None, *, method: str) -> None:
        self.policy, self.matching, self.encoder = Policy(context, adapter), matching, context.encoder
        self._method = method

    def networks(self) -> list[Network]:
        """The policy, and the encoder where it is one that could be trained: its hash is then checked at resume."""
        frozen = [Network(ENCODER, self.encoder, trained=False)] if self.encoder.trainable else []
        return [*self.policy.networks(), *frozen]

    def deployed(self) -> Mapping[str, str]:
        return {**self.policy.deployed(), **({ENCODER: ENCODER} if self.encoder.trainable else {})}

    def text(self, prompts: Sequence[str]) -> TextEmbeddings:
        return self.matching.frozen_text(prompts)

    def velocity_fn(self, network: str, prompts: Sequence[str], *, guidance_scale: float) -> Callable[[Tensor, float], Tensor]:
        """
        Raises:
            ConfigError: another network than the one that is deployed.
        """
        deployed = self.deployed()["transformer"]
        if network != deployed:
            raise ConfigError(f"method {self._method} samples from `{deployed}`, not from `{network}`")
        return self.matching.guided(self.policy.transformer, prompts, guidance_scale=guidance_scale)
