"""A scorer of sharpness, and a tiny suite that asks for bright and dark pictures. Numpy alone.

Source of the scorer: Pech-Pacheco et al. 2000, the variance of the Laplacian.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ernie_core.api import EvalPrompt, EvaluationContext, Scorer, ScorerContext
from numpy.typing import NDArray

from ernie_example.plugin import ContrastConfig, SharpnessConfig


class Sharpness:
    """log(1 + variance of the 5-point Laplacian of the grey values in 0..255): 0 for a flat picture, about 10 for noise."""

    code = "sharpness 1"

    def score(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str] | None = None) -> NDArray[np.float64]:
        return np.array([self.one(image) for image in images], np.float64)

    def one(self, image_HW3: NDArray[np.uint8]) -> float:
        grey = np.pad(image_HW3.astype(np.float64).mean(axis=-1), 1, mode="edge")
        laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
        return float(np.log1p(laplacian.var()))


class Contrast:
    """Half of the prompts ask for a bright picture, half for a dark one; ``sharpness`` is given beside."""

    def __init__(self, config: ContrastConfig, scorer: Scorer) -> None:
        self.config, self.scorer = config, scorer
        self.code = f"contrast 1, {scorer.code}"

    def prompts(self) -> list[EvalPrompt]:
        tones = [("bright", "dark")[i % 2] for i in range(self.config.count)]
        return [
            EvalPrompt(f"{tone}-{i:03d}", f"a {tone} picture, number {i}", metrics=("right", "sharpness"), tags=(tone,), cluster=tone)
            for i, tone in enumerate(tones)
        ]

    def judge(self, prompts: Sequence[EvalPrompt], images: Sequence[NDArray[np.uint8]]) -> list[Mapping[str, float]]:
        bright = [image.mean() > 127.5 for image in images]
        sharpness = self.scorer.score(images, [p.prompt for p in prompts])
        return [
            {"right": float(is_bright == ("bright" in prompt.tags)), "sharpness": float(sharp)}
            for prompt, is_bright, sharp in zip(prompts, bright, sharpness, strict=True)
        ]


def build_scorer(config: SharpnessConfig, context: ScorerContext) -> Sharpness:
    return Sharpness()


def build_suite(config: ContrastConfig, context: EvaluationContext) -> Contrast:
    return Contrast(config, context.build("scorers", config.scorer, ScorerContext(context.device)))
