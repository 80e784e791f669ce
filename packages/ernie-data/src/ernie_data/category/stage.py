"""The stage ``category``: the leaf of a taxonomy, the label of a trained head, or what a column says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ernie_core.api import ConfigError, DataError, DataStageContext
from ernie_core.io import FolderWriter
from ernie_data.category.build import build_taxonomy
from ernie_data.category.entries import CategoryConfig
from ernie_data.category.head import Head, read_head, train_head
from ernie_data.category.labels import labels_sha256, one_line, read_labels
from ernie_data.category.sample import Reservoir, ranks
from ernie_data.category.taxonomy import Taxonomy, read_taxonomy, taxonomy_sha256
from ernie_data.category.vectors import EMBEDDING, embedded, scaled
from ernie_data.engine.stage import Item, Kept, RecordStage
from ernie_data.engine.view import DatasetView
from ernie_data.tables import KEY

_CAPTIONS = "captions."
_HELD_OUT_ONE_IN = 10


def build(config: CategoryConfig, context: DataStageContext) -> RecordStage:
    """
    Raises:
        ConfigError: ``column`` names none of the columns so far.
        DataError: no taxonomy or no readable labels at the path given.
    """
    if config.column:
        return FromColumn(config, context)
    return FromLabels(config, context) if config.labels else FromTaxonomy(config, context)


class FromTaxonomy(RecordStage):
    """Columns: ``category``, the name of the nearest leaf, and ``category_distance`` to its centroid. Records without an embedding have neither.

    Without ``config.taxonomy`` the survey builds one, as `ernie data taxonomy show` shows it.
    """

    columns: ClassVar = {"category": "string", "category_distance": "float"}
    needs: ClassVar = (EMBEDDING,)

    def __init__(self, config: CategoryConfig, context: DataStageContext) -> None:
        self.config = config
        self.code = f"1 numpy {np.__version__}"
        self.surveys = not config.taxonomy
        self.folder = Path(config.taxonomy) if config.taxonomy else context.survey
        self.taxonomy: Taxonomy | None = None
        if config.taxonomy:
            self.code += f" taxonomy {taxonomy_sha256(Path(config.taxonomy))}"

    def survey(self, dataset: DatasetView, out: FolderWriter) -> None:
        build_taxonomy(dataset, self.config).write(out)

    def setup(self) -> None:
        if self.folder is not None:
            self.taxonomy = read_taxonomy(self.folder)

    def one(self, item: Item) -> Kept:
        embedding = item.columns.get(EMBEDDING)
        if embedding is None:
            return Kept({})
        if self.taxonomy is None:
            raise DataError("the stage `category` has no taxonomy yet: its survey comes first")
        x_1D = scaled([embedding], normalise=self.taxonomy.normalise)
        leaf_1, distance_1 = self.taxonomy.tree.assign(x_1D)
        return Kept({"category": self.taxonomy.leaves[int(leaf_1[0])].name, "category_distance": round(float(distance_1[0]), 6)})


class FromLabels(RecordStage):
    """Columns: ``category``, the likeliest label, and ``category_confidence``, its probability. Records without an embedding have neither.

    The survey trains the head on the labelled records and holds out every tenth, by key; ``head.json`` says how many of these it judges right.
    """

    columns: ClassVar = {"category": "string", "category_confidence": "float"}
    needs: ClassVar = (EMBEDDING,)
    surveys: ClassVar = True

    def __init__(self, config: CategoryConfig, context: DataStageContext) -> None:
        self.config = config
        self.path = Path(config.labels)
        self.code = f"1 numpy {np.__version__} labels {labels_sha256(self.path)}"
        self.folder = context.survey
        self.head: Head | None = None

    def survey(self, dataset: DatasetView, out: FolderWriter) -> None:
        train_on(dataset, self.path, self.config).write(out)

    def setup(self) -> None:
        if self.folder is not None:
            self.head = read_head(self.folder)

    def one(self, item: Item) -> Kept:
        embedding = item.columns.get(EMBEDDING)
        if embedding is None:
            return Kept({})
        if self.head is None:
            raise DataError("the stage `category` has no head yet: its survey comes first")
        label, probability = self.head.judge(scaled([embedding], normalise=self.head.normalise)[0])
        return Kept({"category": label, "category_confidence": round(probability, 6)})


def train_on(dataset: DatasetView, path: Path, config: CategoryConfig) -> Head:
    """A head from a label file and the embeddings of its keys.

    Raises:
        DataError: no record of the dataset is labelled and has an embedding, or all of them have one label.
    """
    labels = read_labels(path)
    names = sorted(set(labels.values()))
    number = {name: n for n, name in enumerate(names)}
    sample: Reservoir | None = None
    example = ""
    for table, x_ND in embedded(dataset, normalise=config.normalise):
        keys = table.column(KEY).to_pylist()
        example = example or keys[0]
        rows = [n for n, key in enumerate(keys) if key in labels]
        if sample is None:
            sample = Reservoir(config.sample_rows, x_ND.shape[1])
        if rows:
            sample.add(ranks([keys[n] for n in rows], config.seed), x_ND[rows], [number[labels[keys[n]]] for n in rows])
    if sample is None:
        raise DataError("no record has an embedding, and a head is trained on them; put the stage `embed` before `category`")
    rank_N, x_ND, label_N = sample.take()
    found = np.bincount(label_N, minlength=len(names)) if len(label_N) else np.zeros(len(names), np.int64)
    if np.count_nonzero(found) < 2:
        raise DataError(
            f"{path}: {int(found.sum())} of its {len(labels)} keys are records of this dataset with an embedding, with {np.count_nonzero(found)} "
            f"different labels; a head needs two. It has {next(iter(labels))!r}, the dataset {example!r}"
        )
    held_N = rank_N % np.uint64(_HELD_OUT_ONE_IN) == 0
    weights_EC, facts = train_head(x_ND, label_N, held_N, classes=len(names))
    facts |= {"labelled": len(labels), "pictures": {name: int(count) for name, count in zip(names, found)}}
    return Head(tuple(names), weights_EC, config.normalise, facts)


class FromColumn(RecordStage):
    """Columns: ``category``, as another column or the captions of one style say. Records that have none there have none here."""

    code: ClassVar[str] = "1"
    columns: ClassVar = {"category": "string"}

    def __init__(self, config: CategoryConfig, context: DataStageContext) -> None:
        self.column, _, self.style = config.column.partition(".") if config.column.startswith(_CAPTIONS) else (config.column, "", "")
        self.needs = (self.column,)
        kind = context.columns.get(self.column)
        wanted = ("map",) if self.style else ("string", "int", "bool")
        if kind is not None and kind not in wanted:
            hint = "; write `captions.NAME` for the captions of one style" if kind == "map" else ""
            raise ConfigError(f"`column` = {config.column!r}: the column {self.column} holds {kind}; expected {' or '.join(wanted)}{hint}")

    def one(self, item: Item) -> Kept:
        value: Any = item.columns.get(self.column)
        if self.style and isinstance(value, Mapping):
            value = value.get(self.style)
        name = "" if value is None else one_line(str(value))
        return Kept({"category": name} if name else {})
