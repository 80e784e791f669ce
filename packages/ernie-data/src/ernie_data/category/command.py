"""``ernie data taxonomy build`` and ``ernie data taxonomy show``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_core.api import ConfigError, DataError, recheck
from ernie_core.io import commit_folder
from ernie_data.category.build import build_taxonomy
from ernie_data.category.entries import CategoryConfig
from ernie_data.category.taxonomy import Taxonomy, read_taxonomy
from ernie_data.category.vectors import EMBEDDING
from ernie_data.engine.build import DATASET
from ernie_data.engine.view import DatasetView

if TYPE_CHECKING:
    from ernie_core.api import App


def build(arguments: argparse.Namespace, app: App) -> int:
    """From a finished build's embeddings.

    Raises:
        ConfigError: an option out of its range, or ``--out`` exists.
        DataError: no finished build with embeddings.
    """
    names = ("leaves", "levels", "rows_per_leaf", "sample_rows", "iterations", "normalise", "seed")
    config = recheck(CategoryConfig(**{name: getattr(arguments, name) for name in names}))
    if arguments.out.exists():
        raise ConfigError(f"--out {arguments.out}: exists already; choose another folder, or remove it")
    taxonomy = build_taxonomy(finished(arguments.source), config)
    with commit_folder(arguments.out) as folder:
        taxonomy.write(folder)
    if arguments.json:
        app.out(json.dumps({"taxonomy": str(arguments.out), **taxonomy.facts}))
        return 0
    facts, nodes = taxonomy.facts, ", ".join(str(len(level)) for level in taxonomy.nodes)
    app.out(
        f"{arguments.out}: {facts['leaves']} categories of {facts['pictures']} pictures (levels of {nodes} nodes), learnt from {facts['sampled']}"
    )
    return 0


def finished(out: Path) -> DatasetView:
    """The accepted records of a finished build.

    Raises:
        DataError: not one, or without embeddings.
    """
    try:
        about = json.loads((out / DATASET).read_bytes())
        stages = [stage["stage"] for stage in about["stages"]]
        columns = {name for stage in about["stages"] for name in stage["columns"]}
        pieces = [[str(out / stage / unit) for stage, unit in zip(stages, units)] for units in about["units"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{out}: no finished build (no readable {DATASET}); expected the output of `ernie data build`") from None
    if EMBEDDING not in columns:
        raise DataError(f"{out}: its stages ({', '.join(stages)}) give no column `{EMBEDDING}`; add the stage `embed` and build again")
    return DatasetView(pieces)


def show(arguments: argparse.Namespace, app: App) -> int:
    """The tree with sizes, names and example keys.

    Raises:
        DataError: not a taxonomy, or damaged.
    """
    taxonomy = read_taxonomy(arguments.folder)
    if arguments.json:
        app.out(json.dumps({**taxonomy.facts, "normalise": taxonomy.normalise, "tree": as_json(taxonomy)}, ensure_ascii=False))
    else:
        for line in as_text(taxonomy, depth=arguments.depth, top=arguments.top):
            app.out(line)
    return 0


def as_json(taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """The first level's nodes, each with its ``children``."""
    below: list[dict[str, Any]] = []
    for level in range(len(taxonomy.nodes) - 1, -1, -1):
        parents = taxonomy.tree.parents[level + 1] if below else ()
        here: list[dict[str, Any]] = [{**vars(node), "children": []} for node in taxonomy.nodes[level]]
        for child, parent in zip(below, parents):
            here[int(parent)]["children"].append(child)
        below = here
    return below


def as_text(taxonomy: Taxonomy, *, depth: int | None, top: int) -> Iterator[str]:
    """One line per node, larger ones first. ``depth`` levels; of each node's children the ``top`` largest."""
    facts = taxonomy.facts
    yield f"{facts['leaves']} categories of {facts['pictures']} pictures, learnt from {facts['sampled']}"
    yield from _branch(as_json(taxonomy), indent="", depth=depth if depth is not None else len(taxonomy.nodes), top=top)


def _branch(nodes: list[dict[str, Any]], *, indent: str, depth: int, top: int) -> Iterator[str]:
    if depth == 0:
        return
    ordered = sorted(nodes, key=lambda node: -node["pictures"])
    for node in ordered[:top]:
        examples = "  e.g. " + ", ".join(node["examples"][:2]) if node["examples"] else ""
        yield f"{indent}{node['pictures']:>8}  {node['name']}{examples}"
        yield from _branch(node["children"], indent=indent + "  ", depth=depth - 1, top=top)
    if len(ordered) > top:
        rest = ordered[top:]
        yield f"{indent}{sum(node['pictures'] for node in rest):>8}  in {len(rest)} more"
