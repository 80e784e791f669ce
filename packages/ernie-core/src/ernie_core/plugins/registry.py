"""Who offers which component: offers, failures, conflicts, and how they are named in messages. Pure and light."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ernie_core.plugins.entry import Command, Entry

CORE = "core"

NOUNS: Mapping[str, str] = {
    "tokenizers": "prompt encoder",
    "codecs": "codec",
    "dit_blocks": "DiT block",
    "losses": "loss",
    "samplers": "sampler",
    "densities": "density",
    "methods": "method",
    "data_sources": "data source",
    "data_stages": "curation stage",
    "scorers": "scorer",
    "evaluations": "evaluation suite",
    "op_sets": "op set",
    "engines": "engine",
    "gates": "gate",
    "caches": "cache",
    "commands": "command",
}


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Offer:
    """One component or command and the plugin that offers it."""

    registry: str
    entry: Entry | Command
    source: Source

    @property
    def key(self) -> tuple[str, str]:
        return self.registry, self.entry.name


@dataclass(frozen=True)
class Failed:
    """A plugin that was skipped whole. ``offers`` are the (registry, name) pairs it had given before it failed, for messages only."""

    name: str
    distribution: str
    version: str
    phase: str  # discover, import, api, hooks, collect, config, build, names, check
    reason: str
    offers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"plugin `{self.name}` ({self.distribution} {self.version}) was skipped: {self.reason}"


@dataclass(frozen=True)
class Conflict:
    """A name that several plugins offer, and that is therefore withheld from all of them."""

    registry: str
    name: str
    sources: tuple[Source, ...]

    def __str__(self) -> str:
        who = " and ".join(f"`{s.plugin}` ({s})" for s in self.sources)
        plugins = " or ".join(s.plugin for s in self.sources)
        return f'{len(self.sources)} plugins offer the {noun(self.registry)} "{self.name}": {who}. Disable one of them (--disable-plugins {plugins}).'


def noun(registry: str) -> str:
    """What one component of a registry is called."""
    return NOUNS.get(registry, registry.replace("_", " ").removesuffix("s"))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was probably meant to be."""
    matches = difflib.get_close_matches(name[:80], list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str], quote: str = '"') -> str:
    match = nearest(name, known)
    return f"; did you mean {quote}{match}{quote}?" if match else ""


def settle(
    core: Sequence[Offer], plugins: Mapping[Source, Sequence[Offer]]
) -> tuple[dict[str, dict[str, Offer]], tuple[Failed, ...], tuple[Conflict, ...]]:
    """Decide who owns each name. The result does not depend on the order of ``plugins``.

    A plugin that offers a name of core fails whole; a name that several plugins offer is withheld from all of them, and the rest of each stays.
    """
    owned = {offer.key for offer in core}
    failures = []
    claims: dict[tuple[str, str], list[Offer]] = {}
    for source in sorted(plugins, key=lambda s: (s.plugin, s.distribution)):
        offers = plugins[source]
        taken = sorted({offer.key for offer in offers} & owned)
        if taken:
            names = ", ".join(f'the {noun(registry)} "{name}"' for registry, name in taken)
            reason = f"it offers {names}, which ernie-core has itself. Rename it in {source.distribution}."
            failures.append(
                Failed(source.plugin, source.distribution, source.version, "names", reason, tuple(offer.key for offer in offers))
            )
            continue
        for offer in offers:
            claims.setdefault(offer.key, []).append(offer)
    registries: dict[str, dict[str, Offer]] = {}
    conflicts = []
    for offer in core:
        registries.setdefault(offer.registry, {})[offer.entry.name] = offer
    for (registry, name), offers in sorted(claims.items()):
        if len(offers) > 1:
            conflicts.append(Conflict(registry, name, tuple(offer.source for offer in offers)))
        else:
            registries.setdefault(registry, {})[name] = offers[0]
    return registries, tuple(failures), tuple(conflicts)
