"""Options of the gates, and their entries. Light: no torch.

A gate gives two sets of weights: for distribution matching, which sum to 1, and for the guidance term, which are strengths of guidance and only have a budget.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.api import Config, Entry, Fraction, From, NonNegative, Positive, PositiveInt, Selection

Width = Annotated[float, Meta(ge=1e-3, le=100)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]
GuidanceNorm = Literal["simplex", "budget"]
SUM_TOLERANCE = 1e-6


class ConstantConfig(Config):
    """The same weights for every sample. By default the generalist alone: distillation from a single teacher."""

    match: dict[str, Fraction] = {}
    """Weight of each teacher in distribution matching, by name; others have none. They sum to 1."""
    guidance: dict[str, Fraction] = {}
    """The same for the guidance term, where they are strengths and sum to anything up to ``guidance_budget``. Empty: as ``match``."""

    def __post_init__(self) -> None:
        total = math.fsum(self.match.values())
        if self.match and abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"match: the weights sum to {total:g}; they must sum to 1, or the target of matching is scaled")


class BumpConfig(Config):
    """Where on the way from noise to picture a teacher counts: ``prior exp(-(sigma - center)^2 / 2 width^2)``."""

    center: Fraction
    """Noise level; layout is decided near 0.9, objects and style near 0.5, texture and text near 0.2."""
    width: Width = 0.2
    prior: Positive = 1.0


class ScheduleConfig(Config):
    """Weights by noise level alone. A schedule leaks: what is decided at low noise still listens to the expert of high noise, so ``product`` is the better use."""

    teachers: Annotated[dict[str, BumpConfig], Meta(min_length=1)]
    """By name. A teacher that is not named counts the same at every level, with prior 1."""
    guidance_norm: GuidanceNorm = "budget"
    """``budget``: guidance weights are the bumps themselves, scaled down where they sum to more than the budget. ``simplex``: they sum to 1."""
    guidance_budget: Positive = 1.0


class DomainConfig(Config):
    """Weights by what the prompt asks for: its record's domain where there is one, else rules on its words. Experts of a domain share it evenly; prompts of no
    domain that anybody is an expert of go to the generalist and to the teachers that name no domains."""

    leak: Fraction = 0.1
    """Share of those that name no domains, the generalist first, in prompts of a domain that has experts."""
    quoted: str | None = "text"
    """Domain of prompts with a string in quotation marks."""
    keywords: dict[str, tuple[str, ...]] = {}
    """Words and phrases by domain, whole words (of Chinese, Japanese and Korean, anywhere), upper and lower case alike. A prompt of several domains is shared
    evenly among them."""

    def __post_init__(self) -> None:
        if empty := [domain for domain, words in self.keywords.items() if not words or not all(word.strip() for word in words)]:
            raise ValueError(f"keywords: domain `{empty[0]}` has no words, or blank ones")


class ProductConfig(Config):
    """``prior of the objective x schedule x domain``, normalised. Without options it is the domain's share alone."""

    match_prior: dict[str, NonNegative] = {}
    """By teacher; 1 for those that are not named. 0: never asked for this objective."""
    guidance_prior: dict[str, NonNegative] = {}
    schedule: dict[str, BumpConfig] = {}
    """By teacher; 1 at every noise level for those that are not named."""
    domain: DomainConfig = DomainConfig()
    guidance_norm: GuidanceNorm = "simplex"
    """``budget``: guidance weights are the products themselves, at most 1 each, scaled down where they sum to more than the budget."""
    guidance_budget: Positive = 1.0


class SpatialConfig(Config):
    """``product``, but for the guidance term an expert of text takes over where the prompt's quoted text is drawn."""

    base: ProductConfig = ProductConfig()
    domain: str = "text"
    """Whose experts take over."""
    inside: Fraction = 0.9
    """Their share of a sample's guidance weights inside of the region, unless it is larger anyway. The others share the rest as they did."""


def domains_in_words(options: Config) -> set[str] | None:
    """Domains that a gate may find in a prompt's words; None for one that asks nothing about domains, or of which that is not known."""
    if isinstance(options, SpatialConfig):
        return {options.domain, *(domains_in_words(options.base) or ())}
    chosen = options.domain if isinstance(options, ProductConfig) else options
    if not isinstance(chosen, DomainConfig):
        return None
    return {*chosen.keywords, *([chosen.quoted] if chosen.quoted else [])}


class FitConfig(Config):
    """How ``ernie distill gates fit`` learns a gate. Changing what stands below ``points`` costs a minute: what it needs of the teachers' predictions is kept."""

    data: Annotated[Selection, From("data_sources")] | None = None
    """Pictures with captions and categories. By default the run's own data, which must then be more than prompts."""
    points: PositiveInt = 4096
    """Pairs of a picture and a noise level at which the teachers are compared."""
    held_out: BelowOne = 0.2
    """Share of the pictures that decides when to stop, and on which errors are reported apart."""
    relative: bool = True
    """Errors count in units of the teachers' mean error at that point. Otherwise high noise, where errors are large, decides alone."""
    floor: BelowOne = 0.02
    """This share of the weight is spread over all teachers, whatever was learnt: no teacher's weight is 0, and the entropy has a floor."""
    hidden: PositiveInt = 64
    steps: PositiveInt = 500
    batch_size: PositiveInt = 512
    """Points of a step, drawn anew each time."""
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 1e-2
    guidance_rewards: dict[str, dict[str, float]] = {}
    """By domain, then by teacher: the reward of its guided pictures, less the base's. Guidance weights follow their softmax. Empty: they are those of matching."""
    temperature: Positive = 1.0
    """Of that softmax, in units of the reward."""

    def __post_init__(self) -> None:
        for domain, rewards in self.guidance_rewards.items():
            if wrong := [name for name, reward in rewards.items() if not math.isfinite(reward)]:
                raise ValueError(
                    f"guidance_rewards: that of `{wrong[0]}` in domain `{domain}` is {rewards[wrong[0]]}, expected a finite number"
                )


class LearnedConfig(Config):
    """A small network that was fitted to the teachers' errors on real pictures, before distillation."""

    path: str = ""
    """The folder that ``ernie distill gates fit`` wrote."""
    fit: FitConfig = FitConfig()
    """Read by that command alone."""


GATES = (
    Entry("constant", "the same weights always; by default the generalist alone", ConstantConfig, "ernie_distill.gates.constant:build"),
    Entry("schedule", "by noise level", ScheduleConfig, "ernie_distill.gates.schedule:build"),
    Entry("domain", "by the prompt's domain", DomainConfig, "ernie_distill.gates.domain:build"),
    Entry("product", "by objective, noise level and domain together", ProductConfig, "ernie_distill.gates.product:build"),
    Entry("spatial", "as product, with an expert of text where text is drawn", SpatialConfig, "ernie_distill.gates.spatial:build"),
    Entry("learned", "fitted to the teachers' errors on real pictures", LearnedConfig, "ernie_distill.gates.learned:build"),
)
