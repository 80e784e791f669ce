"""What distillation to eight steps keeps of its teachers, and whether a committee under gates keeps more than one teacher or the mean of several.

    python tools/bench/distill_effect.py --out DIR [--seeds 0 1 2] [--arms NAME ...] [--jobs 2] [--write]

A generalist is trained on all of ShapeBench's profile quick with three captions in ten wrong, so that it needs guidance to do as it is told, and two experts
go on from it by method `sft`, as adapters over it, on true captions: one on circles and squares, one on triangles and crosses. Arms distil the generalist to 8
steps without guidance, with the same prompts, noise and steps, but for the committee:

    single      the generalist alone
    averaged    one teacher: the generalist with the mean of both experts' parameters
    uniform     both experts, each with weight 1/2 for every prompt
    gated       both experts, each for the prompts of its domain (gate `product`)
    dmd2        as gated, with the terms coupled at one noise level and DMD2's normaliser
    match-only  as gated, without guidance

The exact verifier judges every seen triple in four styles; the domain of a picture is that of the shape asked for. Teachers are sampled with 50 steps and
guidance, students with 8 steps without, and so is the generalist undistilled, which is the floor. Retention of a domain is
(student - floor) / (best expert - floor), drift the largest 1 - retention; intervals by bootstrap over triples, the same for all models.

Each part is kept once it is whole; the same command goes on with what is missing. `--write` puts the table under tools/bench/results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DOMAINS: Mapping[str, tuple[str, ...]] = {"plain": ("circle", "square"), "pointed": ("triangle", "cross")}
PARTS = ("right", "colour", "shape", "position")
GUIDANCE = 3.0
SIZE_PX = 24

MODEL = """codec = {{ use = "pixel", patch = 4, scale = 1.4 }}
encoder = {{ use = "bytes", width = 128, byte_width = 64 }}
flow = {{ shift = 3.0 }}
run = {{ seed = {seed} }}
checkpoint = {{ every_steps = 200, keep = 2 }}
logging = {{ every_steps = 20, tensorboard = false }}
"""
GENERALIST = """data = {{ use = "folder", path = "pictures/all" }}
stages = [{{ size_px = 16, steps = {first}, batch_size = 64 }}, {{ size_px = 24, steps = {second}, batch_size = 64 }}]
model = {{ hidden_size = 128, num_attention_heads = 4, num_layers = 4, ffn_hidden_size = 384, rope_layout = "standard" }}
method = {{ use = "pretrain", density = {{ use = "shifted-logit-normal", shift = 3.0 }}, caption_dropout = 0.1 }}
optimizer = {{ learning_rate = 2e-3, betas = [0.9, 0.99] }}
schedule = {{ kind = "linear", warmup_steps = 50, final_factor = 0.05 }}
ema = {{ decay = 0.995 }}
"""
EXPERT = """data = {{ use = "folder", path = "pictures/{domain}" }}
stages = [{{ size_px = 24, steps = {steps}, batch_size = 64 }}]
model = {{ init = "generalist" }}
method = {{ use = "sft", adapter = {{ rank = 32, targets = ["all"] }}, density = {{ use = "shifted-logit-normal", shift = 3.0 }}, caption_dropout = 0.1 }}
optimizer = {{ learning_rate = 2e-3, betas = [0.9, 0.99] }}
schedule = {{ kind = "linear", warmup_steps = 20, final_factor = 0.05 }}
ema = {{ decay = 0.99 }}
"""
STUDENT = """data = {{ use = "prompts", path = "prompts.jsonl" }}
stages = [{{ size_px = 24, steps = {steps}, batch_size = {batch} }}]
model = {{ init = "generalist" }}
optimizer = {{ learning_rate = {rate}, betas = [0.0, 0.99] }}
optimizers = {{ fake = {{ learning_rate = {fake_rate}, betas = [0.0, 0.99] }} }}
schedule = {{ kind = "linear", warmup_steps = 50, final_factor = 0.1 }}
ema = {{ decay = 0.98 }}

[method]
use = "mt-dmd"
steps = 8
adapter = {{ rank = 32, targets = ["all"] }}
fake_optimizer = "fake"
fake_warmup_steps = {warmup}
reuse_trajectory = true
guidance = {{ scale = {guidance} }}
"""
EXPERTS = """
[[method.teachers]]
name = "generalist"

[[method.teachers]]
name = "plain"
path = "plain"
domains = ["plain"]

