"""A taxonomy on disk: a tree of named categories with their centroids, in a folder that is written whole and verified when read.

| file | holds |
|---|---|
| ``taxonomy.json`` | format, version, whether embeddings are scaled to length 1, how it was made |
| ``nodes.parquet`` | per node: level, number, parent, name, path, pictures, mean distance to the centroid, words, example keys |
| ``centroids-<level>.npy`` | float32 ``[nodes of the level, length of an embedding]`` |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ernie_core import io
from ernie_core.api import DataError
from ernie_data.category.arrays import add_array, read_array
from ernie_data.category.kmeans import Tree
from ernie_data.engine.unit import digest
from ernie_data.tables import encode_rows, read_rows

FORMAT, VERSION = "ernie-taxonomy", 1
FACTS, NODES = "taxonomy.json", "nodes.parquet"
_COLUMNS = {
    "key": "string",
    "level": "int",
    "node": "int",
    "parent": "int",
    "name": "string",
    "path": "string",
    "pictures": "int",
    "mean_distance": "float",
    "words": "strings",
    "examples": "strings",
}


@dataclass(frozen=True)
class Node:
    """One category. ``name`` is unique within its level; ``path`` is the names from the first level down. ``mean_distance`` is None without pictures."""

    name: str
    path: str
    pictures: int
    mean_distance: float | None
    words: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Taxonomy:
    """
    Args:
        nodes: per level, in the order of the tree's centroids.
        normalise: embeddings are scaled to length 1 before they are compared.
        facts: how it was made; plain JSON.
    """

    tree: Tree
    nodes: tuple[tuple[Node, ...], ...]
    normalise: bool
    facts: Mapping[str, Any]

    @property
    def leaves(self) -> tuple[Node, ...]:
        return self.nodes[-1]

    def write(self, folder: io.FolderWriter) -> None:
        facts = {"format": FORMAT, "version": VERSION, "levels": len(self.nodes), "normalise": self.normalise, **self.facts}
        folder.add_json(FACTS, facts)
        folder.add_bytes(NODES, encode_rows([row for level in range(len(self.nodes)) for row in self._rows(level)], _COLUMNS))
        for level, centroids_KD in enumerate(self.tree.centroids):
            add_array(folder, _centroids(level), centroids_KD)

    def _rows(self, level: int) -> list[dict[str, Any]]:
        rows = []
        for number, node in enumerate(self.nodes[level]):
            row = {"key": f"{level}-{number:05d}", "level": level, "node": number, **vars(node)}
            row |= {"words": list(node.words), "examples": list(node.examples)}
            if level:
                row["parent"] = int(self.tree.parents[level][number])
            rows.append(row)
        return rows


def taxonomy_sha256(folder: Path) -> str:
    """What a taxonomy's files hold, from its manifest: names the work that uses it.

    Raises:
        DataError: not a taxonomy.
    """
    try:
        files = io.read_manifest(folder)["files"]
        return digest({name: fact["sha256"] for name, fact in files.items() if name in (FACTS, NODES) or name.startswith("centroids-")})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{folder}: no taxonomy (no readable {io.MANIFEST}); expected a folder written by `ernie data taxonomy build`"
        ) from None


def read_taxonomy(folder: Path) -> Taxonomy:
    """
    Raises:
        DataError: not a taxonomy, damaged, or its files do not belong together.
    """
    if not (folder / FACTS).is_file():
        raise DataError(f"{folder}: no taxonomy (no {FACTS}); expected a folder written by `ernie data taxonomy build`")
    if wrong := io.verify_folder(folder):
        raise DataError(f"{wrong}. The taxonomy was not used; build it again.")
    facts = json.loads((folder / FACTS).read_bytes())
    if facts.get("format") != FORMAT or facts.get("version") != VERSION:
        raise DataError(
            f"{folder / FACTS}: expected {FORMAT} version {VERSION}, found {facts.get('format')!r} version {facts.get('version')!r}; build it again"
        )
    levels = facts["levels"]
    rows = read_rows(folder / NODES)
    by_level = [[row for row in rows if row["level"] == level] for level in range(levels)]
    centroids = tuple(read_array(folder / _centroids(level), axes=2) for level in range(levels))
    if any(len(c) != len(level) for c, level in zip(centroids, by_level)):
        raise DataError(f"{folder}: its centroids and nodes do not belong together; build it again")
    parents = tuple(np.array([row.get("parent", 0) for row in level], np.int64) for level in by_level)
    nodes = tuple(tuple(_node(row) for row in level) for level in by_level)
    about = {name: value for name, value in facts.items() if name not in ("format", "version", "levels", "normalise")}
    return Taxonomy(Tree(centroids, parents), nodes, facts["normalise"], about)


def _node(row: Mapping[str, Any]) -> Node:
    words, examples = tuple(row.get("words", ())), tuple(row.get("examples", ()))
    return Node(row["name"], row["path"], row["pictures"], row.get("mean_distance"), words, examples)


def _centroids(level: int) -> str:
    return f"centroids-{level}.npy"
