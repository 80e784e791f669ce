"""What matching and guidance do to a student of few steps, and two partial teachers with and without gates: eight labelled modes in the plane.

    python tools/bench/distill_plane.py --seeds 0 1 2 3 4 --marks 100 300 --out tools/bench/results

For each seed a conditional flow model (3 x 64 units) is trained on points whose label is wrong in 3 of 10, so that it obeys labels only with guidance; two more
know one coordinate each. Students of 8, 4 and 2 steps are distilled from them with the mathematics of ``mt-dmd``: the deployed Euler schedule at shift 3, five
updates of the fake score per update of the student, a = 4.

Writes distill-plane-cpu-DATE.json (every measure and the rows), .md (the tables) and .png (samples of the first seed). One thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from ernie_core import io
from ernie_core.api import recheck, to_plain
from ernie_distill.plane.experiment import ARMS, DistilConfig, run_seed, to_json
from ernie_distill.plane.picture import panels
from ernie_distill.plane.summary import comparisons, summarise, table
from ernie_distill.plane.summary import to_json as row_to_json


def main() -> int:
    parser = argparse.ArgumentParser(description="Distillation to few steps in the plane: matching, guidance, and two partial teachers.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--marks", type=int, nargs="+", default=list(DistilConfig().marks), help="updates to measure at; the last ends an arm"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, used = time.perf_counter(), time.process_time()
    config = recheck(DistilConfig(marks=tuple(sorted(options.marks))))
    measures, first = [], {}
    for seed in dict.fromkeys(options.seeds):
        found, points = run_seed(seed, config)
        measures += found
        first = first or points
        print(f"seed {seed} done after {time.perf_counter() - started:.0f} s", flush=True)
    rows = summarise(measures)
    report = {
        "command": f"python tools/bench/distill_plane.py --seeds {' '.join(map(str, options.seeds))} --marks {' '.join(map(str, config.marks))} --out {options.out}",
        "date": date.today().isoformat(),
        "device": "CPU, 1 thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu_s": round(time.process_time() - used, 1),
        "config": to_plain(config),
        "rows": [row_to_json(row) for row in rows],
        "measures": [to_json(measure) for measure in measures],
    }
    name = f"distill-plane-cpu-{report['date']}"
    page = [
        "# Distillation in the plane: matching, guidance, and two partial teachers",
        "",
        f"`{report['command']}` ({report['date']}, {report['device']}, torch {report['torch']}, {report['cpu_s']:.0f} s of processor time)",
        "",
        f"Means of {len(set(options.seeds))} seeds with 95 % intervals. Accuracy: nearest mode is the label's. Distances: sliced Wasserstein, per label; data are "
        "without wrong labels, the guided teacher is sampled in 50 steps. Spread: deviation within the label's mode over the true one. Reach: distance from the "
        "origin over the true one. DM: distribution matching, CA: augmentation by guidance; decoupled unless it says coupled. A student is right in the sampler "
        "it was trained with: euler, where the arm does not say re-noising.",
        "",
        *table(rows),
        "",
        f"Paired differences over seeds after {max(config.marks)} updates, in Euler's sampler:",
        "",
        *comparisons(measures),
        "",
    ]
    io.make_folder(options.out)
    io.write_text(options.out / f"{name}.json", json.dumps(report, indent=1) + "\n")
    io.write_text(options.out / f"{name}.md", "\n".join(page))
    io.write_bytes(options.out / f"{name}.png", panels(first, ARMS, config.marks))
    print("\n".join(page))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
