"""Options of the methods ``sft`` and ``dpo``, and their entries. Light: no torch."""

from __future__ import annotations

from typing import Annotated

from ernie_core.adapters.config import AdapterConfig
from ernie_core.api import Config, Entry, Fraction, From, NonNegative, Positive, Selection
from ernie_core.flow.entries import TokenShiftConfig


class SftConfig(Config):
    """Fine-tuning on captioned pictures by flow matching, from the weights of ``model.init``. A trained prompt encoder that comes with them stays frozen."""

    density: Annotated[Selection, From("densities")] = Selection("logit-normal")
    loss: Annotated[Selection, From("losses", "flow")] = Selection("mse")
    shift: TokenShiftConfig = TokenShiftConfig()
    caption_dropout: Fraction = 0.1
    """Share of samples trained with the empty caption "", which guidance needs."""
    styles: dict[str, NonNegative] = {}
    """Weights by which a caption's style is drawn among those that a record has. Empty: evenly."""
    domain_weights: dict[str, NonNegative] = {}
    """Factors on the loss by the record's category, scaled so that their mean over the mixture is 1: the learning rate keeps its meaning. Empty: all alike.
    How often a domain comes is the data source's business, and usually the better means."""
    domain_shares: dict[str, Positive] = {}
    """Shares of the domains in the mixture, in any unit, over which that mean is taken. Empty: all domains are equally frequent."""
    adapter: AdapterConfig | None = None
    """Train a low-rank adapter over the frozen weights; without it all weights are trained."""
    anchor: NonNegative = 0.0
    """Weight of the mean squared distance to the velocity of the model that fine-tuning started from. Costs one more forward pass and, without an
    adapter, a frozen copy."""

    def __post_init__(self) -> None:
        check_weights("styles", self.styles)
        check_weights("domain_weights", self.domain_weights)
        if self.domain_shares and set(self.domain_shares) != set(self.domain_weights):
            raise ValueError(
                f"domain_shares names {sorted(self.domain_shares)}, domain_weights {sorted(self.domain_weights)}: the same domains expected"
            )

    def loss_factors(self) -> dict[str, float]:
        """By domain, with mean 1 over the mixture; empty if none is named."""
        shares = self.domain_shares or dict.fromkeys(self.domain_weights, 1.0)
        mean = sum(shares[name] * weight for name, weight in self.domain_weights.items()) / sum(shares.values()) if shares else 1.0
        return {name: weight / mean for name, weight in self.domain_weights.items()}


def check_weights(option: str, weights: dict[str, float]) -> None:
    """
    Raises:
        ValueError: none of the weights that are given is above 0.
    """
    if weights and not sum(weights.values()) > 0:
        raise ValueError(f"{option}: no weight is above 0")


METHODS = (Entry("sft", "fine-tuning on captioned pictures, of all weights or an adapter", SftConfig, "ernie_align.sft:build"),)