[[method.teachers]]
name = "pointed"
path = "pointed"
domains = ["pointed"]
"""
BLEND = """
[[method.teachers]]
name = "mean"
blend = { plain = 0.5, pointed = 0.5 }
"""
ALL_MEAN = 'gate = { use = "constant", match = { mean = 1.0 }, guidance = { mean = 1.0 } }\n'
HALVES = 'gate = { use = "constant", match = { plain = 0.5, pointed = 0.5 }, guidance = { plain = 0.5, pointed = 0.5 } }\n'
ARMS: Mapping[str, str] = {
    "single": "",
    "averaged": ALL_MEAN + EXPERTS + BLEND,
    "uniform": HALVES + EXPERTS,
    "gated": EXPERTS,
    "dmd2": 'coupled = true\nnormaliser = "shared-cfg"\n' + EXPERTS,
    "match-only": 'normaliser = "per-term"\n' + EXPERTS,
}


def ernie(*arguments: str | Path, cwd: Path, allow: tuple[int, ...] = (0,)) -> int:
    done = subprocess.run([Path(sys.executable).with_name("ernie"), *arguments], cwd=cwd, check=False, stdout=subprocess.DEVNULL)
    if done.returncode not in allow:
        raise SystemExit(f"ernie {' '.join(map(str, arguments))}: exit code {done.returncode}")
    return done.returncode


def domain_of(shape: str) -> str:
    return next(name for name, shapes in DOMAINS.items() if shape in shapes)


# ---- what is learnt from ----


def write_pictures(out: Path, shapes: Sequence[str], count: int, *, wrong: float = 0.0) -> None:
    """Pictures of these shapes with captions in four styles, as `ernie data shapes` writes them.

    Args:
        wrong: share of pictures with the captions of another scene.
    """
    if (out / "metadata.jsonl").exists():
        return
    from ernie_core.rng import Rng
    from ernie_data.shapes.phrases import scene_captions
    from ernie_data.shapes.profile import profile
    from ernie_data.shapes.render import render
    from ernie_data.shapes.scene import draw_scene
    from ernie_data.shapes.writer import encode_png

    out.mkdir(parents=True, exist_ok=True)
    lines, index, mistakes = [], 0, Rng(0).at("wrong-captions", 0)
    while len(lines) < count:
        scene = draw_scene(profile("quick"), seed=0, split="train", index=index)
        if scene.triples()[0].shape in shapes:
            name = f"{len(lines):06d}.png"
            (out / name).write_bytes(encode_png(render([scene], 32)[0]))
            told = draw_scene(profile("quick"), seed=1, split="train", index=index) if mistakes.uniform(index) < wrong else scene
            styles = {f"text_{style}": text for style, text in scene_captions(told, index=index).items()}
            lines.append(json.dumps({"file_name": name, "text": styles["text_request"], **styles}))
        index += 1
    (out / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def asked(noises: int) -> list[tuple[str, str, str]]:
    """Triple, domain and prompt of every picture that is judged."""
    from ernie_data.shapes.captions import STYLES, caption
    from ernie_data.shapes.profile import profile

    every = [(t, s, n) for n in range(noises) for t in profile("quick").seen() for s in STYLES]
    return [(str(t), domain_of(t.shape), caption([t], style=s, wording=n % 2)) for t, s, n in every]


def write_prompts(path: Path) -> None:
    rows = dict.fromkeys((domain, prompt) for _, domain, prompt in asked(2))
    path.write_text("".join(json.dumps({"prompt": prompt, "domain": domain}) + "\n" for domain, prompt in rows))


# ---- training ----


def train(out: Path, name: str, config: str) -> None:
    folder = out / name
    if (folder / "ended").exists():
        return
    (out / f"{name}.toml").write_text(config)
    began = time.monotonic()
    stopped = ernie("train", f"{name}.toml", "--out", name, cwd=out, allow=(0, 1))  # 1: an alarm has stopped it
    (folder / "ended").write_text(
        json.dumps({"how": "stopped by an alarm" if stopped else "done", "wall_s": round(time.monotonic() - began)})
    )


def student_config(arm: str, seed: int, options: argparse.Namespace) -> str:
    period = 6
    config = MODEL.format(seed=seed) + STUDENT.format(
        steps=options.warmup + period * options.updates,
        batch=options.batch,
        rate=options.rate,
        fake_rate=options.fake_rate,
        warmup=options.warmup,
        guidance=GUIDANCE,
    )
    if arm == "match-only":
        config = config.replace(f"guidance = {{ scale = {GUIDANCE} }}", "guidance = { weight = 0.0 }")
    return config + ARMS[arm]


# ---- judging ----


def judge(model: Path, cache: Path, *, noises: int, steps: int, guidance: float, sampler: str = "euler") -> list[dict[str, Any]]:
    """One row per picture. ``model`` is sampled where ``cache`` does not exist yet."""
    if cache.exists():
        return json.loads(cache.read_text())
    from PIL import Image

    from ernie_core.api import App, PureContext, Selection
    from ernie_core.sampling.pipeline import load_pipeline
    from ernie_data.shapes.parse import parse_caption
    from ernie_data.shapes.profile import profile
    from ernie_data.shapes.suite import parts, seen_in

    host, quick = App().host, profile("quick")
    pipeline, chosen = load_pipeline(model, host=host), host.build("samplers", Selection(sampler), PureContext())
    questions, rows, kept = asked(noises), [], []
    for at in range(0, len(questions), 64):
        part = questions[at : at + 64]
        pictures = pipeline.sample(
            [p for *_, p in part], seed=20_000 + at, steps=steps, guidance_scale=guidance, size_px=(SIZE_PX, SIZE_PX), sampler=chosen
        )
        kept.append(pictures)
        for (triple, domain, prompt), picture in zip(part, pictures, strict=True):
            held = parts(seen_in(picture, quick), parse_caption(prompt))
            pixels = picture.astype(np.float64)
            rows.append(
                {
                    "triple": triple,
                    "domain": domain,
                    **{name: float(held[name]) for name in PARTS},
                    "std": float(pixels.std()),
                    "clipped": float(((picture == 0) | (picture == 255)).mean()),
                }
            )
    sheet = np.concatenate(kept)[:: max(1, len(questions) // 24)][:24]
    strip = np.concatenate(list(sheet), axis=1)
    Image.fromarray(strip).resize((strip.shape[1] * 2, strip.shape[0] * 2), Image.Resampling.NEAREST).save(cache.with_suffix(".png"))
    cache.write_text(json.dumps(rows))
    return rows


def teachers_of(out: Path, noises: int) -> dict[str, list[dict[str, Any]]]:
    found = {
        name: judge(out / name, out / f"judged-{name}.json", noises=noises, steps=50, guidance=GUIDANCE)
        for name in ("generalist", *DOMAINS)
    }
    found["floor"] = judge(out / "generalist", out / "judged-floor.json", noises=noises, steps=8, guidance=1.0)
    found["generalist, 8 steps, guided"] = judge(
        out / "generalist", out / "judged-guided-8.json", noises=noises, steps=8, guidance=GUIDANCE
    )
    return found


def table(out: Path, arms: Sequence[str], seeds: Sequence[int], options: argparse.Namespace) -> dict[str, Any]:
    teachers = teachers_of(out, options.noises)
    students = {
        arm: [
            judge(out / f"run-{arm}-{seed}", out / f"judged-{arm}-{seed}.json", noises=options.noises, steps=8, guidance=1.0)
            for seed in seeds
        ]
        for arm in arms
    }
    scores = Scores(teachers, students)
    report: dict[str, Any] = {"teachers": {name: scores.about([rows]) for name, rows in teachers.items()}, "arms": {}}
    for arm in arms:
        ended = [json.loads((out / f"run-{arm}-{seed}" / "ended").read_text()) for seed in seeds]
        report["arms"][arm] = {**scores.about(students[arm]), **scores.drift(arm), "ended": ended}
    for first in arms:
        for second in arms:
            if first == "gated" and second != "gated":
                report["arms"][second]["gated_drift_minus_this"] = scores.drift_difference("gated", second)
    return report


class Scores:
    """Means of `right` by triple, for a bootstrap in which all models lose and gain the same triples."""

    DRAWS = 2000

    def __init__(self, teachers: Mapping[str, list[dict]], students: Mapping[str, list[list[dict]]]) -> None:
        self.triples = sorted({row["triple"] for row in teachers["generalist"]})
        self.domain = {row["triple"]: row["domain"] for row in teachers["generalist"]}
        self.teachers = {name: self._by_triple([rows]) for name, rows in teachers.items()}
        self.students = {arm: self._by_triple(runs) for arm, runs in students.items()}
        self.runs = {arm: [self._by_triple([rows]) for rows in runs] for arm, runs in students.items()}
        generator = np.random.Generator(np.random.Philox(0))
        of = np.array([self.domain[t] for t in self.triples])
        places = [np.flatnonzero(of == d) for d in DOMAINS]
        self.draws = [np.concatenate([p[generator.integers(len(p), size=len(p))] for p in places]) for _ in range(self.DRAWS)]
        self.of = of

    def _by_triple(self, runs: Sequence[list[dict]]) -> np.ndarray:
        values: dict[str, list[float]] = {t: [] for t in self.triples}
        for rows in runs:
            for row in rows:
                values[row["triple"]].append(row["right"])
        return np.array([np.mean(values[t]) for t in self.triples])

    def about(self, runs: Sequence[list[dict]]) -> dict[str, Any]:
        from ernie_core.stats import mean_interval

        rows = [row for run in runs for row in run]
        triples = [row["triple"] for row in rows]
        found: dict[str, Any] = {name: mean_interval([r[name] for r in rows], triples).to_json() for name in PARTS}
        for domain in DOMAINS:
            mine = [r for r in rows if r["domain"] == domain]
            found[domain] = mean_interval([r["right"] for r in mine], [r["triple"] for r in mine]).to_json()
        found["pixel_std"], found["clipped"] = (float(np.mean([r[name] for r in rows])) for name in ("std", "clipped"))
        found["by_seed"] = [round(float(np.mean([r["right"] for r in run])), 4) for run in runs]
        return found

    def _drift_of(self, student: np.ndarray, chosen: np.ndarray) -> tuple[float, list[float]]:
        retained = []
        for domain in DOMAINS:
            rows = chosen[self.of[chosen] == domain]
            floor = self.teachers["floor"][rows].mean()
            best = max(self.teachers[name][rows].mean() for name in ("generalist", *DOMAINS))
            retained.append((student[rows].mean() - floor) / (best - floor))
        return 1.0 - min(retained), retained

    def drift(self, arm: str) -> dict[str, Any]:
        whole = np.arange(len(self.triples))
        value, retained = self._drift_of(self.students[arm], whole)
        found = np.array([self._drift_of(self.students[arm], draw)[0] for draw in self.draws])
        low, high = np.quantile(found, [0.025, 0.975])
        generalist = self.students[arm].mean() / self.teachers["generalist"].mean()
        return {
            "retention": dict(zip(DOMAINS, map(float, retained), strict=True)),
            "worst_drift": {"value": value, "low": float(low), "high": float(high)},
            "worst_drift_by_seed": [round(self._drift_of(run, whole)[0], 4) for run in self.runs[arm]],
            "right_over_generalist": float(generalist),
        }

    def drift_difference(self, first: str, second: str) -> dict[str, float]:
        def difference(chosen: np.ndarray) -> float:
            return self._drift_of(self.students[first], chosen)[0] - self._drift_of(self.students[second], chosen)[0]

        found = np.array([difference(draw) for draw in self.draws])
        low, high = np.quantile(found, [0.025, 0.975])
        return {"value": difference(np.arange(len(self.triples))), "low": float(low), "high": float(high)}


def jobs(options: argparse.Namespace, arms: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, str]]:
    for seed in seeds:
        for arm in arms:
            yield f"run-{arm}-{seed}", student_config(arm, seed, options)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["single", "averaged", "uniform", "gated", "dmd2", "match-only"], choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--generalist-steps", type=int, nargs=2, default=(250, 350), metavar=("FIRST", "SECOND"), help="at 16 and at 24 px")
    parser.add_argument("--expert-steps", type=int, default=150)
    parser.add_argument("--pictures", type=int, default=4000, help="of each set")
    parser.add_argument("--wrong", type=float, default=0.3, help="share of the generalist's captions that are wrong")
    parser.add_argument("--updates", type=int, default=150, help="of the student")
    parser.add_argument("--warmup", type=int, default=100, help="turns of the fake score alone")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--fake-rate", type=float, default=2e-3)
    parser.add_argument("--noises", type=int, default=2, help="pictures of each of 320 prompts")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--write", action="store_true", help="keep the table under tools/bench/results")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_pictures(out / "pictures" / "all", [s for shapes in DOMAINS.values() for s in shapes], options.pictures, wrong=options.wrong)
    for domain, shapes in DOMAINS.items():
        write_pictures(out / "pictures" / domain, shapes, options.pictures)
    write_prompts(out / "prompts.jsonl")
    first, second = options.generalist_steps
    train(out, "generalist", MODEL.format(seed=0) + GENERALIST.format(first=first, second=second))
    with ThreadPoolExecutor(options.jobs) as threads:
        list(threads.map(lambda d: train(out, d, MODEL.format(seed=0) + EXPERT.format(domain=d, steps=options.expert_steps)), DOMAINS))
        list(threads.map(lambda job: train(out, *job), jobs(options, options.arms, options.seeds)))
    report = table(out, options.arms, options.seeds, options)
    import torch

    report["settings"] = {name: value for name, value in vars(options).items() if name not in ("out", "write", "jobs")}
    report["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "device": "cpu"}
    print(json.dumps(report, indent=1))
    if options.write:
        report |= {"date": date.today().isoformat()}
        (HERE / "results" / f"distill-effect-cpu-{date.today().isoformat()}.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
