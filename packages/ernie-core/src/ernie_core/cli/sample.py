"""``ernie sample --checkpoint DIR --prompt TEXT --out FILE.png``: pictures from a checkpoint or a diffusers pipeline folder. Torch is imported when it runs."""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_core.cli.app import Parser
from ernie_core.config.base import Selection
from ernie_core.errors import ConfigError

if TYPE_CHECKING:
    from ernie_core.cli.app import App

LARGEST_SEED = 2**63 - 1  # torch takes seeds below 2**64; picture i has seed + i
SIZE = re.compile(r"(\d+)x(\d+)")


def main(argv: list[str], app: App) -> int:
    parser = Parser("sample", "Make pictures from prompts. Picture i starts from the noise of seed + i.")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run, a checkpoint, or a diffusers pipeline folder")
    parser.add_argument("--prompt", required=True, action="append", metavar="TEXT", help="may be given several times")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="several pictures become FILE-000.png, FILE-001.png, ...")
    parser.add_argument("--steps", type=_at_least(1), metavar="N", help="intervals of the sampler (default: the checkpoint's, or 50)")
    parser.add_argument("--guidance", type=_finite, metavar="G", help="guidance scale; 1 or less is none (default: the checkpoint's, or 4)")
    parser.add_argument("--seed", type=_at_least(0, most=LARGEST_SEED), default=0, metavar="S")
    parser.add_argument("--size", type=_size, metavar="WxH", help="in pixels (default: the checkpoint's last stage, or 1024x1024)")
    parser.add_argument("--sampler", default="euler", metavar="NAME", help="euler, heun, ab2, or a plugin's (default: euler)")
    parser.add_argument("--count", type=_at_least(1), default=1, metavar="N", help="pictures per prompt")
    parser.add_argument("--batch", type=_at_least(1), default=4, metavar="N", help="pictures computed at a time")
    parser.add_argument("--grid", action="store_true", help="put all pictures into one file")
    parser.add_argument("--raw", action="store_true", help="the trained weights instead of their moving average")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of all networks (default: float32 on a CPU, bfloat16 on a GPU)")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    options = parser.parse_args(argv)
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a name that ends in .png")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        code = _sample(options, out, app)
    for text in dict.fromkeys(str(warning.message) for warning in seen if issubclass(warning.category, UserWarning)):
        app.err(f"warning: {text}")
    return code


def _sample(options: argparse.Namespace, out: Path, app: App) -> int:
    import numpy as np
    import torch

    from ernie_core.plugins.hookspecs import PureContext
    from ernie_core.sampling.pictures import grid, write_png
    from ernie_core.sampling.pipeline import load_pipeline, usable_device

    sampler = app.host.build("samplers", Selection(options.sampler), PureContext())  # an unknown name should not cost loading a model first
    device = usable_device(options.device)
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    pipeline = load_pipeline(
        options.checkpoint,
        host=app.host,
        device=device,
        dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32,
        raw=options.raw,
    )
    defaults = pipeline.defaults
    steps = options.steps or defaults.steps
    guidance_scale = defaults.guidance_scale if options.guidance is None else options.guidance
    size_px = options.size or defaults.size_px
    prompts = [prompt for prompt in options.prompt for _ in range(options.count)]

    began = time.monotonic()
    batches = []
    for first in range(0, len(prompts), options.batch):
        part = prompts[first : first + options.batch]
        batches.append(
            pipeline.sample(part, seed=options.seed + first, steps=steps, guidance_scale=guidance_scale, size_px=size_px, sampler=sampler)
        )
    pictures = np.concatenate(batches)
    took_s = time.monotonic() - began

    if options.grid:
        files = [out]
        write_png(out, grid(pictures))
    else:
        files = [out] if len(pictures) == 1 else [out.with_name(f"{out.stem}-{i:03d}{out.suffix}") for i in range(len(pictures))]
        for file, picture in zip(files, pictures):
            write_png(file, picture)
    if options.json:
        made = {
            "files": [str(file) for file in files],
            "prompts": prompts,
            "seeds": [options.seed + i for i in range(len(prompts))],
            "size_px": list(size_px),
            "steps": steps,
            "guidance_scale": guidance_scale,
            "shift": pipeline.shift,
            "sampler": options.sampler,
            "device": str(device),
            "dtype": dtype,
            "seconds": round(took_s, 3),
        }
        app.out(json.dumps(made, ensure_ascii=False))
    else:
        for file in files:
            app.out(str(file))
        app.err(
            f"{len(pictures)} pictures, {steps} steps of {options.sampler} at guidance {guidance_scale:g} and shift {pipeline.shift:g}, {took_s:.1f} s"
        )
    return 0


def _size(text: str) -> tuple[int, int]:
    match = SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT in pixels such as 1024x768, found {text!r}")
    return int(match[1]), int(match[2])


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}")
    return value


def _at_least(lowest: int, *, most: int | None = None):
    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {lowest}, found {text!r}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"expected at most {most}, found {text!r}")
        return value

    return whole_number
