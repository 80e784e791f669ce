"""What distillation to eight steps keeps of its teachers, and whether a committee under gates keeps more than one teacher or the mean of several.

    python tools/bench/distill_effect.py --out DIR [--seeds 0 1 2] [--arms NAME ...] [--jobs 2] [--label WORD] [--write]

A generalist is trained on all of ShapeBench's profile quick with three captions in ten wrong, so that it needs guidance to do as it is told, and two experts
go on from it by method `sft`, as adapters over it, on true captions: one on circles and squares, one on triangles and crosses. Arms (distill_arms.py) distil
the generalist to 8 steps without guidance, with the same prompts, noise and steps, but for the committee or the terms.

All models are asked the same prompts with the same noise by `ernie eval`, and the exact verifier judges; the domain of a prompt is that of its shape. Teachers
are sampled with 50 steps and guidance, students with 8 steps without, and so is the generalist undistilled, which is the floor. Retention and drift are those
of `ernie distill drift`.

Each part is kept once it is whole; the same command goes on with what is missing. `--write` puts table and pictures under tools/bench/results.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from distill_arms import ARMS, DOMAINS, GENERALIST, GUIDANCE, STEPS, TEACHER_STEPS, Arm, expert_config, generalist_config, student_config
from experiment import about, ernie

HERE = Path(__file__).resolve().parent
COLUMNS = 12
MODELS = {  # what stands beside the students: checkpoint, steps, guidance
    GENERALIST: (GENERALIST, TEACHER_STEPS, GUIDANCE),
    **{name: (name, TEACHER_STEPS, GUIDANCE) for name in DOMAINS},
    "floor": (GENERALIST, STEPS, 1.0),
    "guided": (GENERALIST, STEPS, GUIDANCE),
}


# ---- what is learnt from ----


def write_pictures(out: Path, shapes: Sequence[str], count: int, *, wrong: float = 0.0) -> None:
    """Pictures of these shapes with captions in four styles, as `ernie data shapes` writes them.

    Args:
        wrong: share of pictures with the captions of another scene.
    """
    from ernie_core import io
    from ernie_core.rng import Rng
    from ernie_data.shapes.phrases import scene_captions
    from ernie_data.shapes.profile import profile
    from ernie_data.shapes.render import render
    from ernie_data.shapes.scene import draw_scene
    from ernie_data.shapes.writer import encode_png

    if (out / "metadata.jsonl").exists():
        return
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
    io.write_text(out / "metadata.jsonl", "\n".join(lines) + "\n")


def write_prompts(path: Path) -> None:
    """Every seen triple in every style and wording, with its domain."""
    from ernie_core import io
    from ernie_data.shapes.captions import STYLES, WORDINGS, caption
    from ernie_data.shapes.profile import profile

    domain_of = {shape: name for name, shapes in DOMAINS.items() for shape in shapes}
    rows = [
        {"prompt": caption([triple], style=style, wording=wording), "domain": domain_of[triple.shape]}
        for triple in profile("quick").seen()
        for style in STYLES
        for wording in range(WORDINGS)
    ]
    io.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


# ---- training and judging: each in a process of its own ----


def train(out: Path, name: str, config: str) -> None:
    ended = out / name / "ended.json"
    if ended.exists():
        return
    (out / f"{name}.toml").write_text(config)
    began, worked = time.perf_counter(), time.process_time()
    code = ernie("train", f"{name}.toml", "--out", name, log=out / f"{name}.log", allow=(0, 1))  # 1: an alarm has stopped it
    facts = {"exit_code": code, "wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - worked}
    ended.write_text(json.dumps(facts))


def judge(out: Path, name: str, run: str, options: argparse.Namespace, *, steps: int, guidance: float) -> None:
    """``ernie eval`` into judged-NAME."""
    asked = ("--suite", "shapebench", "--set", "profile=quick", "--set", "held_out=none", "--set", f"prompts_per_tag={options.prompts}")
    drawn = (
        "--samples-per-prompt",
        options.samples,
        "--sampler",
        "euler",
        "--steps",
        steps,
        "--guidance",
        f"{guidance:g}",
        "--batch-size",
        80,
    )
    ernie("eval", *asked, *drawn, "--checkpoint", run, "--out", f"judged-{name}", log=out / f"judged-{name}.log")


def go(out: Path, arm: Arm, seed: int, options: argparse.Namespace) -> None:
    """Train and judge one arm of one seed."""
    name = f"{arm.name}-{seed}"
    sizes = {key: getattr(options, key) for key in ("updates", "warmup", "batch", "rate", "fake_rate")}
    train(out, f"run-{name}", student_config(arm, seed=seed, **sizes))
    judge(out, name, f"run-{name}", options, steps=STEPS, guidance=1.0)
    print(f"{name}: {json.loads((out / f'judged-{name}' / 'metrics.json').read_text())['metrics']['right']['mean']:.3f} right", flush=True)


# ---- the report ----


def report(out: Path, arms: Sequence[Arm], options: argparse.Namespace) -> dict[str, Any]:
    from distill_table import Scores

    judged = {arm.name: [out / f"judged-{arm.name}-{seed}" for seed in options.seeds] for arm in arms}
    scores = Scores({name: out / f"judged-{name}" for name in MODELS}, judged)
    rows = []
    for arm in arms:
        ended = [json.loads((out / f"run-{arm.name}-{seed}" / "ended.json").read_text()) for seed in options.seeds]
        against = scores.drift_of_gated_minus(arm.name) if "gated" in judged and arm.name != "gated" else None
        rows.append({"arm": arm.name, "about": arm.about, **scores.about(arm.name), "gated_drift_minus_this": against, "ended": ended})
    shown = (
        "generalist_steps",
        "expert_steps",
        "pictures",
        "wrong",
        "updates",
        "warmup",
        "batch",
        "rate",
        "fake_rate",
        "prompts",
        "samples",
        "seeds",
    )
    return {
        **about("distill_effect.py", options.jobs),
        "settings": {name: getattr(options, name) for name in shown},
        "models": {name: scores.about(name) for name in MODELS},
        "rows": rows,
    }


def write(out: Path, found: dict[str, Any], arms: Sequence[Arm], options: argparse.Namespace) -> None:
    """The report as JSON, its table, and the contact sheet of the first seed."""
    from contact_sheet import sheet
    from distill_table import columns_of, markdown

    from ernie_core import io

    name = "-".join(["distill-effect", *([options.label] if options.label else []), "cpu", found["date"]])
    folder = HERE / "results" if options.write else out
    shown = [(f"generalist\n{TEACHER_STEPS} steps, guided", GENERALIST), ("undistilled\n8 steps, unguided", "floor")]
    shown += [(f"expert {domain}\n{TEACHER_STEPS} steps, guided", domain) for domain in DOMAINS]
    shown += [(f"{arm.name}\n{STEPS} steps", f"{arm.name}-{options.seeds[0]}") for arm in arms]
    columns = columns_of(out / f"judged-{GENERALIST}", COLUMNS)
    picture = sheet([(label, out / f"judged-{one}" / "pictures") for label, one in shown], [n for n, _ in columns], [h for _, h in columns])
    text = "\n".join(markdown(found, f"{name}.png"))
    io.write_text(folder / f"{name}.json", json.dumps(found, indent=1) + "\n")
    io.write_text(folder / f"{name}.md", text)
    io.write_bytes(folder / f"{name}.png", picture)
    print(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=[arm.name for arm in ARMS], choices=[arm.name for arm in ARMS], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--generalist-steps", type=int, nargs=2, default=(250, 950), metavar=("FIRST", "SECOND"), help="at 16 and at 24 px")
    parser.add_argument("--expert-steps", type=int, default=150)
    parser.add_argument("--pictures", type=int, default=4000, help="of each training set")
    parser.add_argument("--wrong", type=float, default=0.3, help="share of the generalist's captions that are wrong")
    parser.add_argument("--updates", type=int, default=150, help="of the student")
    parser.add_argument("--warmup", type=int, default=100, help="turns of the fake score alone")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--fake-rate", type=float, default=2e-3)
    parser.add_argument("--prompts", type=int, default=80, help="that are judged, at most one of each triple of shape, colour and place")
    parser.add_argument("--samples", type=int, default=8, help="pictures of each prompt")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--label", default="", help="a word in the names of the result's files")
    parser.add_argument("--write", action="store_true", help="keep table and pictures under tools/bench/results")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    arms = [arm for arm in ARMS if arm.name in options.arms]
    every = [shape for shapes in DOMAINS.values() for shape in shapes]
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as workers:
        made = [workers.submit(write_pictures, out / "pictures" / "all", every, options.pictures, wrong=options.wrong)]
        made += [workers.submit(write_pictures, out / "pictures" / name, shapes, options.pictures) for name, shapes in DOMAINS.items()]
        made += [workers.submit(write_prompts, out / "prompts.jsonl")]
        _all(made)
        _all([workers.submit(train, out, GENERALIST, generalist_config(*options.generalist_steps))])
        _all([workers.submit(train, out, domain, expert_config(domain, options.expert_steps)) for domain in DOMAINS])
        runs = [workers.submit(go, out, arm, seed, options) for seed in options.seeds for arm in arms]
        runs += [
            workers.submit(judge, out, name, run, options, steps=steps, guidance=guidance)
            for name, (run, steps, guidance) in MODELS.items()
        ]
        _all(runs)
    write(out, report(out, arms, options), arms, options)
    return 0


def _all(made: Sequence[Any]) -> None:
    for future in made:
        future.result()


if __name__ == "__main__":
    raise SystemExit(main())
