"""Where a finished build keeps its indexes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ernie_core.api import DataError
from ernie_data.loading.indexing import INDEX_STAGE, ROWS_STAGE

DATASET = "dataset.json"


@dataclass(frozen=True)
class BuiltIndexes:
    """``rows``: the folder of the records' texts. ``sizes``: the folder of the sampling index by training size in pixels."""

    root: Path
    rows: Path
    sizes: Mapping[int, Path]


def find_indexes(path: str | os.PathLike[str]) -> BuiltIndexes:
    """
    Raises:
        DataError: no finished build, or one without ``[index]``.
    """
    root = Path(path)
    file = root / DATASET
    try:
        about = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; expected the output folder of a finished `ernie data build`") from None
    except ValueError as error:
        raise DataError(f"{file}: damaged ({error}); run `ernie data build` again") from None
    named = about.get("index") if isinstance(about, dict) else None
    if not isinstance(named, dict):
        raise DataError(
            f"{root}: this build has no index. Add an [index] table to its recipe and run `ernie data build` again; no stage is done anew."
        )
    sizes = {int(size): root / INDEX_STAGE / unit for size, unit in named["sizes"].items()}
    return BuiltIndexes(root, root / ROWS_STAGE / named["rows"], sizes)


def index_folder(path: Path) -> Path:
    """The folder of a sampling index, given it or a build: categories and scores are the same in a build's indexes for all sizes."""
    if (path / DATASET).is_file():
        built = find_indexes(path)
        return built.sizes[min(built.sizes)]
    return path
