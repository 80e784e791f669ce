"""Arrays of numbers as ``.npy`` files in a committed folder. Objects are never loaded: they would be pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.io import FolderWriter


def add_array(folder: FolderWriter, name: str, array: NDArray[Any]) -> None:
    """Little-endian, whatever the machine."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    folder.add_file(name, lambda path: np.save(path, plain, allow_pickle=False))  # durable: the folder's writer syncs it


def read_array(path: Path, *, axes: int) -> NDArray[np.floating[Any]]:
    """
    Raises:
        DataError: not an array of finite numbers with so many axes.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise DataError(f"{path}: not an array of numbers ({error}); build it again") from None
    if not isinstance(array, np.ndarray) or array.ndim != axes or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise DataError(f"{path}: expected an array of finite numbers with {axes} axes; build it again")
    return array
