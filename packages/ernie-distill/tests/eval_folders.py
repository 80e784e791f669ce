"""Evaluations for tests, made by core's own writer from pictures that hold their scores: the first pixel's red value is 100 times the score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ernie_core.api import EvalPrompt
from ernie_core.evaluation.asks import plan_asks
from ernie_core.evaluation.run import Job, evaluate

USED = {"steps": 8, "guidance_scale": 1.0, "size_px": [20, 20]}


def prompt(name: str, *tags: str, text: str = "", cluster: str = "", metrics: tuple[str, ...] = ("right",)) -> EvalPrompt:
    return EvalPrompt(name, text or f"prompt {name}", metrics, tags, cluster)


def plain(score: float, number: int, noise: int) -> np.ndarray:
    """Grey with some texture of the noise's number."""
    pixels = np.full((20, 20, 3), 120, np.uint8)
    pixels[5:15, 5:15] += np.random.default_rng(noise).integers(0, 80, (10, 10, 3), dtype=np.uint8)
    return pixels


@dataclass(frozen=True)
class Suite:
    listed: Sequence[EvalPrompt]
    code: str = "suite 1"

    def prompts(self) -> Sequence[EvalPrompt]:
        return self.listed

    def judge(self, prompts: Sequence[EvalPrompt], images: Sequence[np.ndarray]) -> Sequence[Mapping[str, float]]:
        return [dict.fromkeys(one.metrics, int(image[0, 0, 0]) / 100) for one, image in zip(prompts, images, strict=True)]


@dataclass(frozen=True)
class Painter:
    pictures: Sequence[np.ndarray]
    seed: int
    used: Mapping[str, Any]

    def paint(self, prompts: Sequence[str], *, seed: int) -> np.ndarray:
        first = seed - self.seed
        return np.stack(self.pictures[first : first + len(prompts)])


def make_eval(
    folder: Path,
    prompts: Sequence[EvalPrompt],
    scores: Sequence[Sequence[float]],
    *,
    draw: Callable[[float, int, int], np.ndarray] = plain,
    seed: int = 0,
    code: str = "suite 1",
    **used: Any,
) -> Path:
    """``scores``: of each prompt, one per sample."""
    samples, suite = len(scores[0]), Suite(prompts, code)
    asks = plan_asks(prompts, suite="s", samples=samples)
    pictures = []
    for ask in asks:
        score = scores[ask.number % len(prompts)][ask.number // len(prompts)]
        pixels = draw(score, ask.number, seed + ask.number)
        pixels[0, 0, 0] = round(100 * score)
        pictures.append(pixels)
    about = {"name": "s", "options": {}, "code": code}
    job = Job(
        "s",
        suite,
        asks,
        asked={"suite": about, "samples_per_prompt": samples, "limit": None, "batch_size": 3, "seed": seed, "checkpoint": folder.name},
        about={"suite": about},
        seed=seed,
        batch=3,
        open_painter=lambda: Painter(pictures, seed, {**USED, **used}),
    )
    evaluate(job, folder, progress=lambda *_: None)
    return folder
