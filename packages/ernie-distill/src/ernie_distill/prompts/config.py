"""Options of the data source `prompts`. Light: no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from ernie_core.api import Config, Entry, Positive, Problem
from ernie_distill.gate_config import domains_in_words
from ernie_distill.method_config import MtDmdConfig

MAX_ASPECT = 8.0
LEARN_FROM_PICTURES = ("pretrain", "sft")
_ASPECT = re.compile(r"([1-9][0-9]{0,3}):([1-9][0-9]{0,3})")


class PromptsConfig(Config):
    """Prompts without pictures, for methods that make their own. Files are ``.jsonl``, an object a line with ``prompt`` (and ``style``, if it has one) or
    ``captions`` by style, and where wanted ``domain`` and ``split``; any other file has a prompt a line. A prompt that is there twice counts twice."""

    path: str | Annotated[tuple[str, ...], Meta(min_length=1)]
    """A file, or several that are read as one."""
    domains: dict[str, Positive] = {}
    """Shares of the domains in every batch, in any unit; prompts of others are left out. Empty: all prompts, each as often as any other."""
    aspects: Annotated[tuple[str, ...], Meta(min_length=1)] = ("1:1",)
    """Shapes of the pictures, width to height, which steps take in turn."""
    split: str = "train"
    """Only prompts of this split; one that names none is of ``train``."""

    def __post_init__(self) -> None:
        if twice := sorted({aspect for aspect in self.aspects if self.aspects.count(aspect) > 1}):
            raise ValueError(f"aspects: {twice[0]} is there more than once")
        for aspect in self.aspects:
            ratio_of(aspect)
        if any(not math.isfinite(share) for share in self.domains.values()):
            raise ValueError("domains: shares must be finite")


def ratio_of(aspect: str) -> float:
    """
    Raises:
        ValueError: it is not two whole numbers with a colon, or too long and narrow.
    """
    match = _ASPECT.fullmatch(aspect)
    ratio = int(match[1]) / int(match[2]) if match is not None else 0.0
    if not 1 / MAX_ASPECT <= ratio <= MAX_ASPECT:
        raise ValueError(f'aspects: found "{aspect}", expected width to height such as "3:4", at most {MAX_ASPECT:g} to 1')
    return ratio


def picture_problems(config: Config) -> Iterator[Problem]:
    """A training config whose method learns from pictures, on a source that has none: it would learn black squares."""
    method, validation = getattr(config, "method", None), getattr(config, "validation", None)
    for place, data in (("data", getattr(config, "data", None)), ("validation.data", getattr(validation, "data", None))):
        if getattr(method, "use", "") in LEARN_FROM_PICTURES and getattr(data, "use", "") == "prompts":
            yield Problem(place, f'use = "prompts" has no pictures, and method = "{method.use}" learns from them: choose another source')


def domain_problems(config: Config) -> Iterator[Problem]:
    """An expert that a gate by domains never asks: neither the data nor the words that the gate looks for have one of its domains."""
    method, data = (getattr(getattr(config, name, None), "options", None) for name in ("method", "data"))
    if not isinstance(method, MtDmdConfig) or not isinstance(data, PromptsConfig) or not data.domains:
        return
    in_words = domains_in_words(method.gate.options)
    if in_words is None:
        return
    known = {*data.domains, *in_words}
    for teacher in method.teachers:
        if teacher.domains and not known & set(teacher.domains):
            yield Problem(
                "method.teachers",
                f"`{teacher.name}` is an expert of {', '.join(teacher.domains)}, and no prompt is of that: data.domains has {', '.join(data.domains)}",
            )


DATA_SOURCES = (Entry("prompts", "prompts without pictures, by domain", PromptsConfig, "ernie_distill.prompts.source:build"),)
