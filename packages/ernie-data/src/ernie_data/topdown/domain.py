"""The stage ``domain``: conditions over columns and a classifier on embeddings say which domain a record belongs to, if any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import duckdb
import numpy as np

from ernie_core.api import ConfigError, DataError, DataStageContext, Problem
from ernie_data.category.entries import CategoryConfig
from ernie_data.category.head import Head, read_head, softmax
from ernie_data.category.labels import labels_sha256, read_labels
from ernie_data.category.stage import train_on
from ernie_data.category.vectors import EMBEDDING, scaled
from ernie_data.engine.stage import BatchStage, Item, Kept, Refuse
from ernie_data.reasons import ReasonCode
from ernie_data.scoring.condition import Condition
from ernie_data.topdown.entries import DomainConfig

if TYPE_CHECKING:
    from ernie_core.io import FolderWriter
    from ernie_data.engine.view import DatasetView


def build(config: DomainConfig, context: DataStageContext) -> Domain:
    """
    Raises:
        ConfigError: a condition that is none over the columns of earlier stages, or a label that the file does not have.
        DataError: the file of labels cannot be read.
    """
    return Domain(config, context)


class Domain(BatchStage):
    """Columns: ``domain``, and ``domain_probability`` where a label decided. The first rule that holds wins."""

    columns: ClassVar = {"domain": "string", "domain_probability": "float"}
    batch_size: ClassVar[int] = 1024

    def __init__(self, config: DomainConfig, context: DataStageContext) -> None:
        self.config = config
        self.conditions: list[Condition | None] = []
        for rule in config.domains:
            try:
                self.conditions.append(Condition(rule.where, context.columns) if rule.where else None)
            except ConfigError as error:
                raise ConfigError([Problem(f"domain `{rule.name}`", problem.message) for problem in error.problems]) from None
        known = {name: context.columns[name] for condition in self.conditions if condition for name in condition.used if name != "key"}
        self.surveys = bool(config.labels)
        self.needs = (*sorted(known), *((EMBEDDING,) if self.surveys else ()))
        self.code = f"1 duckdb {duckdb.__version__} {' '.join(f'{name}:{kind}' for name, kind in sorted(known.items()))}"
        if config.labels:
            self.code += f" numpy {np.__version__} labels {labels_sha256(Path(config.labels))}"
        self.folder = context.survey
        self.head: Head | None = None

    def survey(self, dataset: DatasetView, out: FolderWriter) -> None:
        """Train the classifier."""
        path = Path(self.config.labels)
        there = set(read_labels(path).values())
        for rule in self.config.domains:
            if rule.label and rule.label not in there:
                raise DataError(f"domain `{rule.name}`: {path} has no label {rule.label!r}; it has {', '.join(sorted(there)[:20])}")
        train_on(dataset, path, CategoryConfig(labels=self.config.labels, seed=self.config.seed)).write(out)

    def setup(self) -> None:
        if self.folder is not None:
            self.head = read_head(self.folder)

    def many(self, items: Sequence[Item]) -> list[Kept | Refuse]:
        rows = [item.columns for item in items]
        holds = [condition.evaluate(rows) if condition is not None else [True] * len(rows) for condition in self.conditions]
        return [self._outcome(item, [column[n] for column in holds]) for n, item in enumerate(items)]

    def _outcome(self, item: Item, holds: Sequence[bool]) -> Kept | Refuse:
        probabilities = self._probabilities(item)
        for rule, held in zip(self.config.domains, holds):
            probability = probabilities.get(rule.label)
            if held and not rule.label:
                return Kept({"domain": rule.name})
            if held and probability is not None and probability >= rule.threshold:
                return Kept({"domain": rule.name, "domain_probability": round(probability, 6)})
        return Refuse(ReasonCode.NO_DOMAIN, f"none of {', '.join(rule.name for rule in self.config.domains)}")

    def _probabilities(self, item: Item) -> dict[str, float]:
        """Of each label; empty without an embedding."""
        if self.head is None or item.columns.get(EMBEDDING) is None:
            return {}
        x_D = scaled([item.columns[EMBEDDING]], normalise=self.head.normalise)[0].astype(np.float64)
        weights_EC = self.head.weights_EC
        if len(x_D) != len(weights_EC) - 1:
            raise DataError(f"{item.key}: the embedding has {len(x_D)} numbers, and the classifier was trained on {len(weights_EC) - 1}")
        p_C = softmax((x_D @ weights_EC[:-1] + weights_EC[-1])[None])[0]
        return dict(zip(self.head.labels, map(float, p_C)))
