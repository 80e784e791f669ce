"""Does curation help rare things? A model trained on the raw set against one trained on the curated, hierarchically sampled set, at equal steps.

    python tools/bench/curation_effect.py --out DIR [--seeds 0 1 2] [--jobs 2] [--write]

The raw set is ShapeBench, profile quick, with planted defects: pairs of shape and colour after Zipf's law, wrong captions, duplicates, near-duplicates,
corrupt and degraded files. Arm `raw` trains on every file that can be decoded, each as likely. Arm `curated` trains on what `ernie data build`
makes of the same files without knowing what was planted: duplicates removed, captions that contradict their picture replaced by read ones, low scores
left out, categories by k-means of embeddings, and two-level sampling. Arm `cleaned` trains on the same build with every picture as likely, which tells
the part of cleaning from that of sampling. Everything else is equal. All are asked for every trained combination of shape, colour and place in eight
wordings, judged by the exact verifier. A pair is rare if it makes up less than 1 % of the raw files.

Each part is kept once it is whole; the same command goes on with what is missing. `--write` puts the table under tools/bench/results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ARMS = {"raw": "raw", "cleaned": "curated", "curated": "curated"}
"""Arm -> the build it trains on."""
RARE = 0.01

PLAN = """profile = "quick"
count = {count}
size_px = 32
seed = 1
zipf = 1.6
wrong_captions = 0.15
duplicates = 0.08
near_duplicates = 0.07
corrupt = 0.02
low_quality = 0.15
"""

RAW = """unit_rows = 512
sources = [{ use = "folder", path = "raw/pictures" }]
stages = [{ use = "decode" }]
index = { category = "", score = "", size_px = [16, 24], multiple_px = 4 }
"""

CURATED = """unit_rows = 512
sources = [{ use = "folder", path = "raw/pictures" }]
stages = [
  { use = "decode" },
  { use = "hashes" },
  { use = "score", scorer = { use = "shapes-quality" } },
  { use = "duplicates", distance = 0.03 },
  { use = "agreement", repair = true },
  { use = "select", where = "score >= 6", name = "low quality" },
  { use = "embed" },
  { use = "category", leaves = 64 },
]
index = { size_px = [16, 24], multiple_px = 4 }
"""

TRAIN = """codec = {{ use = "pixel", patch = 4, scale = 1.4 }}
encoder = {{ use = "bytes", width = 128, byte_width = 64 }}
data = {{ use = "curated", path = "{build}", sampling = {sampling} }}
stages = [{{ size_px = 16, steps = {first}, batch_size = 64 }}, {{ size_px = 24, steps = {second}, batch_size = 64 }}]

[run]
seed = {seed}

[model]
hidden_size = 128
num_attention_heads = 4
num_layers = 4
ffn_hidden_size = 384
rope_layout = "standard"

[method]
use = "pretrain"
density = {{ use = "shifted-logit-normal", shift = 3.0 }}
caption_dropout = 0.1

[optimizer]
learning_rate = 2e-3
betas = [0.9, 0.99]

[schedule]
kind = "linear"
warmup_steps = 50
final_factor = 0.05

[ema]
decay = 0.995

[flow]
shift = 3.0

[checkpoint]
every_steps = 200
keep = 2

