"""Builds a taxonomy from a dataset's embeddings, in two passes over it.

The first draws a bounded sample by key, from which the tree is grown. The second assigns every record, counts, keeps the nearest as examples, and
counts the words of the captions of the records that are in the sample. What comes out depends on the records and the options alone.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from ernie_core.api import DataError
from ernie_data.category.entries import CategoryConfig
from ernie_data.category.kmeans import Floats, Ints, Tree, grow_tree
from ernie_data.category.names import WordCounts, names_of
from ernie_data.category.sample import Ranks, Reservoir, ranks
from ernie_data.category.taxonomy import Node, Taxonomy
from ernie_data.category.vectors import embedded
from ernie_data.engine.view import DatasetView
from ernie_data.tables import KEY

_EXAMPLES = 5


def build_taxonomy(dataset: DatasetView, config: CategoryConfig) -> Taxonomy:
    """
    Raises:
        DataError: no record has an embedding, or they have several lengths.
    """
    sample: Reservoir | None = None
    pictures = 0
    for table, x_ND in embedded(dataset, normalise=config.normalise):
        if sample is None:
            sample = Reservoir(config.sample_rows, x_ND.shape[1])
        sample.add(ranks(table.column(KEY).to_pylist(), config.seed), x_ND)
        pictures += len(x_ND)
    if sample is None:
        raise DataError("no record has an embedding, and a taxonomy is built from them; put the stage `embed` before `category`")
    leaves = min(config.leaves, max(1, sample.count // config.rows_per_leaf))
    last, count = sample.last, sample.count
    _, x_ND, _ = sample.take()
    del sample
    tree = grow_tree(x_ND, leaves=leaves, levels=config.levels, seed=config.seed, iterations=config.iterations)
    del x_ND
    census = _Census(tree, last)
    for table, x_ND in embedded(dataset, ["captions"], normalise=config.normalise):
        keys = table.column(KEY).to_pylist()
        census.add(keys, ranks(keys, config.seed), *tree.assign(x_ND), table.column("captions"))
    facts = {
        "pictures": pictures,
        "sampled": count,
        "leaves": tree.leaves,
        "embedding_numbers": tree.width,
        "asked": {name: getattr(config, name) for name in ("leaves", "levels", "rows_per_leaf", "sample_rows", "iterations", "seed")},
    }
    return Taxonomy(tree, census.nodes(), config.normalise, facts)


class _Census:
    """What is counted for each leaf in the second pass. ``last``: the highest rank whose captions count."""

    def __init__(self, tree: Tree, last: int) -> None:
        self.tree, self.last = tree, np.uint64(last)
        self.pictures_K = np.zeros(tree.leaves, np.int64)
        self.distance_K = np.zeros(tree.leaves)
        self.examples: list[list[tuple[float, str]]] = [[] for _ in range(tree.leaves)]
        self.farthest_K = np.full(tree.leaves, np.inf)
        self.words = WordCounts(tree.leaves)

    def add(self, keys: Sequence[str], rank_N: Ranks, leaf_N: Ints, distance_N: Floats, captions: Iterable[object]) -> None:
        np.add.at(self.pictures_K, leaf_N, 1)
        np.add.at(self.distance_K, leaf_N, distance_N)  # row by row in the dataset's order, so that pieces do not show
        for n in np.flatnonzero(distance_N <= self.farthest_K[leaf_N]):
            nearest = self.examples[leaf_N[n]]
            insort(nearest, (float(distance_N[n]), keys[n]))
            del nearest[_EXAMPLES:]
            if len(nearest) == _EXAMPLES:
                self.farthest_K[leaf_N[n]] = nearest[-1][0]
        for n, caption in enumerate(captions):
            if rank_N[n] <= self.last and (texts := _texts(caption)):
                self.words.add(int(leaf_N[n]), texts)

    def nodes(self) -> tuple[tuple[Node, ...], ...]:
        levels = len(self.tree.centroids)
        paths = [""]
        found: list[tuple[Node, ...]] = []
        for level in range(levels):
            above = self.tree.ancestors(level)
            count = len(self.tree.centroids[level])
            named = names_of(self.words, above, count)
            parents = self.tree.parents[level]
            paths = [f"{paths[parents[k]]}/{n.name}" if level else n.name for k, n in enumerate(named)]
            pictures = np.bincount(above, weights=self.pictures_K, minlength=count).astype(np.int64)
            distance = np.bincount(above, weights=self.distance_K, minlength=count)
            bounds = np.searchsorted(above, np.arange(count + 1))
            nodes = []
            for k, (first, stop) in enumerate(pairwise(bounds)):
                examples = sorted(e for leaf in self.examples[first:stop] for e in leaf)[:_EXAMPLES]
                mean = round(float(distance[k] / pictures[k]), 6) if pictures[k] else None
                nodes.append(Node(named[k].name, paths[k], int(pictures[k]), mean, named[k].words, tuple(key for _, key in examples)))
            found.append(tuple(nodes))
        return tuple(found)


def _texts(captions: object) -> list[str]:
    """A cell of the map column ``captions``: texts by style."""
    cell = captions.as_py() if hasattr(captions, "as_py") else captions
    if not cell:
        return []
    pairs = cell.items() if isinstance(cell, Mapping) else cell
    return [text for _, text in sorted(pairs) if text]
