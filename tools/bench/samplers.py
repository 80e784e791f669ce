"""Error of each sampler against its number of model calls, on a trained checkpoint: is a second-order sampler worth it there?

    python tools/bench/samplers.py --checkpoint RUN [--prompt TEXT ...] [--calls 8 16 32] [--count 8]

The error is the rms distance, over all latent values of all pictures, from the solution that 256 steps of ``heun`` give from the same noise.
Below 1, the ratio says how much smaller the error is than Euler's at the same number of model calls.
"""

from __future__ import annotations

import argparse
import json

from ernie_core.plugins.host import PluginHost
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.sampling.samplers import ab2, euler, heun

PROMPTS = (
    "a red circle in the bottom right",
    "green square, bottom left",
    "a blue triangle in the top left",
    "a purple cross in the top right",
)
REFERENCE_STEPS = 256
CALLS_PER_STEP = {"euler": 1, "ab2": 1, "heun": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description="Sampler error against model calls on a trained checkpoint.")
    parser.add_argument("--checkpoint", required=True, metavar="DIR")
    parser.add_argument("--prompt", action="append", metavar="TEXT")
    parser.add_argument("--calls", type=int, nargs="+", default=[8, 16, 32], metavar="N")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="pictures per prompt")
    parser.add_argument("--guidance", type=float, metavar="G")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    pipeline = load_pipeline(options.checkpoint, host=PluginHost.discover(), device=options.device)
    guidance_scale = pipeline.defaults.guidance_scale if options.guidance is None else options.guidance
    prompts = [prompt for prompt in options.prompt or PROMPTS for _ in range(options.count)]
    noise = pipeline.noise(len(prompts), seed=0, size_px=pipeline.defaults.size_px)
    text = pipeline.encode(prompts, guidance_scale=guidance_scale)

    def latents(sampler, steps):
        return pipeline.sample_latents(text, noise_BCHW=noise, steps=steps, guidance_scale=guidance_scale, sampler=sampler)

    exact = latents(heun, REFERENCE_STEPS)
    rows = []
    for calls in options.calls:
        errors = {
            sampler.__name__: float((latents(sampler, calls // CALLS_PER_STEP[sampler.__name__]) - exact).square().mean().sqrt())
            for sampler in (euler, ab2, heun)
        }
        rows.append({"calls": calls, **errors})
    if options.json:
        print(json.dumps({"guidance_scale": guidance_scale, "pictures": len(prompts), "rows": rows}))
        return 0
    print(f"{len(prompts)} pictures, guidance {guidance_scale:g}, rms latent error (scale {float(exact.square().mean().sqrt()):.3f})")
    for row in rows:
        ratios = ", ".join(f"{name} {row[name]:.4f} ({row[name] / row['euler']:.2f}x)" for name in ("euler", "ab2", "heun"))
        print(f"{row['calls']:4d} model calls: {ratios}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
