"""What the benchmarks of a method's step have in common: a method over tiny or large random weights in an engine of its own, and paired timing."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ernie_core.api import MethodContext, PluginHost, PureContext, Selection, Stage, from_plain, to_plain
from ernie_core.config.run import OptimizerTable
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


class Workshop:
    """Builds methods over models with the same random weights, as ``options`` of ``add_model_options`` describe them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.host = options, PluginHost.discover()
        self.device, self.dtype = torch.device(options.device), getattr(torch, options.dtype)
        self.rng = Rng(0).step(0)
        self.codec = PixelCodec(PixelConfig(patch=PATCH), CodecContext(self.device, self.dtype))
        self.ops = select_ops("auto", device=self.device, dtype=self.dtype)

    def method(self, name: str, plain: Mapping[str, Any]) -> tuple[Any, ReplicatedEngine]:
        method = self.host.build("methods", Selection(name, self.config(name, plain)), self.context())
        return method, self.engine(method)

    def config(self, method: str, plain: Mapping[str, Any]) -> Any:
        return from_plain(dict(plain), self.host, struct=self.host.entry("methods", method).config)

    def context(self) -> MethodContext:
        return MethodContext(
            seed=0,
            device=self.device,
            dtype=self.dtype,
            make_transformer=self.transformer,
            codec=self.codec,
            encoder=BytesEncoder(BytesConfig(width=TEXT_WIDTH), seed=0, device=self.device, dtype=self.dtype),
            component=lambda registry, selection, own=PureContext(): self.host.build(registry, selection, own),  # noqa: B008
            stages=(self.stage(),),
            ema=None,
        )

    def engine(self, method: Any) -> ReplicatedEngine:
        engine = ReplicatedEngine(self.device, OneRank())
        engine.prepare(method.networks(), {"default": OptimizerTable()}, ops=self.ops, compute=self.dtype)
        return engine

    def transformer(self) -> ErnieDiT:
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

    def stage(self) -> Stage:
        rows, columns = self.options.grid
        return Stage(size_px=round(math.sqrt(rows * columns)) * PATCH, steps=1, batch_size=self.options.batch)

    def prompts(self) -> list[str]:
        """One per sample, of ``--text`` words."""
        return [" ".join(WORDS[(row + place) % len(WORDS)] for place in range(self.options.text)) for row in range(self.options.batch)]

    def seconds(self, work: Callable[[], None]) -> float:
        clock = time.process_time if self.options.clock == "cpu" else time.perf_counter
        self.wait()
        began = clock()
        work()
        self.wait()
        return clock() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def paired(self, method: Callable[[], None], passes: Callable[[], None]) -> dict[str, float]:
        """Both in each round, in alternating order: the ratio of the method's time to the passes' with the 95 % Student interval of its mean logarithm."""
        rows = []
        for number in range(self.options.warmup + self.options.rounds):
            work = [("method", method), ("passes", passes)]
            found = {name: self.seconds(run) for name, run in (work if number % 2 else reversed(work))}
            if number >= self.options.warmup:
                rows.append(found)
        found = mean_interval([math.log(row["method"] / row["passes"]) for row in rows], range(len(rows)))
        ratio, low, high = (math.exp(value) for value in (found.value, found.low, found.high))
        medians = {f"{name}_s": statistics.median(row[name] for row in rows) for name in ("method", "passes")}
        return {"ratio": ratio, "low": low, "high": high, **medians}

    def write(self, report: Mapping[str, Any]) -> None:
        if self.options.json is None:
            return
        setting = {name: to_plain(value) for name, value in vars(self.options).items() if name != "json"}
        where = torch.cuda.get_device_name() if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        whole = {**report, "setting": setting, "torch": torch.__version__, "where": where}
        self.options.json.write_text(json.dumps(whole, indent=1) + "\n")  # durable: a report, made again at will


def add_model_options(parser: argparse.ArgumentParser, *, batch: str) -> None:
    """Args:
    batch: what a batch consists of: the name of its option.
    """
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--size", type=numbers("/", 3), default=(192, 6, 6), metavar="WIDTH/LAYERS/HEADS")
    parser.add_argument("--ffn", type=int, default=0, help="default: 3 x width")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(f"--{batch}", dest="batch", type=int, default=8)
    parser.add_argument("--grid", type=numbers("x", 2), default=(8, 8), metavar="ROWSxCOLUMNS")
    parser.add_argument("--text", type=int, default=16, help="words of a prompt")
    parser.add_argument("--checkpointing", default="none", choices=("none", "selective", "full"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument(
        "--clock", default="wall", choices=("wall", "cpu"), help="cpu: processor seconds of this process, for machines that are busy"
    )
    parser.add_argument("--json", type=Path)


def numbers(mark: str, count: int) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        found = tuple(int(part) for part in text.split(mark))
        if len(found) != count:
            raise argparse.ArgumentTypeError(f"expected {count} numbers with {mark!r} between them, found {text!r}")
        return found

    return parse
