"""The file of ``ernie distill teachers build``. Light: no torch."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from ernie_core.adapters.config import AdapterConfig
from ernie_core.api import Config, PositiveInt
from ernie_distill.method_config import GENERALIST


class ExpertConfig(Config):
    """``[[experts]]``"""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    domains: Annotated[tuple[str, ...], Meta(min_length=1)]
    """What it is an expert of, as the data source names categories: gates look these up. A source with an option ``categories``, such as `curated` and
    `shapes`, is narrowed to them."""
    data: dict[str, Any] | None = None
    """A ``[data]`` table of its own, over that of ``train`` and taken as it is: for sources that cannot be narrowed, such as a folder for each domain."""
    steps: PositiveInt | None = None
    """Default: the one for all."""
    adapter: AdapterConfig | UnsetType | None = UNSET
    """Default: the one for all. ``false`` trains all weights."""


class TeachersConfig(Config):
    """Which experts are made, and how."""

    train: str | tuple[str, ...] | dict[str, Any]
    """What all experts share: a training config or several (paths seen from this file), or its tables. Its ``model.init`` is the generalist and the base."""
    experts: Annotated[tuple[ExpertConfig, ...], Meta(min_length=1)]
    steps: PositiveInt | None = None
    """Default: what ``train`` says."""
    adapter: AdapterConfig | UnsetType | None = UNSET
    """Default: what ``train`` says under ``method.adapter``, or the method's own. ``false`` trains all weights: such an expert is held as a network of its own,
    which costs the memory of one."""

    def __post_init__(self) -> None:
        names = [expert.name for expert in self.experts]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"experts: several are called `{repeated[0]}`")
        if GENERALIST in names:
            raise ValueError(f"experts: `{GENERALIST}` is the model that training starts from; call this expert otherwise")
        if "lock" in names:
            raise ValueError("experts: `lock` is the name of the output folder's own lock; call this expert otherwise")
        for expert in self.experts:
            if twice := sorted({domain for domain in expert.domains if expert.domains.count(domain) > 1}):
                raise ValueError(f"experts: `{expert.name}` names the domain `{twice[0]}` more than once")
