"""What the power of a category's size does for rare categories: a mixture in the plane, learnt at equal steps.

    python tools/bench/rare_modes.py [--alphas 1 0.5] [--seeds 3] [--steps 1500] [--batch 256] [--json]

The data: ``--common`` large categories and ``--rare`` small ones, each a normal blob of its own in the plane; all scores are equal, so that only alpha
and the cap on repeats act. The learner: a flow model of two numbers (an MLP with an embedding per category, rectified flow, AdamW), which sees nothing
but what the law draws. Steps, batch, start and data are the same for every alpha.

Measured for each category: 64 points are asked for by its name; a hit lies within 3 standard deviations of its centre (98.9 % of the true blob). A
category is recalled if at least half of them hit. Reported are the recall and the mean share of hits, of rare and of common categories, and the
expected draws and epochs of a rare category. Intervals over seeds are mean +- t s / sqrt(seeds), at 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ernie_core.rng import Rng
from ernie_data.sampling.alias import AliasTable
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.hierarchy import class_table
from ernie_data.sampling.strategies import build_law

STD = 0.02
ASKED = 64
EULER_STEPS = 24
STUDENT_T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


@dataclass(frozen=True)
class Plane:
    """Rows of categories in the plane. ``rows_K``: of each; ``centre_K2``: in [-1, 1]."""

    rows_K: NDArray[np.int64]
    centre_K2: NDArray[np.float32]
    common: int


def main() -> int:
    parser = argparse.ArgumentParser(description="Recall of rare categories by the power of a category's size, at equal steps.")
    parser.add_argument("--alphas", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--common", type=int, default=10, help="large categories")
    parser.add_argument("--rare", type=int, default=200, help="small categories")
    parser.add_argument("--common-rows", type=int, default=98_000, help="rows of each large category")
    parser.add_argument("--rare-rows", type=int, default=100, help="rows of each small category")
    parser.add_argument("--max-repeats", type=float, default=4.0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if min(options.seeds, options.common, options.rare, options.steps) < 1:
        parser.error("--seeds, --common, --rare and --steps must be at least 1")
    torch.set_num_threads(1)
    report = experiment(options)
    print(json.dumps(report) if options.json else "\n".join(_lines(report)))
    return 0


def experiment(options: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    results = []
    for alpha in options.alphas:
        runs = [one_run(alpha, seed, options) for seed in range(options.seeds)]
        measured = ("rare_recall", "rare_hits", "common_recall", "common_hits", "rare_draws_expected", "rare_epochs_expected")
        results.append({"alpha": alpha, **{name: _interval([run[name] for run in runs]) for name in measured}})
    first, *others = results
    gains = [_round(other["rare_recall"]["mean"] - first["rare_recall"]["mean"]) for other in others]
    return {
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "wall_s": round(time.perf_counter() - started, 1),
        "results": results,
        "rare_recall_gained_over_first": gains,
    }


def one_run(alpha: float, seed: int, options: argparse.Namespace) -> dict[str, float]:
    plane = make_plane(seed, options)
    category_N = np.repeat(np.arange(len(plane.rows_K)), plane.rows_K)
    table, _ = class_table(category_N, np.zeros(len(category_N)), classes=len(plane.rows_K), bins=1)
    draws = options.steps * options.batch
    law = build_law(table, SamplingConfig(alpha=alpha, draws=draws, max_repeats=options.max_repeats))
    network = train(plane, AliasTable.build(law.class_K), seed, options)
    hits_K = share_of_hits(network, plane, seed)
    common, rare = hits_K[: plane.common], hits_K[plane.common :]
    expected = draws * float(law.class_K[plane.common :].mean())
    return {
        "rare_recall": float((rare >= 0.5).mean()),
        "rare_hits": float(rare.mean()),
        "common_recall": float((common >= 0.5).mean()),
        "common_hits": float(common.mean()),
        "rare_draws_expected": expected,
        "rare_epochs_expected": expected / options.rare_rows,
    }


def make_plane(seed: int, options: argparse.Namespace) -> Plane:
    """Centres on a jittered grid, so that no two blobs overlap within 3 standard deviations as long as there are at most 256."""
    count = options.common + options.rare
    side = math.ceil(math.sqrt(count))
    draw = Rng(seed).at("centres", 0).generator(0)
    cells = draw.permutation(side * side)[:count]
    spacing = 2 / side
    jitter_K2 = draw.uniform(-1, 1, (count, 2)) * max(0.0, spacing / 2 - 3 * STD)
    centre_K2 = np.stack([cells % side, cells // side], 1) * spacing - 1 + spacing / 2 + jitter_K2
    rows_K = np.array([options.common_rows] * options.common + [options.rare_rows] * options.rare, np.int64)
    return Plane(rows_K, centre_K2.astype(np.float32), options.common)


class Velocity(nn.Module):
    """v(x, sigma, category): points as sines and cosines of growing frequency, so that small blobs can be told apart."""

    def __init__(self, categories: int, width: int) -> None:
        super().__init__()
        self.category = nn.Embedding(categories, width)
        self.register_buffer("frequency_F", math.pi * 2.0 ** torch.arange(5))
        self.layers = nn.Sequential(
            nn.Linear(3 + 3 * 2 * 5 + width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.out = nn.Linear(width, 2)

    def forward(self, x_B2: Tensor, sigma_B: Tensor, category_B: Tensor) -> Tensor:
        point_B3 = torch.cat([x_B2, sigma_B[:, None]], 1)
        angle_BF = (point_B3[:, :, None] * self.frequency_F).flatten(1)
        return self.out(self.layers(torch.cat([point_B3, angle_BF.sin(), angle_BF.cos(), self.category(category_B)], 1)))


def train(plane: Plane, table: AliasTable, seed: int, options: argparse.Namespace) -> Velocity:
    """Every batch is a function of seed and step; a row is a function of seed, category and row number."""
    torch.manual_seed(seed)
    network = Velocity(len(plane.rows_K), options.width)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    first_row_K = np.cumsum(plane.rows_K) - plane.rows_K
    offset_N2 = Rng(seed).at("rows", 0).generator(0).standard_normal((int(plane.rows_K.sum()), 2), dtype=np.float32)
    for step in range(options.steps):
        draw = Rng(seed).at("batch", step).generator(0)
        category_B = table.draw(draw.random(options.batch), draw.random(options.batch))
        row_B = first_row_K[category_B] + np.floor(draw.random(options.batch) * plane.rows_K[category_B]).astype(np.int64)
        x_B2 = torch.from_numpy(plane.centre_K2[category_B] + STD * offset_N2[row_B])
        noise_B2 = torch.from_numpy(draw.standard_normal((options.batch, 2), dtype=np.float32))
        sigma_B = torch.from_numpy(draw.random(options.batch, dtype=np.float32))
        mixed_B2 = (1 - sigma_B[:, None]) * x_B2 + sigma_B[:, None] * noise_B2
        velocity_B2 = network(mixed_B2, sigma_B, torch.from_numpy(category_B))
        loss = (velocity_B2 - (noise_B2 - x_B2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


@torch.no_grad()
def share_of_hits(network: Velocity, plane: Plane, seed: int) -> NDArray[np.float64]:
    """For each category the share of the points asked for that lie in its blob."""
    count = len(plane.rows_K)
    category_B = torch.arange(count).repeat_interleave(ASKED)
    x_B2 = torch.from_numpy(Rng(seed).at("ask", 0).generator(0).standard_normal((count * ASKED, 2), dtype=np.float32))
    sigmas = torch.linspace(1, 0, EULER_STEPS + 1).tolist()
    for high, low in pairwise(sigmas):
        x_B2 = x_B2 + (low - high) * network(x_B2, torch.full((len(x_B2),), high), category_B)
    distance_B = (x_B2 - torch.from_numpy(plane.centre_K2)[category_B]).norm(dim=1)
    return (distance_B <= 3 * STD).double().reshape(count, ASKED).mean(1).numpy()


def _interval(values: Sequence[float]) -> dict[str, Any]:
    mean = float(np.mean(values))
    rounded = {"mean": _round(mean), "each": [_round(value) for value in values]}
    if len(values) in STUDENT_T_95:
        half = STUDENT_T_95[len(values)] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
        rounded |= {"low": _round(mean - half), "high": _round(mean + half)}
    return rounded


def _round(value: float) -> float:
    return round(value, 4)


def _lines(report: dict[str, Any]) -> list[str]:
    lines = [f"{report['wall_s']} s, torch {report['torch']}"]
    for result in report["results"]:
        lines.append(
            f"alpha {result['alpha']:g}: rare recall {result['rare_recall']['mean']:.3f} (hits {result['rare_hits']['mean']:.3f}), common recall "
            f"{result['common_recall']['mean']:.3f} (hits {result['common_hits']['mean']:.3f}), {result['rare_draws_expected']['mean']:.0f} draws of each "
            f"rare category, {result['rare_epochs_expected']['mean']:.2f} epochs"
        )
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
