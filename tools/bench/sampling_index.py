"""Sampling from a synthetic index of any size: memory, seek, draws and resolved rows per second on one core.

    python tools/bench/sampling_index.py [--rows 1000000000] [--real 10000000] [--categories 10000] [--bins 64] [--folder DIR] [--json]

The index has the picture sizes of a 1024 px stage as buckets, Zipf-sized categories in all of them, and ``--rows`` rows. The rows of the first bucket
are real (``--real`` of them); the others' records are a hole in a sparse file, which takes no disk. It is written in one process and measured in
another, so that the measured memory is a worker's own:

- resident: VmRSS and its peak, after every page of the mapped table has been touched; faults: major and minor page faults of the process;
- open: opening, checking the sums of all tables, distribution, caps and alias tables; seek: first batch of a random step, worst of all;
- draws: batches of consecutive steps; resolved: batches of steps of the first bucket, with each record checked against what was written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ernie_data.buckets import bucket_sizes
from ernie_data.sampling.cells import Cells
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.hierarchy import ClassTable
from ernie_data.sampling.index import PAIR, RECORD, Index, Tables, write_index
from ernie_data.sampling.sampler import Sampler
from ernie_data.sampling.strategies import build_law

SHARD_ROWS = 10_000
BARS = {"resident_mb": 300, "seek_s": 1.0, "draws_per_s": 200_000, "resolved_per_s": 50_000}


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory and speed of sampling from a synthetic index.")
    parser.add_argument("--rows", type=int, default=1_000_000_000)
    parser.add_argument("--real", type=int, default=10_000_000, help="rows that have records")
    parser.add_argument("--categories", type=int, default=10_000)
    parser.add_argument("--bins", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048, help="global batch")
    parser.add_argument("--draws", type=int, default=4_000_000, help="draws to time")
    parser.add_argument("--resolve", type=int, default=1_000_000, help="rows to resolve")
    parser.add_argument("--folder", type=Path, help="where to write; removed again (default: the temporary folder)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--phase", choices=("write", "measure"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not 0 < options.real < options.rows:
        parser.error(f"--real must lie between 0 and --rows, found {options.real} and {options.rows}")
    if options.phase == "write":
        write(options.folder, options)
        return 0
    if options.phase == "measure":
        print(json.dumps(measure(options.folder, options)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        started = time.perf_counter()
        _phase("write", folder)
        report = {"write_s": time.perf_counter() - started, **json.loads(_phase("measure", folder))}
    report["bars_met"] = all(
        report[name] <= bar if name in ("resident_mb", "seek_s") else report[name] >= bar for name, bar in BARS.items()
    )
    print(json.dumps(report) if options.json else "\n".join(_lines(report)))
    return 0


def write(folder: Path, options: argparse.Namespace) -> None:
    buckets = bucket_sizes(1024, multiple_px=16, max_aspect=3.0)
    rng = np.random.default_rng(0)
    classes, bins = options.categories, options.bins
    share_B = np.exp(-2 * np.abs(np.log([w / h for w, h in buckets])))
    share_B[0] = 0.0
    rows_B = np.floor(share_B / share_B.sum() * (options.rows - options.real)).astype(np.int64)
    rows_B[len(rows_B) // 2] += options.rows - options.real - rows_B.sum()
    rows_B[0] = options.real
    share_K = rng.permutation(np.arange(1, classes + 1) ** -1.3)
    z_J = np.linspace(-4, 4, bins)
    share_J = np.exp(-(z_J**2) / 2)
    # The same split of every bucket into cells, by rounding running sums down: totals are exact.
    edge_C = np.cumsum(np.outer(share_K / share_K.sum(), share_J / share_J.sum()).ravel())
    pairs, ends, rows_KJ, first = [], [], np.zeros((classes, bins), np.int64), 0
    for bucket, rows in enumerate(rows_B):
        edges = np.floor(edge_C * rows).astype(np.int64)
        edges[-1] = rows
        count_KJ = np.diff(edges, prepend=0).reshape(classes, bins)
        rows_KJ += count_KJ
        some = np.flatnonzero(count_KJ.any(1))
        size = count_KJ[some].sum(1)
        pair = np.zeros(len(some), PAIR)
        pair["bucket"], pair["category"], pair["first_row"] = bucket, some, first + np.cumsum(size) - size
        pairs.append(pair)
        ends.append(np.cumsum(count_KJ[some], 1).astype(np.uint32))
        first += int(rows)
    tables = Tables(
        buckets,
        tuple(f"category {i:05d}" for i in range(classes)),
        tuple(f"set/data-{i:06d}.tar" for i in range(-(-options.rows // SHARD_ROWS))),
        ClassTable(rows_KJ, np.where(rows_KJ > 0, z_J, 0.0), rng.normal(5, 1, classes), np.ones(classes)),
        np.concatenate(pairs),
        Cells.pack(np.concatenate(ends)),
    )

    def records(path: Path) -> None:
        found = np.memmap(path, RECORD, mode="w+", shape=(options.real,))
        for at in range(0, options.real, 1 << 20):
            rows = np.arange(at, min(at + (1 << 20), options.real))
            found[rows] = expected(rows)
        found.flush()
        os.truncate(path, options.rows * RECORD.itemsize)

    write_index(folder / "index", tables, records, needed_bytes=options.real * RECORD.itemsize + tables.cells.nbytes)


def expected(rows: np.ndarray) -> np.ndarray:
    """The record written for each real row."""
    record = np.zeros(len(rows), RECORD)
    record["shard"], record["position"] = rows // SHARD_ROWS, rows % SHARD_ROWS
    record["offset"] = rows % SHARD_ROWS * 600_000 + 512
    record["size"] = 1 + rows * 2_654_435_761 % 600_000
    odd = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5], np.uint64)
    record["sha256"] = (rows.astype(np.uint64)[:, None] * odd + odd[::-1]).view("V32")[:, 0]
    return record


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    start_mb, _ = resident()
    started = time.perf_counter()
    index = Index(folder / "index")
    opened = time.perf_counter()
    law = build_law(index.tables.classes, SamplingConfig(draws=options.rows, max_repeats=4.0))
    sampler = Sampler(index.tables, law, seed=0)
    ready = time.perf_counter()
    del law
    batch = options.batch

    seeks = []
    for step in np.random.default_rng(1).integers(0, 10**9, 200):
        began = time.perf_counter()
        sampler.rows(int(step), start=0, stop=batch)
        seeks.append(time.perf_counter() - began)
    steps = -(-options.draws // batch)
    began = time.perf_counter()
    for step in range(steps):
        sampler.rows(step, start=0, stop=batch)
    drawn_s = time.perf_counter() - began

    # Steps of the first bucket, whose rows are real. Finding them is not timed, drawing is not either.
    wanted, step, resolved, resolve_s = -(-options.resolve // batch), 0, 0, 0.0
    while wanted:
        if sampler.bucket(step) == 0:
            rows = sampler.rows(step, start=0, stop=batch)
            began = time.perf_counter()
            found = index.records(rows)
            resolve_s += time.perf_counter() - began
            if not (found == expected(rows)).all():
                raise SystemExit(f"step {step}: records differ from what was written")
            wanted, resolved = wanted - 1, resolved + batch
        step += 1
    cells = index.tables.cells
    touched = sum(int(part[:, -1].sum(dtype=np.int64)) for part in (cells.narrow_XJ, cells.wide_YJ))  # every page of the mapped tables
    if touched != index.rows:
        raise SystemExit(f"the pairs have {touched} rows, the index {index.rows}")
    resident_mb, peak_mb = resident()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": index.rows,
        "categories": len(index.tables.categories),
        "bins": options.bins,
        "buckets": len(index.tables.buckets),
        "pairs": len(index.tables.pairs_P),
        "real_rows": options.real,
        "cells_mb": index.tables.cells.nbytes / 1e6,
        "resident_mb": max(resident_mb, peak_mb),
        "resident_now_mb": resident_mb,
        "resident_before_mb": start_mb,
        "major_faults": usage.ru_majflt,
        "minor_faults": usage.ru_minflt,
        "open_s": opened - started,
        "law_and_alias_s": ready - opened,
        "seek_s": max(seeks),
        "seek_median_s": float(np.median(seeks)),
        "draws_per_s": steps * batch / drawn_s,
        "resolved_per_s": resolved / resolve_s,
    }


def resident() -> tuple[float, float]:
    """Resident memory of this process, now and at its peak, with mapped pages, in units of 1e6 bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))


