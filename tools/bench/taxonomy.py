"""A taxonomy by hierarchical k-means on one core: time, memory, and how far rows are from their leaf, by the number of levels.

    OMP_NUM_THREADS=1 python tools/bench/taxonomy.py [--rows 100000] [--width 256] [--leaves 10000] [--levels 2 3] [--json]

The rows are normal groups around as many random directions as there are leaves, scaled to length 1. Reported are processor seconds of growing the tree
and rows assigned per processor second (``OMP_NUM_THREADS`` bounds the threads); the size of the rows and the peak of the resident memory, which includes
making them; and the mean squared distance to the leaf's centroid, with that of the true groups beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from typing import Any

import numpy as np

from ernie_data.category.kmeans import Vectors, grow_tree

NOISE = 0.3


def main() -> int:
    parser = argparse.ArgumentParser(description="Time and memory of building a taxonomy on one core.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256, help="numbers of an embedding")
    parser.add_argument("--leaves", type=int, default=10_000)
    parser.add_argument("--levels", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if min(options.rows, options.width, options.leaves, options.iterations, *options.levels) < 1:
        parser.error("all numbers must be at least 1")
    x_ND, truth = groups(options)
    results = [measure(x_ND, levels, options) for levels in options.levels]
    report = {
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "python": platform.python_version(),
        "numpy": np.__version__,
        "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"),
        "rows_mib": round(x_ND.nbytes / 2**20, 1),
        "mean_squared_distance_of_true_groups": round(truth, 5),
        "results": results,
    }
    print(json.dumps(report) if options.json else "\n".join(f"{k}: {v}" for r in results for k, v in r.items()))
    return 0


def groups(options: argparse.Namespace) -> tuple[Vectors, float]:
    rng = np.random.default_rng(0)
    centre_KD = rng.standard_normal((options.leaves, options.width), dtype=np.float32)
    label_N = rng.integers(options.leaves, size=options.rows)
    x_ND = centre_KD[label_N] + NOISE * rng.standard_normal((options.rows, options.width), dtype=np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    sums_KD = np.zeros_like(centre_KD, np.float64)
    np.add.at(sums_KD, label_N, x_ND)
    mean_KD = sums_KD / np.maximum(np.bincount(label_N, minlength=options.leaves), 1)[:, None]
    return x_ND, float(((x_ND - mean_KD[label_N]) ** 2).sum(1).mean())


def measure(x_ND: Vectors, levels: int, options: argparse.Namespace) -> dict[str, Any]:
    started, wall = time.process_time(), time.perf_counter()
    tree = grow_tree(x_ND, leaves=options.leaves, levels=levels, seed=0, iterations=options.iterations)
    grown, grown_wall = time.process_time(), time.perf_counter()
    _, distance_N = tree.assign(x_ND)
    assigned = time.process_time()
    return {
        "levels": levels,
        "nodes": [len(c) for c in tree.centroids],
        "grow_cpu_s": round(grown - started, 2),
        "grow_wall_s": round(grown_wall - wall, 2),
        "assigned_rows_per_cpu_s": round(len(x_ND) / max(assigned - grown, 1e-9)),
        "mean_squared_distance": round(float((distance_N**2).mean()), 5),
        "peak_resident_mib_so_far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    raise SystemExit(main())
