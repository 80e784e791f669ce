"""Sample a checkpoint on ShapeBench's questions, judge the pictures, and write the quickstart's results."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import PureContext, Selection
from ernie_core.io import read_lines, write_bytes, write_json, write_text
from ernie_core.stats import Interval
from ernie_data.quickstart.judging import TAGS, Answer, Question, answers, held_out_questions, scores, seen_questions
from ernie_data.quickstart.plan import Plan
from ernie_data.quickstart.report import ReportContent, report_html
from ernie_data.quickstart.sheets import png, sample_sheet, verdict_sheet
from ernie_data.shapes.profile import Profile

if TYPE_CHECKING:
    from ernie_core.api import PluginHost

HELD_OUT_SEED, SEEN_SEED = 1_000_000, 2_000_000
BATCH = 64
VERDICTS = 60


@dataclass(frozen=True)
class Result:
    """Everything the quickstart found out."""

    held_out: Sequence[Answer]
    seen: Sequence[Answer]
    scores: dict[str, Interval]
    seen_scores: dict[str, Interval]
    plan: Plan
    run: Path
    profile: str
    facts: dict[str, str]
    sampling: dict[str, Any]

    def write(self, out: Path, *, minutes: float) -> None:
        """``samples.png``, ``verdicts.png``, ``metrics.json``, then ``report.html``."""
        write_bytes(out / "samples.png", png(sample_sheet(self.held_out)))
        spread = np.linspace(0, len(self.held_out) - 1, min(VERDICTS, len(self.held_out))).astype(int)
        write_bytes(out / "verdicts.png", png(verdict_sheet([self.held_out[i] for i in spread])))
        write_json(out / "metrics.json", self.metrics(minutes))
        content = ReportContent(
            held_out=self.held_out,
            seen=self.seen,
            scores=self.scores,
            seen_scores=self.seen_scores,
            curves=curves(self.run / "metrics.jsonl"),
            progress=progress_pictures(self.run / "samples"),
            facts={**self.facts, "minutes": f"{minutes:.1f}"},
            commands=self.commands(out),
        )
        write_text(out / "report.html", report_html(content))

    def metrics(self, minutes: float) -> dict[str, Any]:
        return {
            "shapebench": {tag: interval.to_json() for tag, interval in self.scores.items()},
            "shapebench_seen": {tag: interval.to_json() for tag, interval in self.seen_scores.items()},
            "profile": self.profile,
            "minutes": round(minutes, 3),
            "steps": list(self.plan.steps),
            "planned_minutes": self.plan.minutes,
            "sampling": self.sampling,
        }

    def summary(self) -> list[str]:
        """The scores in words."""
        lines = [f"right on held-out prompts ({self.scores['all'].n} pictures of {self.scores['all'].clusters} unseen triples):"]
        for tag in (*TAGS, "all"):
            one, seen = self.scores[tag], self.seen_scores[tag]
            lines.append(f"  {tag:<9}{one.value:6.1%} [{one.low:.1%}, {one.high:.1%}]   seen triples {seen.value:6.1%}")
        return lines

    def commands(self, out: Path) -> list[str]:
        """What to try next."""
        prompt = shlex.quote("a green circle in the bottom right")
        return [
            f"ernie sample --checkpoint {shlex.quote(str(out / 'checkpoint'))} --prompt {prompt} --out circle.png",
            f"ernie eval --suite shapebench --set profile={self.profile} --checkpoint {shlex.quote(str(out / 'checkpoint'))} --out judged",
            f"ernie train {shlex.quote(str(out / 'run' / 'config.toml'))} --set data.path=YOUR_FOLDER --out runs/mine",
        ]


def evaluate(
    checkpoint: Path, *, run: Path, profile: Profile, config: Any, plan: Plan, host: PluginHost, say: Callable[[str], None]
) -> Result:
    """Ask every question and judge the answers. ``config``: the run's ``TrainConfig``, whose ``[samples]`` and last stage are used."""
    from ernie_core.sampling.pipeline import load_pipeline, usable_device

    pipeline = load_pipeline(checkpoint, host=host, device=usable_device("auto"))
    selected = config.samples.sampler or Selection(pipeline.defaults.sampler)
    sampler = host.build("samplers", selected, PureContext())
    size_px, steps, guidance_scale = pipeline.defaults.size_px, pipeline.defaults.steps, pipeline.defaults.guidance_scale

    def draw(questions: Sequence[Question]) -> NDArray[np.uint8]:
        pictures = []
        for start in range(0, len(questions), BATCH):
            part = questions[start : start + BATCH]
            pictures.append(
                pipeline.sample(
                    [q.prompt for q in part],
                    seed=part[0].seed,
                    steps=steps,
                    guidance_scale=guidance_scale,
                    size_px=size_px,
                    sampler=sampler,
                )
            )
        return np.concatenate(pictures)

    held, seen = held_out_questions(profile, seed=HELD_OUT_SEED), seen_questions(profile, seed=SEEN_SEED)
    say(f"sampling {len(held)} pictures of held-out and {len(seen)} of seen triples")
    began = time.monotonic()
    held_answers, seen_answers = answers(held, draw(held), profile), answers(seen, draw(seen), profile)
    seconds = time.monotonic() - began
    parameters = sum(p.numel() for p in pipeline.transformer.parameters())
    sampling = {
        "sampler": selected.use,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "size_px": list(size_px),
        "seconds": round(seconds, 2),
    }
    facts = {
        "transformer": f"{parameters:,} parameters",
        "training": " then ".join(f"{s.steps} steps of {s.batch_size} at {s.size_px} px" for s in plan.stages(config.stages)),
        "sampling": f"{steps} steps of {selected.use}, guidance {guidance_scale:g}, {seconds:.0f} s",
        "device": str(next(pipeline.transformer.parameters()).device),
        "Python": sys.version.split()[0],
    }
    return Result(held_answers, seen_answers, scores(held_answers), scores(seen_answers), plan, run, profile.name, facts, sampling)


def curves(metrics: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Charts of the report from the run's log: losses, learning rate and speed."""
    rows = [json.loads(line) for line in read_lines(metrics)] if metrics.exists() else []

    def of(name: str) -> list[tuple[float, float]]:
        return [(row["step"], row[name]) for row in rows if row.get(name) is not None]

    return {
        "loss": {"training": of("loss"), "validation": of("validation/loss")},
        "pictures per second": {"pictures per second": of("images_per_s")},
    }


def progress_pictures(folder: Path) -> list[tuple[int, bytes]]:
    """The grids that training wrote, by step."""
    found = sorted(folder.glob("step-*.png")) if folder.is_dir() else []
    return [(int(path.stem.removeprefix("step-")), path.read_bytes()) for path in found]
