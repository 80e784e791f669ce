"""The survey of the stage `duplicates` over synthetic records: time, memory, and whether every planted copy is found.

    python tools/bench/duplicates.py [--rows 1000000] [--hamming 8] [--json]

Hashes and small pictures are random; of every 100 records 10 are near copies (up to ``--hamming`` bits of the hash flipped, rounding noise in the small
picture) and 2 exact ones. Records are made anew whenever the survey reads a piece, so that the memory measured is the survey's own; ``reading_s`` is the
time that takes and is part of ``survey_s``.
"""

from __future__ import annotations

import argparse
import base64
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ernie_core import io
from ernie_data.duplicates.fingerprint import THUMB_BYTES
from ernie_data.duplicates.survey import LOSERS, SUMMARY, Survey
from ernie_data.tables import read_table

PIECE_ROWS = 5000
NEAR_SHARE, EXACT_SHARE = 0.10, 0.02


class Synthetic:
    """A dataset that is computed. Copies come after the ``_originals`` of their piece."""

    def __init__(self, rows: int, flips: int) -> None:
        self.rows, self.flips = rows, flips
        self.reading_s = 0.0

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        for start in range(0, self.rows, PIECE_ROWS):
            began = time.perf_counter()
            table = self._piece(start, min(PIECE_ROWS, self.rows - start), columns)
            self.reading_s += time.perf_counter() - began
            yield table

    def _piece(self, start: int, rows: int, columns: Sequence[str]) -> pa.Table:
        rng = np.random.default_rng(start)
        near, exact = round(NEAR_SHARE * rows), round(EXACT_SHARE * rows)
        originals = rows - near - exact
        copied = np.concatenate([np.arange(originals), rng.choice(originals, near + exact, replace=False)])
        is_near = np.zeros(rows, bool)
        is_near[originals : originals + near] = True
        hashes = rng.integers(0, 2**64, originals, dtype=np.uint64)[copied]
        for _ in range(self.flips):
            hashes[is_near] ^= np.uint64(1) << rng.integers(0, 64, near, dtype=np.uint64)
        table = {"key": [f"synthetic/{start + n:010d}" for n in range(rows)]}
        if "thumb" in columns:
            thumbs = rng.integers(0, 254, (originals, THUMB_BYTES), dtype=np.uint8)[copied]
            thumbs[is_near] += rng.integers(0, 2, (near, THUMB_BYTES), dtype=np.uint8)
            return pa.table({**table, "thumb": [base64.b64encode(thumb).decode() for thumb in thumbs]})
        names = np.where(is_near, np.arange(rows), copied) + start
        table |= {"pixel_sha256": [f"{n:032x}{0:032x}" for n in names.tolist()], "phash": [f"{h:016x}" for h in hashes.tolist()]}
        table |= {name: np.full(rows, 512) for name in ("width", "height", "source_width", "source_height")}
        return pa.table({**table, "bytes": np.where(np.arange(rows) < originals, 2000, 1000)})


def main() -> int:
    parser = argparse.ArgumentParser(description="Time and memory of finding duplicates among synthetic records.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--hamming", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    dataset = Synthetic(options.rows, options.hamming)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "survey"
        began = time.perf_counter()
        with io.commit_folder(out) as writer:
            Survey(keep=("area", "bytes"), hamming=options.hamming, distance=0.1, embedding_threshold=None).write(dataset, writer)
        survey_s = time.perf_counter() - began
        found = json.loads((out / SUMMARY).read_text())
        losers = read_table(out / LOSERS, ["key", "winner"])
    planted = sum(
        round(NEAR_SHARE * rows) + round(EXACT_SHARE * rows)
        for rows in (min(PIECE_ROWS, options.rows - start) for start in range(0, options.rows, PIECE_ROWS))
    )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured = {**found, "planted": planted, "refused": len(losers), "survey_s": round(survey_s, 1), "peak_mib": round(peak_mib)}
    measured["reading_s"] = round(dataset.reading_s, 1)
    if options.json:
        print(json.dumps(measured))
    else:
        print("\n".join(f"{name:>12} {value}" for name, value in measured.items()))
    return 0 if len(losers) == planted else 1


if __name__ == "__main__":
    raise SystemExit(main())