[logging]
every_steps = 50
tensorboard = false
"""

SAMPLING = {
    "raw": '{ strategy = "uniform-image", max_repeats = 1000 }',
    "cleaned": '{ strategy = "uniform-image", max_repeats = 1000 }',
    "curated": '{ strategy = "hierarchical", alpha = 0.5, max_repeats = 20 }',
}


def ernie(*arguments: str, cwd: Path) -> None:
    subprocess.run([Path(sys.executable).with_name("ernie"), *arguments], cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def prepare(out: Path, count: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("plan.toml", PLAN.format(count=count)), ("raw.toml", RAW), ("curated.toml", CURATED)):
        (out / name).write_text(text)
    ernie("data", "shapes", "--defects", "plan.toml", "--out", "raw", cwd=out)
    for build in dict.fromkeys(ARMS.values()):
        ernie("data", "build", f"{build}.toml", "--out", f"build-{build}", cwd=out)


def train(out: Path, arm: str, seed: int, steps: tuple[int, int]) -> None:
    latest = out / f"run-{arm}-{seed}" / "latest"
    if latest.exists() and latest.read_text().strip() == f"step-{sum(steps):08d}":
        return
    text = TRAIN.format(build=(out / f"build-{ARMS[arm]}").resolve(), sampling=SAMPLING[arm], seed=seed, first=steps[0], second=steps[1])
    (out / f"{arm}-{seed}.toml").write_text(text)
    ernie("train", f"{arm}-{seed}.toml", "--out", f"run-{arm}-{seed}", cwd=out)


def judge(out: Path, arm: str, seed: int, wordings: int) -> list[dict]:
    """One row per picture: pair, triple and whether all of it is right. Kept in a file, because sampling takes a while."""
    found = out / f"judged-{arm}-{seed}.json"
    if found.exists():
        return json.loads(found.read_text())
    from ernie_core.api import App, PureContext, Selection
    from ernie_core.sampling.pipeline import load_pipeline
    from ernie_data.quickstart.judging import Question, answers
    from ernie_data.shapes.captions import STYLES, caption
    from ernie_data.shapes.profile import profile

    host, quick = App().host, profile("quick")
    pipeline = load_pipeline(out / f"run-{arm}-{seed}", host=host)
    sampler = host.build("samplers", Selection("ab2"), PureContext())
    asked = [(t, s, w) for t in quick.seen() for s in STYLES for w in range(wordings)]
    questions = [Question(t, caption([t], style=s, wording=w), s, 0, i) for i, (t, s, w) in enumerate(asked)]
    pictures = []
    for at in range(0, len(questions), 64):
        prompts = [q.prompt for q in questions[at : at + 64]]
        drawn = {"steps": 16, "guidance_scale": 3.0, "size_px": pipeline.defaults.size_px, "sampler": sampler}
        pictures.append(pipeline.sample(prompts, seed=10_000 + at, **drawn))
    judged = answers(questions, np.concatenate(pictures), quick)
    rows = [
        {"pair": f"{a.question.triple.colour} {a.question.triple.shape}", "triple": str(a.question.triple), "right": bool(a.verdict.right)}
        for a in judged
    ]
    found.write_text(json.dumps(rows))
    return rows


def shares(out: Path) -> dict[str, float]:
    """Share of each pair among the raw files."""
    counts = Counter(json.loads(line)["category"] for line in (out / "raw" / "truth.jsonl").read_text().splitlines())
    return {pair: n / counts.total() for pair, n in counts.most_common()}


def table(out: Path, seeds: list[int], wordings: int) -> dict:
    """Shares of right pictures on rare and on other pairs, and their paired difference, clustered by triple over all seeds."""
    from ernie_core.stats import mean_interval, paired_difference

    share = shares(out)
    groups = {"rare": {p for p, s in share.items() if s < RARE}, "others": {p for p, s in share.items() if s >= RARE}}
    report: dict = {"pairs": {name: len(group) for name, group in groups.items()}}
    for name, group in groups.items():
        rows = {arm: [r for seed in seeds for r in judge(out, arm, seed, wordings) if r["pair"] in group] for arm in ARMS}
        triples = [r["triple"] for r in rows["raw"]]
        right = {arm: [float(r["right"]) for r in rows[arm]] for arm in ARMS}
        report[name] = {arm: mean_interval(right[arm], triples).to_json() for arm in ARMS}
        report[name]["by_seed"] = {arm: np.reshape(right[arm], (len(seeds), -1)).mean(1).round(4).tolist() for arm in ARMS}
        for first, second in (("curated", "raw"), ("cleaned", "raw"), ("curated", "cleaned")):
            difference = paired_difference(right[first], right[second], triples)
            report[name][f"{first}_minus_{second}"] = {**difference.interval.to_json(), "p_value": difference.p_value}
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=6000, help="raw files")
    parser.add_argument("--steps", type=int, nargs=2, default=(200, 400), metavar=("FIRST", "SECOND"), help="at 16 and at 24 px")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--wordings", type=int, default=2, choices=(1, 2), help="of each of the four styles")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--write", action="store_true", help="keep the table under tools/bench/results")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare(options.out, options.count)
    runs = [(arm, seed) for seed in options.seeds for arm in ARMS]
    with ThreadPoolExecutor(options.jobs) as threads:
        list(threads.map(lambda run: train(options.out, *run, tuple(options.steps)), runs))
    report = table(options.out, options.seeds, options.wordings)
    builds = {name: json.loads((options.out / f"build-{name}" / "dataset.json").read_text()) for name in dict.fromkeys(ARMS.values())}
    report["builds"] = {name: {"records": about["records"], "accepted": about["accepted"]} for name, about in builds.items()}
    report["settings"] = {"steps": list(options.steps), "seeds": options.seeds, "sampling": SAMPLING, "files": options.count}
    import torch

    report["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "device": "cpu"}
    print(json.dumps(report, indent=1))
    if options.write:
        report |= {"command": " ".join(["python tools/bench/curation_effect.py", *sys.argv[1:]]), "date": date.today().isoformat()}
        (HERE / "results" / f"curation-effect-{date.today().isoformat()}.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
