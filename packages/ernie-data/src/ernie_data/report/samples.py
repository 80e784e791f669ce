"""Which records a report shows, and their pictures as small data URIs. What is shown is a pure function of the dataset."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_core.rng import Rng
from ernie_data.images import BROKEN, FORMATS, as_rgb, oriented
from ernie_data.reading.dataset import Dataset
from ernie_data.tables import KEY, Row

THUMBNAIL_PX = 144
_MOST_PIXELS = 200_000_000
_TOO_BIG = ("floats", "json")


@dataclass(frozen=True)
class Sample:
    """A record that is shown. ``uri``: its picture, empty if it was not stored or cannot be decoded; ``pixelated``: it is smaller than a thumbnail."""

    key: str
    row: Mapping[str, Any]
    uri: str
    pixelated: bool
    size_px: tuple[int, int]


def random_rows(count: int, *, most: int, stream: str) -> list[int]:
    """Row numbers without repetition; the same for equal counts."""
    return sorted(Rng(0).at(f"report/{stream}", 0).generator(0).permutation(count)[:most].tolist())


def extreme_rows(values_N: NDArray[np.float64], *, most: int, highest: bool) -> list[int]:
    """Rows of the highest or lowest values, NaN left out, the most extreme first, equal ones in their order."""
    ranked = np.argsort(-values_N if highest else values_N, kind="stable")
    return [int(row) for row in ranked[: most + int(np.isnan(values_N).sum())] if not np.isnan(values_N[row])][:most]


def keys_at(dataset: Dataset, rows: Iterable[int]) -> dict[int, str]:
    """Keys of accepted records by number."""
    wanted = np.array(sorted(set(rows)), np.int64)
    found: dict[int, str] = {}
    first = 0
    for table in dataset.tables([KEY]) if len(wanted) else ():
        here = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + len(table))]
        found.update(zip(here.tolist(), table.column(KEY).take(here - first).to_pylist()))
        first += len(table)
    return found


def load_samples(dataset: Dataset, keys: Iterable[str]) -> dict[str, Sample]:
    """
    Raises:
        DataError: tables or shards that are damaged.
    """
    wanted = set(keys)
    columns = [name for name, kind in dataset.columns.items() if kind not in _TOO_BIG]
    rows: dict[str, Row] = {}
    pieces = set(dataset.locate(wanted).values())
    for row in (row for number in sorted(pieces) for row in dataset.piece_rows(number, columns)):
        if row[KEY] in wanted:
            rows[row[KEY]] = row
    thumbnails = {key: thumbnail(data) for key, data in dataset.pictures(wanted)}
    return {key: Sample(key, row, *thumbnails.get(key, ("", False, (0, 0)))) for key, row in rows.items()}


def thumbnail(data: bytes, *, side_px: int = THUMBNAIL_PX) -> tuple[str, bool, tuple[int, int]]:
    """A data URI, whether the picture is smaller than a thumbnail, and its size. Small pictures are kept exactly, large ones become JPEG."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                return "", False, image.size
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, (2 * side_px, 2 * side_px))
            size = image.size
            image.load()
            picture = oriented(as_rgb(image), image)
    except (*BROKEN, Image.DecompressionBombError):
        return "", False, (0, 0)
    small = max(picture.size) <= side_px
    if not small:
        picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=3)
    encoded = io.BytesIO()
    if small:
        picture.save(encoded, format="PNG", optimize=True)
    else:
        picture.save(encoded, format="JPEG", quality=82)
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(encoded.getvalue()).decode()}", small, size


def in_order(samples: Mapping[str, Sample], keys: Sequence[str]) -> list[Sample]:
    return [samples[key] for key in keys if key in samples]