def _phase(name: str, folder: str) -> str:
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    arguments = [*sys.argv[1:], "--phase", name, "--folder", folder]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}, check=False
    )
    if done.returncode:
        raise SystemExit(f"the {name} process ended with {done.returncode}")
    return done.stdout


def _lines(r: dict[str, float]) -> list[str]:
    return [
        f"{r['rows']} rows ({r['real_rows']} real), {r['categories']} categories x {r['bins']} bins x {r['buckets']} buckets, {r['pairs']} pairs",
        f"resident  {r['resident_mb']:8.1f} MB at the peak (bar {BARS['resident_mb']}); {r['resident_now_mb']:.1f} MB at the end, {r['resident_before_mb']:.1f} MB "
        f"before opening; mapped tables {r['cells_mb']:.1f} MB",
        f"faults    {r['minor_faults']:8d} minor, {r['major_faults']} major",
        f"open      {r['open_s']:8.2f} s with all sums checked, then {r['law_and_alias_s']:.2f} s for distribution, caps and alias tables",
        f"seek      {r['seek_s']:8.4f} s at worst (bar {BARS['seek_s']:g}), median {r['seek_median_s']:.4f} s",
        f"draws     {r['draws_per_s']:8.0f} per s (bar {BARS['draws_per_s']})",
        f"resolved  {r['resolved_per_s']:8.0f} rows per s (bar {BARS['resolved_per_s']})",
        f"written in {r['write_s']:.0f} s; bars {'met' if r['bars_met'] else 'MISSED'}",
    ]


if __name__ == "__main__":
    sys.exit(main())
