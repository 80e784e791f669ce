"""Options of the methods ``sft`` and ``dpo``, and their entries. Light: no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from ernie_align.telemetry import AlarmConfig
from ernie_core.adapters.config import AdapterConfig
from ernie_core.api import Config, Count, Entry, Fraction, From, NonNegative, Positive, Selection
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


class ReferenceConfig(Config):
    """What the policy is compared with."""

    mode: Literal["adapter-off", "copy", "cached"] = "adapter-off"
    """``adapter-off``: the policy's own frozen weights, at no memory. ``copy``: a second network. ``cached``: errors that
    ``ernie align cache-reference`` has written for this very run."""
    init: str | None = None
    """``copy``: take the reference from here instead of from ``model.init``, as later rounds of on-policy training do. Anything of the same architecture."""
    offload: bool = False
    """``copy``: hold it in the CPU's memory between uses."""
    ema: Fraction | None = None
    """``copy``: the reference follows the policy as its moving average at this decay, after each step, as Linear-DPO's does. With an adapter it is
    the adapter that is averaged, and no second network is held."""
    cache: str | None = None
    """``cached``: the folder with the errors."""

    def __post_init__(self) -> None:
        given = {"init": self.init is not None, "offload": self.offload, "ema": self.ema is not None, "cache": self.cache is not None}
        belongs = {"copy": {"init", "offload", "ema"}, "cached": {"cache"}}.get(self.mode, set())
        if odd := [name for name, is_given in given.items() if is_given and name not in belongs]:
            raise ValueError(f'reference.{odd[0]} has no meaning with mode = "{self.mode}": remove it')
        if self.mode == "cached" and self.cache is None:
            raise ValueError('mode = "cached" needs `cache`, the folder that `ernie align cache-reference` wrote')
        if self.init is not None and self.ema is not None:
            raise ValueError("a reference that follows the policy starts from it: remove `init` or `ema`")


class DpoConfig(Config):
    """Preference training on pairs of pictures, from the weights of ``model.init``. A trained prompt encoder that comes with them stays frozen."""

    loss: Annotated[Selection, From("losses", "pair")] = Selection("anchored-dpo")
    density: Annotated[Selection, From("densities")] = Selection("logit-normal")
    shift: TokenShiftConfig = TokenShiftConfig(rule="none")
    styles: dict[str, NonNegative] = {}
    """Weights by which a caption's style is drawn among those that a pair has. Empty: evenly."""
    adapter: AdapterConfig | None = AdapterConfig()
    """Train a low-rank adapter over the frozen weights; ``false`` trains all weights."""
    reference: ReferenceConfig = ReferenceConfig()
    draws_per_pair: Count = 0
    """A pair meets only this many combinations of noise and noise level, fixed by its number, so that the reference's errors can be cached. 0: new ones
    at every step, noise levels stratified over the batch."""
    alarms: AlarmConfig | None = AlarmConfig()
    """When the run stops itself; ``false``: never."""

    def __post_init__(self) -> None:
        check_weights("styles", self.styles)
        if self.adapter is None and self.reference.mode == "adapter-off":
            raise ValueError('reference.mode = "adapter-off" needs an adapter: without one set reference.mode = "copy" or "cached"')
        if self.reference.mode == "cached" and not self.draws_per_pair:
            raise ValueError('reference.mode = "cached" needs draws_per_pair: errors can be kept only of draws that come again')
        if self.reference.ema is not None and self.reference.offload and self.adapter is not None:
            raise ValueError("with an adapter a following reference is an adapter as well: there is nothing to offload")


def other_weights(options: Config) -> dict[str, str]:
    """Weights that a method computes with beside ``model.init``, by the key that names them: they read the same latents and the same text."""
    if isinstance(options, DpoConfig) and options.reference.init is not None:
        return {"method.reference.init": options.reference.init}
    return {}


def check_weights(option: str, weights: dict[str, float]) -> None:
    """
    Raises:
        ValueError: none of the weights that are given is above 0.
    """
    if weights and not sum(weights.values()) > 0:
        raise ValueError(f"{option}: no weight is above 0")


METHODS = (
    Entry("sft", "fine-tuning on captioned pictures, of all weights or an adapter", SftConfig, "ernie_align.sft:build"),
    Entry("dpo", "preference training on pairs of pictures against a reference", DpoConfig, "ernie_align.dpo:build"),
)
