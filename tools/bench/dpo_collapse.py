"""What collapses in preference training, and what does not: two modes in the plane, several strengths, with and without anchors, against fine-tuning.

    python tools/bench/dpo_collapse.py --seeds 0 1 2 3 4 --marks 100 300 600 2400 --out tools/bench/results

For each seed a flow model (3 x 128 units) is trained on modes A and B in equal parts. Then A is preferred: each arm goes on from there with Adam at 3e-4, batches of
256 pairs with shared noise and time, and mean errors, so that beta is beta_eff. The strengths are .05 (the report's beta on means), 1, 20 and 26,214.4 (the
report's beta on sums at 1024 x 1024 pixels). Controls at equal steps: fine-tuning on A alone, and on both at .375 : .125.

Writes dpo-collapse-cpu-DATE.json (every measure and the rows), .md (the table) and .png (samples of the first seed). One thread, about 40 s per seed
to 600 steps.
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

from ernie_align.collapse.experiment import CollapseConfig, arms, run_seed, to_json
from ernie_align.collapse.picture import scatter
from ernie_align.collapse.summary import OFF_MANIFOLD, markdown, summarise
from ernie_align.collapse.summary import to_json as row_to_json
from ernie_core import io
from ernie_core.api import recheck, to_plain


def main() -> int:
    parser = argparse.ArgumentParser(description="Which preference losses collapse in the plane, at which strength.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--marks", type=int, nargs="+", default=[100, 300, 600], help="steps to measure at; the last ends an arm")
    parser.add_argument("--pretrain-steps", type=int, default=3000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    config = recheck(CollapseConfig(marks=tuple(sorted(options.marks)), pretrain_steps=options.pretrain_steps))
    chosen = arms(config.strengths)
    measures, first = [], {}
    for seed in dict.fromkeys(options.seeds):
        found, points = run_seed(seed, config, chosen)
        measures += found
        first = first or points
        print(f"seed {seed} done after {time.perf_counter() - started:.0f} s", flush=True)
    rows = summarise(measures, chosen)
    report = {
        "command": f"python tools/bench/dpo_collapse.py --seeds {' '.join(map(str, options.seeds))} --marks {' '.join(map(str, config.marks))} --out {options.out}",
        "date": date.today().isoformat(),
        "device": "CPU, 1 thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "wall_s": round(time.perf_counter() - started, 1),
        "config": to_plain(config),
        "rows": [row_to_json(row) for row in rows],
        "measures": [to_json(measure) for measure in measures],
    }
    name = f"dpo-collapse-cpu-{report['date']}"
    table = [
        "# Preference training in the plane: what collapses",
        "",
        f"`{report['command']}` ({report['date']}, {report['device']}, torch {report['torch']}, {report['wall_s']:.0f} s)",
        "",
        f"Means of {len(set(options.seeds))} seeds with 95 % intervals (ratios: geometric). beta_eff in units of mean errors. Collapsed: seeds with fewer than "
        f"{100 * OFF_MANIFOLD:g} % of samples near a mode. Where all seeds agree exactly, an interval of a share allows for seeds of the other extreme that went unseen.",
        "",
        *markdown(rows),
        "",
    ]
    io.make_folder(options.out)
    io.write_text(options.out / f"{name}.json", json.dumps(report, indent=1) + "\n")
    io.write_text(options.out / f"{name}.md", "\n".join(table))
    io.write_bytes(options.out / f"{name}.png", scatter(first, [arm.name for arm in chosen], [0, *config.marks]))
    print("\n".join(table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
