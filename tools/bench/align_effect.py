"""Does preference training teach a preference with known truth? Arms of DPO against fine-tuning controls, at equal steps, on ShapeBench.

    python tools/bench/align_effect.py --base RUN --out DIR [--seeds 0 1 2] [--arms NAME ...] [--jobs 2] [--write]

RUN is a model of profile quick, such as the raw arm of curation_effect.py, which was trained on captions of which many are wrong. It samples eight
pictures of each prompt; pairs are one that the scorer `shapes-agreement` finds righter than another. Controls that isolate the preference term:
fine-tuning on the winners alone, and on winners and losers with the fixed weights .375 and .125. Everything else is equal: data, order, noise, steps.
All models draw the same prompts from the same noise, and the exact verifier judges.

Each part is kept once it is whole; the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
PARTS = ("right", "colour", "shape", "position")

PAIRS = """scorers = [{ use = "shapes-agreement", profile = "quick" }]
images_per_prompt = 8
batch_size = 64
sampler = { use = "ab2" }
steps = 16
guidance_scale = 3.0
seed = 1000000
min_margin = 0.25
pairs_per_prompt = 3
"""

TRAIN = """codec = {{ use = "pixel", patch = 4, scale = 1.4 }}
encoder = {{ use = "bytes", width = 128, byte_width = 64 }}
model = {{ init = "{base}" }}
data = {{ use = "pairs", path = "{pairs}" }}
stages = [{{ size_px = 24, steps = {steps}, batch_size = 32 }}]
run = {{ seed = {seed} }}
optimizer = {{ learning_rate = {rate}, betas = [0.9, 0.99] }}
schedule = {{ kind = "linear", warmup_steps = 10, final_factor = 0.1 }}
ema = {{ decay = 0.98 }}
flow = {{ shift = 3.0 }}
checkpoint = {{ every_steps = 100, keep = 2 }}
logging = {{ every_steps = 10, tensorboard = false }}
method = {{ {method} }}
"""


def dpo(loss: str) -> str:
    return f'use = "dpo", adapter = false, reference = {{ mode = "copy" }}, density = {{ use = "shifted-logit-normal", shift = 3.0 }}, loss = {{ {loss} }}'


def anchored(beta: float, *, reduction: str = "mean", win: float = 0.35, lose: float = 0.15) -> str:
    return dpo(f'use = "anchored-dpo", beta = {beta}, dpo_reduction = "{reduction}", anchor_win = {win}, anchor_lose = {lose}')


ARMS = {
    "sft winners": 'use = "sft", caption_dropout = 0.0, density = { use = "shifted-logit-normal", shift = 3.0 }',
    "sft .375:.125": anchored(1e-9, win=0.375, lose=0.125),
    "anchored .05": anchored(0.05),
    "anchored 1": anchored(1.0),
    "anchored 20": anchored(20.0),
    "anchored sum": anchored(0.05, reduction="sum"),
    "plain .05": anchored(0.05, win=0.0, lose=0.0),
    "plain 1": anchored(1.0, win=0.0, lose=0.0),
    "plain 20": anchored(20.0, win=0.0, lose=0.0),
    "plain sum": anchored(0.05, reduction="sum", win=0.0, lose=0.0),
}
CONTROLS = ("sft winners", "sft .375:.125")


def ernie(*arguments: str | Path, cwd: Path, allow: tuple[int, ...] = (0,)) -> int:
    done = subprocess.run([Path(sys.executable).with_name("ernie"), *arguments], cwd=cwd, check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in allow:
        raise SystemExit(f"ernie {' '.join(map(str, arguments))}: exit code {done.returncode}")
    return done.returncode


def asked(noises: int) -> list[tuple[str, str, int]]:
    """Triple, prompt and number of every picture that is judged."""
    from ernie_data.shapes.captions import STYLES, caption
    from ernie_data.shapes.profile import profile

    every = [(t, s, n) for n in range(noises) for t in profile("quick").seen() for s in STYLES]
    return [(str(t), caption([t], style=s, wording=n % 2), i) for i, (t, s, n) in enumerate(every)]


def build_pairs(base: Path, out: Path) -> None:
    from ernie_data.shapes.captions import STYLES, caption
    from ernie_data.shapes.profile import profile

    out.mkdir(parents=True, exist_ok=True)
    prompts = [caption([t], style=s, wording=i % 2) for t in profile("quick").seen() for i, s in enumerate(STYLES)]
    (out / "prompts.txt").write_text("\n".join(prompts) + "\n")
    (out / "pairs.toml").write_text(PAIRS)
    if not (out / "pairs").exists():
        ernie(
            "align", "pairs", "build", "--checkpoint", base, "--prompts", "prompts.txt", "--config", "pairs.toml", "--out", "pairs", cwd=out
        )


def train(base: Path, out: Path, arm: str, seed: int, *, steps: int, rate: float) -> None:
    folder = out / f"run-{arm.replace(' ', '-')}-{seed}"
    if (folder / "ended").exists():
        return
    config = TRAIN.format(base=base, pairs=(out / "pairs").resolve(), steps=steps, seed=seed, rate=rate, method=ARMS[arm])
    (out / f"{folder.name}.toml").write_text(config)
    stopped = ernie("train", f"{folder.name}.toml", "--out", folder.name, cwd=out, allow=(0, 1))  # 1: an alarm has stopped it
    (folder / "ended").write_text("stopped by an alarm" if stopped else "done")


def judge(run: Path, cache: Path, noises: int) -> list[dict]:
    """One row per picture. ``run`` is sampled where ``cache`` does not exist yet."""
    if cache.exists():
        return json.loads(cache.read_text())
    from ernie_core.api import App, PureContext, Selection
    from ernie_core.sampling.pipeline import load_pipeline
    from ernie_data.shapes.parse import parse_caption
    from ernie_data.shapes.profile import profile
    from ernie_data.shapes.suite import parts, seen_in

    host, quick = App().host, profile("quick")
    pipeline = load_pipeline(run, host=host)
    sampler = host.build("samplers", Selection("ab2"), PureContext())
    questions, rows = asked(noises), []
    for at in range(0, len(questions), 64):
        part = questions[at : at + 64]
        pictures = pipeline.sample(
            [prompt for _, prompt, _ in part], seed=20_000 + at, steps=16, guidance_scale=3.0, size_px=(24, 24), sampler=sampler
        )
        for (triple, prompt, _), picture in zip(part, pictures):
            held = parts(seen_in(picture, quick), parse_caption(prompt))
            rows.append({"triple": triple, **{name: float(held[name]) for name in PARTS}})
    cache.write_text(json.dumps(rows))
    return rows


def table(base: Path, out: Path, arms: list[str], seeds: list[int], noises: int) -> dict:
    """Every arm's scores, and its paired differences from the base and from the better control, clustered by triple over all seeds."""
    from ernie_core.stats import mean_interval, non_inferiority, paired_difference

    before = judge(base, out / "judged-base.json", noises) * len(seeds)
    found = {
        arm: [
            row for seed in seeds for row in judge(out / f"run-{arm.replace(' ', '-')}-{seed}", out / f"judged-{arm}-{seed}.json", noises)
        ]
        for arm in arms
    }
    triples = [row["triple"] for row in before]
    means = {arm: float(np.mean([row["right"] for row in rows])) for arm, rows in found.items()}
    controls = [arm for arm in CONTROLS if arm in found]
    better = max(controls, key=lambda arm: means[arm]) if controls else None
    report: dict = {
        "base": {name: mean_interval([r[name] for r in before], triples).to_json() for name in PARTS},
        "control": better,
        "arms": {},
    }
    for arm, rows in found.items():
        values = {name: [row[name] for row in rows] for name in PARTS}
        about: dict = {name: mean_interval(values[name], triples).to_json() for name in PARTS}
        about["by_seed"] = np.reshape(values["right"], (len(seeds), -1)).mean(1).round(4).tolist()
        about["ended"] = [(out / f"run-{arm.replace(' ', '-')}-{seed}" / "ended").read_text() for seed in seeds]
        for name, rows_of in (("base", before), ("control", found[better] if better else before)):
            difference = paired_difference(values["right"], [row["right"] for row in rows_of], triples)
            about[f"right_minus_{name}"] = {**difference.interval.to_json(), "p_value": difference.p_value}
        held = {n: non_inferiority(values[n], [r[n] for r in before], triples, margin=0.03) for n in PARTS[1:]}
        about["not_worse_than_base_by_3_points"] = {name: bool(result.shown) for name, result in held.items()}
        report["arms"][arm] = about
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate of every arm")
    parser.add_argument("--noises", type=int, default=2, help="pictures of each of 320 prompts")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--write", action="store_true", help="keep the table under tools/bench/results")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    base, out = options.base.resolve(), options.out.resolve()
    build_pairs(base, out)
    runs = [(arm, seed) for seed in options.seeds for arm in options.arms]
    with ThreadPoolExecutor(options.jobs) as threads:
        list(threads.map(lambda run: train(base, out, *run, steps=options.steps, rate=options.rate), runs))
    report = table(base, out, options.arms, options.seeds, options.noises)
    counts = json.loads((out / "pairs" / "manifest.json").read_text()).get("counts")
    report["settings"] = {"steps": options.steps, "learning_rate": options.rate, "seeds": options.seeds, "pairs": counts}
    import torch

    report["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "device": "cpu"}
    print(json.dumps(report, indent=1))
    if options.write:
        report |= {"date": date.today().isoformat()}
        (HERE / "results" / f"align-effect-cpu-{date.today().isoformat()}.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
