#!/usr/bin/env python
"""What one step of method ``dpo`` costs beyond its network passes, and what it holds beyond fine-tuning.

    python tools/bench/dpo_step.py                                             # CPU: 192/6, 8 pairs, 64 image + 16 text tokens, rank 16
    python tools/bench/dpo_step.py --device cuda --dtype bfloat16 --size 2048/16/12 --pairs 8 --grid 32x32 --text 128 --checkpointing full

Time: ``loss`` and backward of the method, adapter off as reference, against the bare passes of the same adapter-wrapped model at the same shapes: forward and
backward over the chosen and over the rejected pictures, and a forward without gradient over each with the adapter off. Both sides run in each round, in
alternating order; the ratio of a round is the method's time over the passes', the interval the 95 % Student interval of the mean logarithm. Neither side
steps its optimiser or encodes pictures; ``--batched`` gives the bare passes the batch of 2B as well, which isolates what is not a network pass.

Memory: bytes that autograd saves (``saved_tensors_hooks``, each storage once, parameters apart), plus parameters, gradients, and optimiser states, against
method ``sft`` with the same adapter on the same 2B pictures.
Needs torch, ernie-core and ernie-align.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ernie_align.dpo import Dpo
from ernie_align.pair_batch import PairBatch, both
from ernie_align.sft import Batch
from ernie_core.api import MethodContext, Network, PluginHost, PureContext, Selection, Stage, from_plain, to_plain
from ernie_core.config.run import OptimizerTable
from ernie_core.flow.losses import mse
from ernie_core.flow.matching import target_of
from ernie_core.latent.entries import PixelConfig
from ernie_core.latent.pixel import PixelCodec
from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.ops.select import select_ops
from ernie_core.parallel.group import OneRank
from ernie_core.parallel.replicated import ReplicatedEngine
from ernie_core.plugins.hookspecs import CodecContext
from ernie_core.rng import Rng
from ernie_core.stats.intervals import mean_interval
from ernie_core.testing.tiny import fill_zeros
from ernie_core.text.bytes import BytesEncoder
from ernie_core.text.entries import BytesConfig

TEXT_WIDTH, PATCH = 64, 4
WORDS = ("red", "square", "left", "of", "two", "large", "circles", "under", "a", "blue", "line")


class Bench:
    """Two methods over models with the same weights, each in an engine of its own, and the same random pictures for both."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.host = options, PluginHost.discover()
        self.device, self.dtype = torch.device(options.device), getattr(torch, options.dtype)
        self.rng = Rng(0).step(0)
        self.codec = PixelCodec(PixelConfig(patch=PATCH), CodecContext(self.device, self.dtype))
        self.ops = select_ops("auto", device=self.device, dtype=self.dtype)
        self.dpo, self.dpo_engine = self._method("dpo", options.loss)
        self.sft, self.sft_engine = self._method("sft")
        self.batch = self._batch()

    def _method(self, name: str, loss: str | None = None) -> tuple[Any, ReplicatedEngine]:
        options = self.options
        adapter = {"rank": options.rank}
        plain: dict[str, Any] = {"adapter": adapter} if loss is None else {"adapter": adapter, "loss": {"use": loss}}
        entry = self.host.entry("methods", name)
        config = from_plain(plain, self.host, struct=entry.config)
        context = MethodContext(
            seed=0,
            device=self.device,
            dtype=self.dtype,
            make_transformer=self._transformer,
            codec=self.codec,
            encoder=BytesEncoder(BytesConfig(width=TEXT_WIDTH), seed=0, device=self.device, dtype=self.dtype),
            component=lambda registry, selection: self.host.build(registry, selection, PureContext()),
            stages=(self._stage(),),
            ema=None,
        )
        method = self.host.build("methods", Selection(name, config), context)
        engine = ReplicatedEngine(self.device, OneRank())
        engine.prepare(method.networks(), {"default": OptimizerTable()}, ops=self.ops, compute=self.dtype)
        return method, engine

    def _transformer(self) -> ErnieDiT:
        width, layers, heads = self.options.size
        head = width // heads
        spatial = head * 3 // 8 // 2 * 2
        config = DiTConfig(
            hidden_size=width,
            num_attention_heads=heads,
            num_layers=layers,
            ffn_hidden_size=self.options.ffn or 3 * width,
            in_channels=self.codec.channels,
            out_channels=self.codec.channels,
            text_in_dim=TEXT_WIDTH,
            rope_axes_dim=(head - 2 * spatial, spatial, spatial),
        )
        model = ErnieDiT(config, ops=self.ops, seed=0)
        fill_zeros(model)
        model.checkpointing = self.options.checkpointing
        return model

    def _stage(self) -> Stage:
        rows, columns = self.options.grid
        return Stage(size_px=round(math.sqrt(rows * columns)) * PATCH, steps=1, batch_size=self.options.pairs)

    @torch.no_grad()
    def _batch(self) -> PairBatch:
        pairs = self.options.pairs
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2 * pairs, self.codec.channels, *self.options.grid, generator=generator).to(self.device, self.dtype)
        prompts = [" ".join(WORDS[(row + place) % len(WORDS)] for place in range(self.options.text)) for row in range(pairs)]
        text = self.dpo._matching.encode(prompts).rows([*range(pairs), *range(pairs)])
        return PairBatch(latents, text, tuple(range(pairs)), pairs, self.codec.channels * math.prod(self.options.grid))

    # ---- time ----

    def method_step(self) -> None:
        turn = self.dpo.turn(0)
        with self.dpo_engine.micro_step(turn, last=True):
            loss, metrics = self.dpo.loss(self.batch, turn, self.rng)
            self.dpo_engine.backward(loss / len(self.batch))
        metrics.means()  # as at every logged step: waits for the device
        self.dpo_engine.discard_gradients()

    def bare_passes(self) -> None:
        """The same network work and nothing else: noise and noise levels are drawn beforehand."""
        turn, policy = self.dpo.turn(0), self.dpo._policy
        with self.dpo_engine.micro_step(turn, last=True):
            for x0, noise, sigma, text, target in self.sides:
                error_B = mse(self.dpo._matching.predict(policy.transformer, x0, noise, sigma, text), target, sigma)
                self.dpo_engine.backward(error_B.sum())
            for x0, noise, sigma, text, _ in self.sides:
                with torch.no_grad(), policy.base() as base:
                    self.dpo._matching.predict(base, x0, noise, sigma, text)
        self._wait()
        self.dpo_engine.discard_gradients()

    def draw_sides(self, *, batched: bool) -> None:
        B = len(self.batch)
        noise, sigma = self.dpo._reader.noise(self.batch, self.rng)
        rows = [range(2 * B)] if batched else [range(B), range(B, 2 * B)]
        self.sides: list[tuple[Any, ...]] = []
        for chosen in rows:
            x0 = self.batch.latents_2BCHW[chosen.start : chosen.stop]
            own_noise, own_sigma = (both(noise), both(sigma)) if batched else (noise, sigma)
            self.sides.append((x0, own_noise, own_sigma, self.batch.text.rows(chosen), target_of(x0, own_noise)))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], None]) -> float:
        clock = time.process_time if self.options.clock == "cpu" else time.perf_counter
        self._wait()
        began = clock()
        work()
        self._wait()
        return clock() - began

    # ---- memory ----

    def memory(self, method: Any, engine: ReplicatedEngine, batch: Any) -> dict[str, int]:
        """Bytes that autograd saves for one micro-batch, and of states after a step."""
        storages: dict[int, int] = {}
        modules = {id(network.module): network.module for network in method.networks()}
        own = {p.untyped_storage().data_ptr() for module in modules.values() for p in module.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()  # saved tensors live until backward: an address is one storage
            return tensor

        turn = method.turn(0)
        with engine.micro_step(turn, last=True):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss, _ = method.loss(batch, turn, self.rng)
            saved = sum(storages.values())
            engine.backward(loss)
        gradients = sum(m.grad.numel() * m.grad.element_size() for name in turn.trains for m in engine._trained[name].masters)
        engine.step(turn, learning_rate_factor=0.0, refuse_above={})
        return {"saved": saved, "states": gradients + self._states(method.networks(), engine)}

    def _states(self, networks: list[Network], engine: ReplicatedEngine) -> int:
        tensors = {id(p): p for network in networks for p in network.module.parameters()}
        for trained in engine._trained.values():
            tensors |= {id(m): m for m in trained.masters}
            tensors |= {id(v): v for state in trained.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def sft_batch(self) -> Batch:
        """The same 2B pictures, each with its prompt."""
        count = 2 * len(self.batch)
        return Batch(self.batch.latents_2BCHW, self.batch.text, torch.ones(count), tuple(range(count)), count)


def timed(bench: Bench, rounds: int, warmup: int) -> dict[str, float]:
    rows = []
    for number in range(warmup + rounds):
        work = [("method", bench.method_step), ("passes", bench.bare_passes)]
        found = {name: bench.seconds(run) for name, run in (work if number % 2 else reversed(work))}
        if number >= warmup:
            rows.append(found)
    found = mean_interval([math.log(row["method"] / row["passes"]) for row in rows], range(len(rows)))
    ratio, low, high = (math.exp(value) for value in (found.value, found.low, found.high))
    medians = {f"{name}_s": statistics.median(row[name] for row in rows) for name in ("method", "passes")}
    return {"ratio": ratio, "low": low, "high": high, **medians}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--size", type=numbers("/", 3), default=(192, 6, 6), metavar="WIDTH/LAYERS/HEADS")
    parser.add_argument("--ffn", type=int, default=0, help="default: 3 x width")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--grid", type=numbers("x", 2), default=(8, 8), metavar="ROWSxCOLUMNS")
    parser.add_argument("--text", type=int, default=16, help="words of a prompt")
    parser.add_argument("--loss", default="anchored-dpo")
    parser.add_argument("--checkpointing", default="none", choices=("none", "selective", "full"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument(
        "--clock", default="wall", choices=("wall", "cpu"), help="cpu: processor seconds of this process, for machines that are busy"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bench = Bench(options)
    if not isinstance(bench.dpo, Dpo):
        raise TypeError("the method dpo is another plugin's")
    found: dict[str, Any] = {}
    for name, batched in (("against passes of B", False), ("against passes of 2B", True)):
        bench.draw_sides(batched=batched)
        found[name] = timed(bench, options.rounds, options.warmup)
        row = found[name]
        print(
            f"{name}: {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]; step {row['method_s']:.4f} s, passes {row['passes_s']:.4f} s"
        )
    memory = {
        "dpo": bench.memory(bench.dpo, bench.dpo_engine, bench.batch),
        "sft": bench.memory(bench.sft, bench.sft_engine, bench.sft_batch()),
    }
    ratio = sum(memory["dpo"].values()) / sum(memory["sft"].values())
    for name, row in memory.items():
        print(f"{name}: saved {row['saved'] / 2**20:.1f} MiB, states {row['states'] / 2**20:.1f} MiB")
    print(f"memory: {ratio:.3f} of fine-tuning on the same {2 * options.pairs} pictures")
    if options.json is not None:
        setting = {name: to_plain(value) for name, value in vars(options).items() if name != "json"}
        where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        report = {"time": found, "memory": memory, "memory_ratio": ratio, "setting": setting, "torch": torch.__version__, "where": where}
        options.json.write_text(json.dumps(report, indent=1) + "\n")  # durable: a report, made again at will
    return 0


def numbers(mark: str, count: int) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        found = tuple(int(part) for part in text.split(mark))
        if len(found) != count:
            raise argparse.ArgumentTypeError(f"expected {count} numbers with {mark!r} between them, found {text!r}")
        return found

    return parse


if __name__ == "__main__":
    sys.exit(main())
