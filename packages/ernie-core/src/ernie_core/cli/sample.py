"""``ernie sample --checkpoint DIR --prompt TEXT --out FILE.png``: pictures from a checkpoint or a diffusers pipeline folder. Torch is imported when it runs."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_core.cli.app import Parser
from ernie_core.cli.sampling import add_sampling_options, at_least, open_sampling, settle_with_method, warnings_told
from ernie_core.errors import ConfigError

if TYPE_CHECKING:
    from ernie_core.cli.app import App


def main(argv: list[str], app: App) -> int:
    parser = Parser("sample", "Make pictures from prompts. Picture i starts from the noise of seed + i.")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run, a checkpoint, or a diffusers pipeline folder")
    parser.add_argument("--prompt", required=True, action="append", metavar="TEXT", help="may be given several times")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="several pictures become FILE-000.png, FILE-001.png, ...")
    add_sampling_options(parser)
    parser.add_argument("--count", type=at_least(1), default=1, metavar="N", help="pictures per prompt")
    parser.add_argument("--batch", type=at_least(1), default=4, metavar="N", help="pictures computed at a time")
    parser.add_argument("--grid", action="store_true", help="put all pictures into one file")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    options = parser.parse_args(argv)
    out = Path(options.out)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a name that ends in .png")
    with warnings_told(app):
        return _sample(options, out, app)


def _sample(options: argparse.Namespace, out: Path, app: App) -> int:
    import numpy as np

    settle_with_method(options, options.checkpoint)
    sampling = open_sampling(options.checkpoint, options, app)
    from ernie_core.sampling.pictures import grid, write_png

    prompts = [prompt for prompt in options.prompt for _ in range(options.count)]
    began = time.monotonic()
    batches = []
    for first in range(0, len(prompts), options.batch):
        batches.append(sampling.sample(prompts[first : first + options.batch], seed=options.seed + first))
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
            **sampling.settled(options.sampler),
            "seconds": round(took_s, 3),
        }
        app.out(json.dumps(made, ensure_ascii=False))
    else:
        for file in files:
            app.out(str(file))
        app.err(
            f"{len(pictures)} pictures, {sampling.steps} steps of {options.sampler} at guidance {sampling.guidance_scale:g} and shift "
            f"{sampling.pipeline.shift:g}, {took_s:.1f} s"
        )
    return 0
