#!/usr/bin/env python
"""Our transformer against diffusers' ErnieImageTransformer2DModel: forward, train step and sampling, in one process, with the same weights.

    python tools/bench/dit.py                                    # CPU: 192/6/6, batch 32, 64 image + 16 text tokens, 15 pairs
    python tools/bench/dit.py --device cuda --dtype bfloat16 --size release --batch 1 --grid 64x64 --text 256 --work forward sample
    python tools/bench/dit.py --ops reference --compile --json out.json

Each pair runs both models one after the other, in alternating order; the ratio of a pair is diffusers' time over ours, and the interval is the
95 % Student interval of the mean logarithm. Both sides train with fused AdamW. ``forward`` and ``train`` have equal text lengths;
``train-mixed`` draws lengths from 1 to ``--text`` anew for every pair: diffusers pads and masks, ours packs. ``sample`` is Euler with guidance as
each side's pipeline does it: diffusers pads the empty prompt to the prompt's length and masks it, ours packs 1 + ``--text`` tokens.
Needs torch, diffusers and ernie-core (with msgspec and pluggy); nothing of deepspeed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_core.model.config import RELEASE, DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.model.layout import SequenceLayout
from ernie_core.ops.select import NAMES, select_ops
from ernie_core.train.throughput import peak_flops

WORK = ("forward", "train", "train-mixed", "sample")
T_975 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09, 2.09)
"""Student's 97.5 % quantiles for 1 to 20 degrees of freedom; beyond, the last is kept (the limit is 1.96)."""
GUIDANCE, SHIFT = 4.0, 3.0


@dataclass(frozen=True)
class Result:
    """One line of the table. Times are medians in seconds; ``ratio`` is diffusers' time over ours: more than 1 means that ours is faster."""

    work: str
    reference_s: float
    ours_s: float
    ratio: float
    low: float
    high: float
    pairs: int
    reference_mfu: float | None = None
    ours_mfu: float | None = None
    reference_peak_gib: float | None = None
    ours_peak_gib: float | None = None


@dataclass
class Batch:
    latents: Tensor
    timestep: Tensor
    text: Tensor
    lens: Tensor
    target: Tensor
    layout: SequenceLayout


