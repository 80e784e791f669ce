"""The scorer `shapes-agreement`: how much of its prompt a ShapeBench picture bears out. A preference with known truth, for pairs and rewards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError, ScorerContext
from ernie_data.shapes.entries import ShapesAgreementConfig
from ernie_data.shapes.parse import parse_caption
from ernie_data.shapes.profile import profile
from ernie_data.shapes.suite import CODE, parts, seen_in


def build(config: ShapesAgreementConfig, context: ScorerContext) -> ShapesAgreement:
    return ShapesAgreement(config)


class ShapesAgreement:
    """0 to 1: the mean over the parts that the prompt speaks of (count, shape, colour, position, text), and 1 only if all of it is right; or over chosen
    ones of these parts alone."""

    def __init__(self, config: ShapesAgreementConfig) -> None:
        self.profile, self.parts = profile(config.profile), config.parts
        self.code = f"shapes-agreement 1 {CODE}"

    def score(self, images: Sequence[NDArray], prompts: Sequence[str] | None = None) -> NDArray[np.float64]:
        """
        Raises:
            DataError: no prompts, one that is not in ShapeBench's wordings, or one that speaks of none of the chosen parts.
        """
        if prompts is None:
            raise DataError("the scorer `shapes-agreement` judges pictures by their prompts; give `prompt_style`, or prompts")
        return np.array([self._one(image, prompt) for image, prompt in zip(images, prompts, strict=True)], np.float64)

    def _one(self, image: NDArray[np.uint8], prompt: str) -> float:
        claims = parse_caption(prompt)
        if claims is None:
            raise DataError(f"{prompt[:80]!r}: not in ShapeBench's wordings, so nothing is known of what it asks for")
        held = parts(seen_in(image, self.profile), claims)
        right = held.pop("right")
        if self.parts:
            chosen = [value for name, value in held.items() if name in self.parts]
            if not chosen:
                raise DataError(
                    f"{prompt[:80]!r}: speaks of none of {', '.join(self.parts)}, only of {', '.join(held)}; leave it out or score other parts"
                )
            return float(np.mean(chosen))
        return 1.0 if right else min(float(np.mean(list(held.values()))) if held else 0.0, 0.99)
