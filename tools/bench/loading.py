"""From a build to the trainer: how many records a second are resolved (index, text, sha256 compared), and what a hit of the cache costs.

    python tools/bench/loading.py [--rows 1000000] [--vae-px 256]

A resolved record is its place in a shard and its key, captions, category and scores; pictures are not read. The rows are drawn as training draws them.
The cache is measured on posteriors of the size that the released autoencoder gives, the encoder on that architecture with random weights (``--vae-px 0``
leaves it out).
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from ernie_core import io
from ernie_data.loading.disk_cache import DiskCache
from ernie_data.loading.rows import RowFacts, RowStore, write_rows
from ernie_data.sampling.build import Chunk, build_index
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.index import Index
from ernie_data.sampling.sampler import Sampler
from ernie_data.sampling.strategies import build_law

PIECE, CATEGORIES = 1000, 1000
CAPTION = (
    "a photograph of something that takes about forty words to say, as captions of training pictures do, with its light, its colours and its place "
    * 2
)
DRAWS = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--vae-px", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {**resolving(Path(folder), arguments.rows), **caching(Path(folder), arguments.vae_px)}
    print(json.dumps(found, indent=1))


def resolving(folder: Path, rows: int) -> dict[str, float]:
    started = time.perf_counter()
    with io.commit_folder(folder / "rows") as writer:
        write_rows(writer, pieces(rows))
    wrote = time.perf_counter() - started

    def chunks() -> Iterator[Chunk]:
        for number in range(rows // PIECE):
            rng = np.random.default_rng(number)
            n = np.arange(PIECE)
            sums = np.frombuffer(b"".join(digest(number * PIECE + i) for i in range(PIECE)), np.uint8).reshape(PIECE, 32)
            yield Chunk(
                rng.integers(0, 3, PIECE),
                (number * PIECE + n) % CATEGORIES,
                rng.normal(5, 1, PIECE),
                np.full(PIECE, number),
                n,
                n * 512,
                n + 1,
                sums,
            )

    started = time.perf_counter()
    names = [f"shard-{number:06d}.tar" for number in range(rows // PIECE)]
    build_index(
        folder / "index",
        chunks,
        buckets=((512, 512), (640, 400), (400, 640)),
        categories=[f"c{i}" for i in range(CATEGORIES)],
        shards=names,
    )
    indexed = time.perf_counter() - started
    with Index(folder / "index") as index, RowStore(folder / "rows") as store:
        sampler = Sampler(index.tables, build_law(index.tables.classes, SamplingConfig()), seed=0)
        drawn = np.concatenate([sampler.rows(step, start=0, stop=1000) for step in range(DRAWS // 1000)])
        started = time.perf_counter()
        records = index.records(drawn)
        placed = time.perf_counter() - started
        started = time.perf_counter()
        facts = store.read(records["shard"].tolist(), records["position"].tolist())
        read = time.perf_counter() - started
        if any(bytes(record["sha256"]).hex() != fact.sha256 for record, fact in zip(records[:1000], facts)):
            raise SystemExit("a text belongs to another picture")
    return {
        "rows": rows,
        "rows.bin bytes per row": (folder / "rows" / "rows.bin").stat().st_size / rows,
        "texts written per s": rows / wrote,
        "rows indexed per s": rows / indexed,
        "places resolved per s": len(drawn) / placed,
        "texts read per s": len(drawn) / read,
        "both per s": len(drawn) / (placed + read),
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def pieces(rows: int) -> Iterator[Iterator[RowFacts]]:
    for number in range(rows // PIECE):
        yield (
            RowFacts(
                f"folder/{n:09d}.jpg", digest(n).hex(), {"text": CAPTION, "keywords": CAPTION[:80]}, f"c{n % CATEGORIES}", {"score": 5.0}
            )
            for n in range(number * PIECE, (number + 1) * PIECE)
        )


def digest(row: int) -> bytes:
    """32 bytes that differ for every row: enough for a sum that nothing is hashed to."""
    return row.to_bytes(8, "little") * 4


def caching(folder: Path, vae_px: int) -> dict[str, float]:
    """A posterior of a picture of 512 px: mean and deviation of 32 channels on 64 x 64, bfloat16."""
    cache = DiskCache(folder / "cache", limit_bytes=1 << 32)
    posterior, text = torch.randn(64, 64, 64).bfloat16(), torch.randn(120, 3072).bfloat16()
    found = {}
    for name, value in (("posterior 512 px", posterior), ("text of 120 tokens", text)):
        keys = [f"{abs(hash((name, i))):064x}" for i in range(100)]
        found[f"{name}, KiB"] = value.numel() * 2 / 1024
        found[f"{name}, put ms"] = 1e3 * mean_s(lambda i, v=value, k=keys: cache.put(k[i], v), 100)
        found[f"{name}, hit ms"] = 1e3 * mean_s(lambda i, k=keys: cache.get(k[i]), 100)
        found[f"{name}, miss ms"] = 1e3 * mean_s(lambda i: cache.get(f"{i:064d}"), 100)
    if vae_px:
        from ernie_core.testing.tiny import tiny_vae

        vae = tiny_vae(latent_channels=32, widths=(128, 256, 512, 512))
        pixels = torch.zeros(1, 3, vae_px, vae_px)
        with torch.no_grad():
            found[f"encoding {vae_px} px on one core, ms"] = 1e3 * mean_s(lambda i: vae.encode(pixels), 2)
    return found


def mean_s(work: Callable[[int], object], times: int) -> float:
    started = time.perf_counter()
    for i in range(times):
        work(i)
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    main()
