"""The stages ``domain`` and ``coherent``. Light: no pyarrow.

.. code-block:: toml

    [[stages]]
    use = "domain"
    labels = "labels.jsonl"
    domains = [
        { name = "poster", where = "category = 'poster' and len(ocr_text) > 0" },
        { name = "portrait", label = "portrait", threshold = 0.8 },
    ]

    [[stages]]
    use = "coherent"
    take = 20000
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ernie_core.api import Config, Count, Entry, Fraction, PositiveInt

Share = Annotated[float, Meta(gt=0, le=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class DomainRule(Config):
    """A kind of picture that there is demand for. With both ``where`` and ``label``, both must hold."""

    name: Name
    where: str = ""
    """SQL condition over the columns of one record, as the stage ``select`` takes it."""
    label: str = ""
    """A label of the classifier."""
    threshold: Fraction = 0.5
    """The label's least probability."""

    def __post_init__(self) -> None:
        if not (self.where or self.label):
            raise ValueError(f"the domain `{self.name}` needs `where`, `label` or both")


class DomainConfig(Config):
    """``use = "domain"``: the first domain that matches; records of none are refused."""

    domains: Annotated[tuple[DomainRule, ...], Meta(min_length=1)]
    """Tables of ``name`` with ``where`` (SQL over one record), or ``label`` and ``threshold``, or both."""
    labels: str = ""
    """A .jsonl or .parquet file of ``key`` and ``label``, with keys of this build: a linear head on embeddings learns from them."""
    seed: int = 0
    """Of the sample that the head learns from, where there are very many labels."""

    def __post_init__(self) -> None:
        check_domains(self.domains, self.labels)


def check_domains(domains: tuple[DomainRule, ...], labels: str) -> None:
    """
    Raises:
        ValueError: two domains have one name, or labels and a file of them do not go together.
    """
    names = [rule.name for rule in domains]
    if len(set(names)) < len(names):
        raise ValueError(f"two domains are named {next(name for name in names if names.count(name) > 1)!r}")
    if any(rule.label for rule in domains) != bool(labels):
        raise ValueError("`labels` (a file) and a domain's `label` need each other")
    if labels and not labels.endswith((".jsonl", ".parquet")):
        raise ValueError(f"`labels` must end in .jsonl or .parquet, found {labels!r}")


class CoherentConfig(Config):
    """``use = "coherent"``: of each domain the best scored, near the domain's core, not too much of the same. Ours: the report names the aim, not the
    criteria. Columns that a criterion does not use need not be there.
    """

    take: PositiveInt = 10_000
    """At most so many records of each domain."""
    best: Share = 0.5
    """Share of a domain that is kept by ``score``; 1: all."""
    coherence: Share = 0.8
    """Share of those that is kept by the cosine of ``embedding`` with the domain's core; 1: all."""
    per_category: Count = 0
    """At most so many of each ``category`` within a domain; 0: any number."""
    apart: Annotated[float, Meta(ge=0, lt=2)] = 0.0
    """Least cosine distance between two kept records of a domain; 0: any. Each record is compared with all that are kept before it."""


STAGES = (
    Entry("domain", "which domain a record belongs to, by conditions and a classifier", DomainConfig, "ernie_data.topdown.domain:build"),
    Entry("coherent", "the best, most coherent and diverse records of each domain", CoherentConfig, "ernie_data.topdown.coherent:build"),
)
