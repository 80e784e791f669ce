"""The gate ``domain`` (G2): a prompt goes to the experts of what it asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ernie_core.api import ConfigError, GateContext
from ernie_distill.gate_config import DomainConfig
from ernie_distill.quoted import NOT_AFTER_WORD, NOT_BEFORE_WORD, UNSPACED, quoted

if TYPE_CHECKING:
    from ernie_distill.api import GateInputs


class Shares:
    """``p(k | prompt)``.

    Teachers that name no domains, as the generalist does, are experts of nothing and may be asked about anything: they share what nobody else claims.

    Raises:
        ConfigError: keywords of a domain that no teacher is an expert of.
    """

    def __init__(self, config: DomainConfig, context: GateContext, *, where: str) -> None:
        self._experts: dict[str, list[int]] = {}
        for k, domains in enumerate(context.domains):
            for domain in domains:
                self._experts.setdefault(domain, []).append(k)
        self._others = [k for k, domains in enumerate(context.domains) if not domains] or [0]
        if idle := sorted(set(config.keywords) - set(self._experts)):
            known = ", ".join(sorted(self._experts)) or "none"
            raise ConfigError(
                f"{where}: keywords for `{idle[0]}`, but no teacher is an expert of that domain; domains of the teachers: {known}"
            )
        self._leak, self._quoted, self._teachers = config.leak, config.quoted, context.teachers
        self._keywords = {
            domain: re.compile("|".join(_whole(word.strip()) for word in words), re.IGNORECASE) for domain, words in config.keywords.items()
        }

    def rows(self, domains: Sequence[str], prompts: Sequence[str]) -> Tensor:
        """[B, K], float64, on the CPU; each row sums to 1."""
        return torch.tensor([self._row(domain, prompt) for domain, prompt in zip(domains, prompts, strict=True)], dtype=torch.float64)

    def domains_of(self, domain: str, prompt: str) -> tuple[str, ...]:
        """The domains of a sample that somebody is an expert of: its record's or, where the record has none, those that the words tell."""
        if domain:
            return (domain,) if domain in self._experts else ()
        found = [self._quoted] if self._quoted in self._experts and quoted(prompt) else []
        found += [name for name, words in self._keywords.items() if words.search(prompt)]
        return tuple(name for name in dict.fromkeys(found) if name is not None)

    def describe(self) -> str:
        names = [f"{domain} to {', '.join(self._teachers[k] for k in ks)}" for domain, ks in sorted(self._experts.items())]
        others = ", ".join(self._teachers[k] for k in self._others)
        return "; ".join([*names, f"else to {others}"]) + (f" (and {self._leak:g} of all)" if names and self._leak else "")

    def _row(self, domain: str, prompt: str) -> list[float]:
        row = [0.0] * len(self._teachers)
        found = self.domains_of(domain, prompt)
        for name in found:
            for k in self._experts[name]:
                row[k] += (1 - self._leak) / len(found) / len(self._experts[name])
        for k in self._others:
            row[k] += (self._leak if found else 1.0) / len(self._others)
        return row


def _whole(word: str) -> str:
    """The expression that finds it as a whole word; in a script without spaces, anywhere."""
    begins, ends = (bool(re.match(rf"[{UNSPACED}]", letter)) for letter in (word[0], word[-1]))
    return ("" if begins else NOT_AFTER_WORD) + re.escape(word) + ("" if ends else NOT_BEFORE_WORD)


class Domain:
    def __init__(self, config: DomainConfig, context: GateContext) -> None:
        self._shares = Shares(config, context, where="gate domain")

    def __call__(self, inputs: GateInputs) -> Tensor:
        """[B, K] on the CPU."""
        return self._shares.rows(inputs.domains, inputs.prompts).float()

    def describe(self) -> Sequence[str]:
        return [f"gate domain: {self._shares.describe()}"]


def build(config: DomainConfig, context: GateContext) -> Domain:
    return Domain(config, context)
