"""What preference training and fine-tuning do to pictures: DPO of several strengths, with and without anchors, against fine-tuning at equal steps.

    python tools/bench/align_effect.py --out DIR [--base RUN] [--seeds 0 1 2] [--arms NAME ...] [--jobs 2] [--label WORD] [--write]

Truth is known: ShapeBench, profile quick. The base is the raw arm of curation_effect.py, trained on a set of which 15 % of the captions are wrong and the
rare things are very rare. It samples four pictures of each prompt; a pair is one that the scorer `shapes-agreement` finds righter in colour and place than
another. Every arm goes on from the base with the same pairs, order, noise and steps. Two controls isolate the preference term: fine-tuning on the winners
alone, and on winners and losers at .375 : .125. One more arm is fine-tuned on a top-down set, which `ernie data sft build` makes of the same defective files
without knowing what was planted. All models are asked the same prompts with the same noise by `ernie eval`, without guidance, and the exact verifier judges.

Every part is kept once it is whole: the same command goes on with what is missing. `--write` puts table and pictures under tools/bench/results.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import curation_effect
from align_arms import ARMS, PAIRS, TOPDOWN, Arm
from experiment import about, ernie

HERE = Path(__file__).resolve().parent
COLUMNS = 9
MANY = 3
"""Times as many pictures as of most arms are judged of the base, whichever arms there are, and of those that ask for it."""
INTRODUCTION = """Seeds {seeds}; {steps} steps of {batch} pairs, or pictures of the top-down set; {counts}. Pairs are by colour and place; in held pairs the
winner is not worse in number and shape. `score` is what pairs are made by: the mean of colour and position; `right` is everything at once. Shares in per cent
with 95 % intervals, clustered by what is shown; all differences are paired by prompt and noise. Errors over the reference's (l / ref), accuracy and the
rejected side's coefficient are means over the last 50 steps and the seeds, and beta_eff is in mean errors. `alarm at step`, by seed: when the run's own
watch would have stopped it; it was off. Collapsed: seeds with exactly one object in fewer than 90 % of the pictures, or with more than half of all values
clipped. Quality and grain are read from the pictures of the first noise, by the known quality law, as a share of its range."""


def make_base(out: Path, count: int, steps: tuple[int, int]) -> Path:
    curation_effect.prepare(out, count)
    curation_effect.train(out, "raw", 0, steps)
    return out / "run-raw-0"


def make_pairs(out: Path, base: Path, name: str) -> None:
    from ernie_data.shapes.captions import STYLES, caption
    from ernie_data.shapes.profile import profile

    prompts = [caption([t], style=s, wording=i % 2) for t in profile("quick").seen() for i, s in enumerate(STYLES)]
    (out / "prompts.txt").write_text("\n".join(prompts) + "\n")
    folder = name.replace(" ", "-")
    (out / f"{folder}.toml").write_text(PAIRS[name])
    paths = ("--checkpoint", base, "--prompts", out / "prompts.txt", "--config", out / f"{folder}.toml", "--out", out / folder)
    ernie("align", "pairs", "build", *paths, log=out / f"{folder}.log")


def make_topdown(out: Path) -> None:
    (out / "topdown.toml").write_text(TOPDOWN)
    ernie("data", "sft", "build", out / "topdown.toml", "--out", out / "topdown", log=out / "topdown.log")


def judge(out: Path, run: Path, name: str, options: argparse.Namespace, samples: int) -> None:
    asked = (
        "--suite",
        "shapebench",
        "--set",
        "profile=quick",
        "--set",
        f"prompts_per_tag={options.prompts}",
        "--samples-per-prompt",
        samples,
    )
    drawn = ("--sampler", "ab2", "--steps", 8, "--guidance", 1, "--batch-size", 80)
    ernie("eval", *asked, *drawn, "--checkpoint", run, "--out", out / f"judged-{name}", log=out / f"judged-{name}.log")


def samples_of(arm: Arm, options: argparse.Namespace) -> int:
    return {"few": 1, "some": options.samples, "many": MANY * options.samples}[arm.pictures]


def go(out: Path, base: Path, arm: Arm, seed: int, options: argparse.Namespace) -> None:
    """Train and judge one arm of one seed."""
    name = f"{arm.slug}-{seed}"
    run, ended = out / f"run-{name}", out / f"run-{name}" / "ended.json"
    if not ended.exists():
        data = options.pairs if options.pairs and arm.data != "topdown" else out / arm.folder
        text = arm.config(base=str(base), data=str(data.resolve()), seed=seed, steps=options.steps, batch=options.batch)
        (out / f"{name}.toml").write_text(text)
        started, worked = time.perf_counter(), time.process_time()
        # 1: a run whose errors are no numbers any more is stopped, and is judged as it was left
        code = ernie("train", out / f"{name}.toml", "--out", run, log=out / f"run-{name}.log", allow=(0, 1))
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - worked
        ended.write_text(json.dumps({"exit_code": code, "wall_s": wall_s, "cpu_s": cpu_s}))
    judge(out, run, name, options, samples_of(arm, options))
    print(f"{name}: {json.loads((out / f'judged-{name}' / 'metrics.json').read_text())['metrics']['right']['mean']:.3f} right", flush=True)


def report(out: Path, arms: list[Arm], options: argparse.Namespace) -> dict[str, Any]:
    """A row per arm, and every arm of the pairs against the better control."""
    from align_table import LOOK, METRICS, against_control, row_of, share_of, verdicts

    base = verdicts(out / "judged-base")
    judged = {arm.name: [verdicts(out / f"judged-{arm.slug}-{seed}") for seed in options.seeds] for arm in arms}
    rows = {arm.name: row_of(arm, [out / f"run-{arm.slug}-{seed}" for seed in options.seeds], judged[arm.name], base) for arm in arms}
    for data in PAIRS:
        if controls := [arm.name for arm in arms if arm.control and arm.data == data]:
            better = max(controls, key=lambda name: rows[name]["score"]["value"])
            for arm in arms:
                if arm.data == data and not arm.control:
                    against_control(rows[arm.name], judged[arm.name], judged[better], better)
    return {
        **about("align_effect.py", options.jobs),
        "settings": {name: getattr(options, name) for name in ("steps", "batch", "prompts", "samples", "seeds", "count", "base_steps")},
        "pairs": {name: _pairs(options.pairs or out / name.replace(" ", "-")) for name in PAIRS if any(arm.data == name for arm in arms)},
        "base": {name: share_of(base.values(), name) for name in (*METRICS, *LOOK)},
        "rows": list(rows.values()),
    }


def _pairs(folder: Path) -> dict[str, Any]:
    manifest = folder / "manifest.json"
    facts = json.loads(manifest.read_text()) if manifest.exists() else {}
    return {name: facts[name] for name in ("pairs", "seen", "left_out") if name in facts}


def chosen_columns(judged: Path, count: int) -> list[tuple[str, str]]:
    """Names of pictures of the first noise and what they should show: seen things, evenly over the prompts."""
    rows = [json.loads(line) for line in (judged / "verdicts.jsonl").read_text().splitlines()]
    first = {row["prompt"]: row for row in reversed(rows) if "seen" in row["tags"]}
    seen = sorted((row["id"], row["cluster"]) for row in first.values())
    picked = [seen[len(seen) * n // count] for n in range(min(count, len(seen)))]
    return [(name, cluster.removeprefix("single: ").split(",")[0].replace(" ", "\n")) for name, cluster in picked]


def write(out: Path, found: dict[str, Any], arms: list[Arm], options: argparse.Namespace) -> None:
    """The report as JSON, its table, and the contact sheet of the first seed."""
    from align_table import beta_of, markdown
    from contact_sheet import sheet

    from ernie_core import io

    name = "-".join(["align-effect", *([options.label] if options.label else []), "cpu", found["date"]])
    folder = HERE / "results" if options.write else out
    rows = found["rows"]
    strengths = {row["arm"]: beta_of(row) for row in rows}
    labels = [("base", out / "judged-base" / "pictures")]
    for arm in arms:
        label = f"{arm.name}\nbeta_eff {strengths[arm.name]}"
        labels.append((label, out / f"judged-{arm.slug}-{options.seeds[0]}" / "pictures"))
    columns = chosen_columns(out / "judged-base", COLUMNS)
    text = [
        "# What preference training does to pictures",
        "",
        f"`{found['command']}` ({found['date']}, {found['versions']['device']}, torch {found['versions']['torch']})",
        "",
        INTRODUCTION.format(**found["settings"], counts=", ".join(f"{about['pairs']} {name}" for name, about in found["pairs"].items())),
        "",
        *markdown(rows, found["base"]),
        "",
        f"![the same prompts and noise for each model, seed {options.seeds[0]}]({name}.png)",
        "",
    ]
    io.write_text(folder / f"{name}.json", json.dumps(found, indent=1) + "\n")
    io.write_text(folder / f"{name}.md", "\n".join(text))
    io.write_bytes(folder / f"{name}.png", sheet(labels, [name for name, _ in columns], [head for _, head in columns]))
    print("\n".join(text))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--base", type=Path, help="a run of profile quick; without it the defective set is made and the base trained in OUT"
    )
    parser.add_argument("--pairs", type=Path, help="a folder of pairs; without it the base samples them")
    parser.add_argument("--count", type=int, default=6000, help="files of the defective set")
    parser.add_argument(
        "--base-steps", type=int, nargs=2, default=(200, 400), metavar=("FIRST", "SECOND"), help="of the base, at 16 and 24 px"
    )
    parser.add_argument("--arms", nargs="+", default=[arm.name for arm in ARMS], choices=[arm.name for arm in ARMS], metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=8, help="pairs, or pictures of the top-down set, per step")
    parser.add_argument("--prompts", type=int, default=80, help="seen, and as many held-out ones")
    parser.add_argument(
        "--samples",
        type=int,
        default=5,
        help="pictures of each prompt: one of arms that are only asked for stability, three times as many of the base and of arms marked so",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--label", default="", help="a word in the names of the result's files")
    parser.add_argument("--write", action="store_true", help="keep table and pictures under tools/bench/results")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    arms = [arm for arm in ARMS if arm.name in options.arms]
    base = options.base.resolve() if options.base else make_base(out, options.count, tuple(options.base_steps))
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as workers:
        made: list[Future[None]] = []
        if not options.pairs:
            made = [workers.submit(make_pairs, out, base, name) for name in PAIRS if any(arm.data == name for arm in arms)]
        if any(arm.data == "topdown" for arm in arms):
            made.append(workers.submit(make_topdown, out))
        for future in made:
            future.result()
        runs = [workers.submit(judge, out, base, "base", options, MANY * options.samples)]
        order = sorted(((arm, seed) for seed in options.seeds for arm in arms), key=lambda run: run[0].pictures == "few")
        runs += [workers.submit(go, out, base, arm, seed, options) for arm, seed in order]
        for future in runs:
            future.result()
    write(out, report(out, arms, options), arms, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
