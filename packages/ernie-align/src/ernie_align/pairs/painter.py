"""A pipeline with what the config leaves open settled by the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ernie_align.pair_config import PairBuildConfig

if TYPE_CHECKING:
    from ernie_core.sampling.pipeline import Pipeline


@dataclass(frozen=True)
class PipelinePainter:
    pipeline: Pipeline
    config: PairBuildConfig
    sampler: Any

    def paint(self, prompts: Sequence[str], *, seed: int) -> NDArray[np.uint8]:
        """One picture per prompt [B, H, W, 3]; picture i from the noise of seed + i."""
        defaults, config = self.pipeline.defaults, self.config
        return self.pipeline.sample(
            prompts,
            seed=seed,
            steps=config.steps or defaults.steps,
            guidance_scale=defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale,
            size_px=config.size_px or defaults.size_px,
            sampler=self.sampler,
        )