class Bench:
    """Both models with the same random weights, and the work to time. ``names`` are "reference" and "ours"."""

    def __init__(self, config: DiTConfig, options: argparse.Namespace) -> None:
        from diffusers import ErnieImageTransformer2DModel

        self.config, self.options = config, options
        self.device, self.dtype = torch.device(options.device), getattr(torch, options.dtype)
        self.generator = torch.Generator().manual_seed(0)
        settings = {name: value for name, value in config.to_diffusers().items() if not name.startswith("_")}
        with torch.device(self.device):
            reference = ErnieImageTransformer2DModel(**settings).to(self.dtype)
        with torch.no_grad():
            for linear in (reference.adaLN_modulation[-1], reference.final_linear):
                nn.init.normal_(linear.weight, std=0.02)
        self.ops = select_ops("reference" if options.compile else options.ops, device=self.device, dtype=self.dtype)
        with torch.device("meta"):
            ours = ErnieDiT(config, ops=self.ops)
        ours.load_state_dict({name: tensor.clone() for name, tensor in reference.state_dict().items()}, assign=True)
        ours.checkpointing = options.checkpointing
        if options.checkpointing != "none":
            reference.enable_gradient_checkpointing()
        models = {"reference": reference, "ours": ours}
        if "train" in options.work or "train-mixed" in options.work:
            settings = {"learning_rate": 1e-5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0}
            self.optimizers = {
                "reference": torch.optim.AdamW(reference.parameters(), lr=1e-5, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
                "ours": self.ops.adamw([{"params": list(ours.parameters())}], **settings),
            }
        self.models = {name: torch.compile(model) if options.compile else model for name, model in models.items()}

    def batch(self, text_lens: Sequence[int], count: int | None = None) -> Batch:
        """A random batch; ``text_lens`` of every sample."""
        n, (rows, columns) = count or len(text_lens), self.options.grid
        shape = (n, self.config.in_channels, rows * self.config.patch_size, columns * self.config.patch_size)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=self.generator).to(self.device, self.dtype)

        timestep = 1000 * torch.rand(n, generator=self.generator).to(self.device)
        lens = torch.tensor(list(text_lens), device=self.device)
        text = normal(n, self.options.text, self.config.text_in_dim)
        return Batch(normal(*shape), timestep, text, lens, normal(*shape), SequenceLayout.plan((rows, columns), text_lens))

    def velocity(self, name: str, batch: Batch, latents: Tensor, timestep: Tensor) -> Tensor:
        if name == "reference":
            return self.models[name](latents, timestep.expand(len(latents)), batch.text, batch.lens, return_dict=False)[0]
        return self.models[name](latents, timestep, batch.text, batch.lens, batch.layout)

    @torch.no_grad()
    def forward(self, name: str, batch: Batch) -> Tensor:
        return self.velocity(name, batch, batch.latents, batch.timestep)

    def train(self, name: str, batch: Batch) -> None:
        optimizer = self.optimizers[name]
        loss = F.mse_loss(self.velocity(name, batch, batch.latents, batch.timestep).float(), batch.target.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def sample(self, name: str, batch: Batch) -> Tensor:
        """Euler with classifier-free guidance over a doubled batch, [unconditional, conditional], in the order of diffusers' pipeline."""
        steps = self.options.steps
        raw = [1 - i / steps for i in range(steps)]
        sigmas = [SHIFT * s / (1 + (SHIFT - 1) * s) for s in raw] + [0.0]
        x = batch.latents[: len(batch.latents) // 2]
        for sigma, following in pairwise(sigmas):
            timestep = torch.full((1,), 1000 * sigma, device=self.device)
            unconditional, conditional = self.velocity(name, batch, torch.cat([x, x]), timestep).chunk(2)
            x = x + (following - sigma) * (unconditional + GUIDANCE * (conditional - unconditional))
        return x

    def lens_of(self, work: str) -> list[int]:
        batch, text = self.options.batch, self.options.text
        if work == "sample":
            return [1] * batch + [text] * batch
        if work == "train-mixed":
            return torch.randint(1, text + 1, (batch,), generator=self.generator).tolist()
        return [text] * batch

    def flops(self, work: str, layout: SequenceLayout) -> float:
        """Useful floating point operations: two per weight and real token, attention over real tokens, three times for a train step."""
        weights = sum(p.numel() for p in self.models["ours"].layers.parameters() if p.ndim > 1)
        tokens = [layout.image_tokens + n for n in layout.text_lens]
        attention = 4 * self.config.hidden_size * self.config.num_layers * sum(n * n for n in tokens)
        once = 2 * weights * sum(tokens) + attention
        return once * (3 if work.startswith("train") else self.options.steps if work == "sample" else 1)

    def measure(self, work: str) -> Result:
        action: Callable[[str, Batch], Any] = {"forward": self.forward, "sample": self.sample}.get(work, self.train)
        fixed = self.batch(self.lens_of(work))
        for _ in range(self.options.warmup):
            for name in self.models:
                action(name, fixed)
        times: dict[str, list[float]] = {name: [] for name in self.models}
        for pair in range(self.options.pairs):
            batch = self.batch(self.lens_of(work)) if work == "train-mixed" else fixed
            for name in ("reference", "ours") if pair % 2 else ("ours", "reference"):
                times[name].append(self._time(action, name, batch))
        low, mean, high = interval([math.log(r / o) for r, o in zip(times["reference"], times["ours"])])
        medians = {name: statistics.median(values) for name, values in times.items()}
        extra: dict[str, float] = {}
        if self.device.type == "cuda":
            peak = peak_flops(torch.cuda.get_device_name(self.device))
            for name in self.models:
                torch.cuda.reset_peak_memory_stats(self.device)
                action(name, fixed)
                extra[f"{name}_peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
                if peak:
                    extra[f"{name}_mfu"] = self.flops(work, fixed.layout) / medians[name] / peak
        return Result(
            work, medians["reference"], medians["ours"], math.exp(mean), math.exp(low), math.exp(high), self.options.pairs, **extra
        )

    def check(self) -> float:
        """Relative difference of the two outputs: what is timed must be the same function."""
        lens = [self.options.text] * max(1, self.options.batch - 1) + [1] * (self.options.batch > 1)
        batch = self.batch(lens)
        outputs = [self.forward(name, batch).float() for name in self.models]
        return float((outputs[0] - outputs[1]).norm() / outputs[0].norm())

    def _time(self, action: Callable[[str, Batch], Any], name: str, batch: Batch) -> float:
        self._wait()
        clock = time.process_time if self.options.clock == "process" else time.perf_counter
        start = clock()
        action(name, batch)
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower end, mean and upper end of the 95 % Student interval of the mean."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return -math.inf, mean, math.inf
    half = T_975[min(len(values) - 1, len(T_975)) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean, mean + half


def parse(argv: Sequence[str]) -> argparse.Namespace:
    def grid(text: str) -> tuple[int, int]:
        rows, _, columns = text.partition("x")
        return int(rows), int(columns)

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--size", default="192/6/6", help='"release", or width/layers/heads')
    parser.add_argument("--ffn", type=int, default=512, help="feed-forward width; ignored for release")
    parser.add_argument("--batch", type=int, default=32, help="samples; sampling runs twice as many")
    parser.add_argument("--grid", type=grid, default="8x8", help="image tokens, rows x columns")
    parser.add_argument("--text", type=int, default=16, help="text tokens of a prompt")
    parser.add_argument("--steps", type=int, default=8, help="sampling steps")
    parser.add_argument("--work", nargs="+", default=list(WORK), choices=WORK)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--ops", default="auto", choices=NAMES)
    parser.add_argument(
        "--checkpointing", default="none", choices=("none", "selective", "full"), help="of ours; diffusers' is full if not none"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile both models; ours then uses the op set `reference`")
    parser.add_argument("--clock", default="wall", choices=("wall", "process"), help="process: CPU time, for a CPU that others use too")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args(argv)


def size(options: argparse.Namespace) -> DiTConfig:
    if options.size == "release":
        return RELEASE
    width, layers, heads = map(int, options.size.split("/"))
    spatial = width // heads * 3 // 8 // 2 * 2
    return DiTConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_layers=layers,
        ffn_hidden_size=options.ffn,
        in_channels=48,
        out_channels=48,
        text_in_dim=128,
        rope_axes_dim=(width // heads - 2 * spatial, spatial, spatial),
    )


def row(result: Result) -> str:
    line = f"{result.work:12} {result.reference_s * 1e3:10.1f} {result.ours_s * 1e3:10.1f}   {result.ratio:5.2f}x  [{result.low:.2f}, {result.high:.2f}]"
    if result.ours_peak_gib is not None and result.reference_peak_gib is not None:
        line += f"   {result.reference_peak_gib:7.2f} {result.ours_peak_gib:7.2f} GiB"
    if result.ours_mfu is not None and result.reference_mfu is not None:
        line += f"   MFU {result.reference_mfu:5.1%} {result.ours_mfu:5.1%}"
    return line


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if argv is None else argv)
    bench = Bench(size(options), options)
    parameters = sum(p.numel() for p in bench.models["ours"].parameters())
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {where}, {options.dtype}, {'compiled' if options.compile else 'eager'}, {parameters:,} parameters")
    print(f"op set {bench.ops.name}: {bench.ops.reason}")
    print(f"batch {options.batch}, {options.grid[0]}x{options.grid[1]} image + {options.text} text tokens; AdamW(fused=True) on both sides")
    difference = bench.check()
    print(f"outputs differ by {difference:.1e} of their norm")
    if not difference < (1e-4 if options.dtype == "float32" else 3e-2):
        print("the two models do not compute the same function: nothing is timed", file=sys.stderr)
        return 1
    print(f"{'':12} {'diffusers':>10} {'ours ms':>10}   ratio   95 % interval of {options.pairs} pairs", flush=True)
    results = []
    for work in options.work:
        results.append(bench.measure(work))
        print(row(results[-1]), flush=True)
    if options.json:
        facts = {"torch": torch.__version__, "where": where, "ops": bench.ops.name, "reason": bench.ops.reason, "parameters": parameters}
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({**facts, "options": settings, "results": [asdict(r) for r in results]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
