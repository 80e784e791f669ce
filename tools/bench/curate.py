"""Throughput of ``ernie data build`` against a serial Pillow loop and a bare process pool, on the same photographs in one run.

    python tools/bench/curate.py [--pictures 600] [--size 1024] [--to 512] [--workers 2] [--repeats 3]

All three decode, reduce to the same area and encode JPEG of the same quality. The engine besides hashes source and pixels, writes and syncs shards,
index, tables and manifest, and can be killed at any time. Each is timed from its start to its end, process starts included, in turn; the figure is
the median over the repeats.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import multiprocessing
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ernie_core.api import Selection
from ernie_data.engine.build import build_dataset
from ernie_data.engine.local import usable_cores
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.stages.entries import DecodeConfig

QUALITY = 95


def write_photographs(folder: Path, count: int, size: int) -> None:
    """Smooth colour with grain: JPEG files of about the size that photographs have."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    for i in range(count):
        a, b, c = rng.uniform(1, 9, 3)
        waves = np.stack([np.sin(a * x + b * y), np.cos(b * x - c * y), np.sin(c * x * y)], axis=-1)
        grain = rng.normal(0, 6, (size, size, 1))
        Image.fromarray(np.clip(127 + 100 * waves + grain, 0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=90)


def reduce(path: Path, to: int) -> int:
    """What a straightforward script does with one file; its result's size in bytes."""
    with Image.open(path) as image:
        scale = min(1.0, to / math.sqrt(image.width * image.height))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image.draft("RGB", (2 * size[0], 2 * size[1]))
        picture = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY, subsampling=0)
    return len(buffer.getvalue())


def serial(paths: list[Path], to: int) -> None:
    for path in paths:
        reduce(path, to)


def pool(paths: list[Path], to: int, workers: int) -> None:
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        for _ in processes.imap_unordered(partial(reduce, to=to), paths, chunksize=4):
            pass


def engine(raw: Path, out: Path, to: int, workers: int) -> None:
    decode = DecodeConfig(format="jpeg", quality=QUALITY, shrink_to_px=to)
    sources = (Selection("folder", FolderInput(path=str(raw))),)
    recipe = Recipe(sources=sources, stages=(Selection("decode", decode),), unit_rows=32, run=RunOptions(workers=workers))
    about = build_dataset(recipe, out)
    assert about["rejected"] == 0, about
    shutil.rmtree(out)


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description="Throughput of the curation engine against a serial loop and a bare pool.")
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--size", type=int, default=1024, help="side of the photographs in pixels")
    parser.add_argument("--to", type=int, default=512, help="side of the square whose area they are reduced to")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw"
        write_photographs(raw, options.pictures, options.size)
        paths = sorted(raw.iterdir())
        ways = {
            "serial": lambda: serial(paths, options.to),
            "pool": lambda: pool(paths, options.to, options.workers),
            "engine": lambda: engine(raw, Path(scratch) / "out", options.to, options.workers),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, work in ways.items():
                times[name].append(timed(work))
    rates = {name: options.pictures / statistics.median(seconds) for name, seconds in times.items()}
    report = {
        "images_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "engine_over_serial": round(rates["engine"] / rates["serial"], 3),
        "engine_over_pool": round(rates["engine"] / rates["pool"], 3),
        "times_s": {name: [round(s, 2) for s in seconds] for name, seconds in times.items()},
        "pictures": options.pictures,
        "workers": options.workers,
    }
    if options.json:
        print(json.dumps(report))
    else:
        for name, rate in rates.items():
            print(f"{name:8s} {rate:7.1f} images/s   runs: {', '.join(f'{s:.2f} s' for s in times[name])}")
        print(
            f"engine over serial {report['engine_over_serial']:.2f}, over a bare pool of {options.workers} {report['engine_over_pool']:.2f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
