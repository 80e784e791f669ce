"""Options of the preference losses, and their entries. Light: no torch.

A strength that multiplies an error means nothing without the reduction of that error: a sum over the latent of a picture of 1024 x 1024 pixels is 524,288
times its mean. Every option below therefore says which one it multiplies.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta

from ernie_core.api import Config, Entry, NonNegative, Positive, PositiveInt

Reduction = Literal["sum", "mean"]


class FiniteConfig(Config):
    """Refuses ``inf``, which the ranges of the fields let pass."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"`{name}` must be a finite number, found {value}")


class AnchoredConfig(FiniteConfig):
    """What anchored losses have in common.

    ``beta_eff``, the preference strength in units of the anchors' errors, decides what is trained: at or below ``anchor_lose`` the rejected picture is always
    trained towards (a weighted fine-tuning), above 2 ``anchor_lose`` it is repelled from the first step.
    """

    beta: Positive = 0.05
    """Strength of the preference, per error in ``dpo_reduction``. With sums at 1024 x 1024 pixels, beta_eff is 26,214."""
    dpo_reduction: Reduction = "sum"
    """How errors enter the preference term. The report writes a squared norm, which is a sum."""
    anchor_reduction: Reduction = "mean"
    """How errors enter the anchors. The report says flow-matching loss, which is a mean."""
    anchor_win: NonNegative = 0.35
    anchor_lose: NonNegative = 0.15
    reference_elements: PositiveInt | None = None
    """Sums are scaled as if a latent had this many numbers (128 x 64 x 64 for 1024 x 1024 pixels), which keeps beta_eff the same through stages of
    different resolution. By default they follow the stage."""


class AnchoredDpoConfig(AnchoredConfig):
    """The report's loss: a preference term and the policy's own flow loss on both pictures."""


class HingeAnchorsConfig(AnchoredConfig):
    """Anchors that act only on errors that have risen above the reference's by more than ``slack``."""

    slack: NonNegative = 0.0
    """In mean squared error, whatever ``anchor_reduction`` is."""


class DiffusionDpoConfig(FiniteConfig):
    """Diffusion-DPO as its authors released it: half of beta, mean errors, no anchors."""

    beta: Positive = 5000.0


class FlowDpoConfig(FiniteConfig):
    """Flow-DPO with a beta that is the same at all noise levels, half of it, mean errors, no anchors."""

    beta: Positive = 100.0


class LinearDpoConfig(FiniteConfig):
    """Linear-DPO: the pair's flow losses with opposite signs, weighted by a clipped line in the margin that carries no gradient.

    The published method also lets the reference follow the policy; that is an option of the training method.
    """

    beta: Positive = 5000.0
    """Per mean error. The weight falls from 1 to 0 while the margin goes from -2.5 / beta to 2.5 / beta."""
    floor: Annotated[float, Meta(ge=0, lt=0.5)] = 0.01
    """Least weight, and 1 minus the greatest. Above 0 the repulsion from the rejected picture never ends."""


class IpoConfig(FiniteConfig):
    """IPO: the squared distance of the margin from a target of 1 / (2 beta), in mean errors. It pulls back whoever goes beyond the target."""

    beta: Positive = 10.0
    """Per mean error; the default's target margin is 0.05."""


LOSSES = (
    Entry(
        "anchored-dpo",
        "preference with flow-loss anchors on both pictures (the ERNIE-Image report)",
        AnchoredDpoConfig,
        "ernie_align.preference:build_anchored",
        kind="pair",
    ),
    Entry(
        "hinge-anchors",
        "preference with anchors that act only above the reference's error",
        HingeAnchorsConfig,
        "ernie_align.preference:build_hinge",
        kind="pair",
    ),
    Entry(
        "diffusion-dpo", "Diffusion-DPO (Wallace et al. 2023)", DiffusionDpoConfig, "ernie_align.preference:build_diffusion", kind="pair"
    ),
    Entry("flow-dpo", "Flow-DPO with a constant beta (Liu et al. 2025)", FlowDpoConfig, "ernie_align.preference:build_flow", kind="pair"),
    Entry("linear-dpo", "Linear-DPO: a clipped linear weight (2026)", LinearDpoConfig, "ernie_align.preference:build_linear", kind="pair"),
    Entry(
        "ipo", "squared distance of the margin from a target (Azar et al. 2023)", IpoConfig, "ernie_align.preference:build_ipo", kind="pair"
    ),
)
