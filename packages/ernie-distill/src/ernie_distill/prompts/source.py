"""The data source `prompts`: prompts alone, in batches that hold every domain's share."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np

from ernie_core.api import ConfigError, DataError, DataSourceContext, Record, RecordRef, Stage
from ernie_core.rng import Rng
from ernie_distill.prompts.config import PromptsConfig, ratio_of
from ernie_distill.prompts.order import PromptOrder
from ernie_distill.prompts.read import Prompt, read_prompts

AREA_TOLERANCE = 0.25
_ASPECTS = "distill/aspects"


def build(config: PromptsConfig, context: DataSourceContext) -> PromptSource:
    return PromptSource(config, context)


class PromptSource:
    """Row r is the r-th prompt of the split and the domains, in the order of the files. Pictures are black and take no memory; their size is a step's.

    Raises:
        DataError: see ``read_prompts``; no prompt of the split, or a domain without prompts.
        ConfigError: a file that is named twice, or a stage whose size no aspect can have.
    """

    def __init__(self, config: PromptsConfig, context: DataSourceContext) -> None:
        self.config, self.context = config, context
        paths = [config.path] if isinstance(config.path, str) else list(config.path)
        if twice := [path for number, path in enumerate(paths) if path in paths[:number]]:
            raise ConfigError(f"data.path names {twice[0]} more than once: its prompts would count twice. Name each file once.")
        everything, self._sum = read_prompts(paths)
        self.prompts = chosen(everything, config)
        self._rows: dict[str, list[int]] = {}
        for row, prompt in enumerate(self.prompts):
            self._rows.setdefault(prompt.domain, []).append(row)
        self._orders: dict[int, PromptOrder] = {}
        self._lock = threading.Lock()
        for stage in context.stages:
            self.sizes(stage)  # a size that does not fit should be known now

    def __len__(self) -> int:
        return len(self.prompts)

    def identity(self) -> str:
        """Of the files' content; not of where they are."""
        return f"prompts {self._sum}"

    def batch(self, step: int, *, global_batch: int, stage: Stage) -> list[RecordRef]:
        sizes = self.sizes(stage)
        turn, place = divmod(step, len(sizes))
        size_px = sizes[int(Rng(self.context.seed).at(_ASPECTS, turn).generator(0).permutation(len(sizes))[place])]
        return [RecordRef(self.prompts[row].where, row, size_px) for row in self._order(global_batch).batch(step).tolist()]

    def fetch(self, refs: Sequence[RecordRef]) -> list[Record]:
        return [self._record(ref) for ref in refs]

    def sizes(self, stage: Stage) -> list[tuple[int, int]]:
        """Width and height of each aspect in a stage.

        Raises:
            ConfigError: none has an area near the stage's; names sizes that have.
        """
        multiple = self.context.size_multiple_px
        return [size_of(aspect, size_px=stage.size_px, multiple_px=multiple) for aspect in self.config.aspects]

    def _order(self, batch: int) -> PromptOrder:
        with self._lock:
            if batch not in self._orders:
                shares = self.config.domains or {domain: float(len(rows)) for domain, rows in self._rows.items()}
                self._orders[batch] = PromptOrder(self._rows, shares, batch=batch, seed=self.context.seed)
            return self._orders[batch]

    def _record(self, ref: RecordRef) -> Record:
        if not 0 <= ref.row < len(self) or self.prompts[ref.row].where != ref.key:
            raise DataError(
                f"prompts: asked for was record {ref.row} as {ref.key}, which is not in {self.config.path}: the files have changed"
            )
        prompt, (width, height) = self.prompts[ref.row], ref.size_px
        nothing = np.broadcast_to(np.zeros((1, 1, 1), np.uint8), (height, width, 3))
        return Record(ref.key, nothing, prompt.captions, ref.size_px, category=prompt.domain, source=ref.key)


def chosen(prompts: Sequence[Prompt], config: PromptsConfig) -> list[Prompt]:
    """Those of the split and the domains.

    Raises:
        DataError: there is none, or none of some domain.
    """
    split = [prompt for prompt in prompts if prompt.split == config.split]
    if not split:
        found = ", ".join(sorted({prompt.split for prompt in prompts}))
        raise DataError(f"data.split: none of the {len(prompts)} prompts is of the split `{config.split}`; there are {found}")
    if not config.domains:
        return split
    found = sorted({prompt.domain for prompt in split} - {""})
    if missing := [domain for domain in config.domains if domain not in found]:
        raise DataError(
            f"data.domains: a domain without prompts, `{missing[0]}`, in the split `{config.split}`; there are {', '.join(found) or 'none with a domain'}"
        )
    return [prompt for prompt in split if prompt.domain in config.domains]


def size_of(aspect: str, *, size_px: int, multiple_px: int) -> tuple[int, int]:
    """The (width, height) with sides that are multiples of ``multiple_px`` nearest to the aspect and to an area of ``size_px`` squared, on a log scale
    where the aspect counts twice. A square at a size that is a multiple stays exactly that.

    Raises:
        ConfigError: its area is further than 25 % from the stage's.
    """
    ratio = ratio_of(aspect)
    ideal = size_px * math.sqrt(ratio), size_px / math.sqrt(ratio)
    sides = [{max(1, math.floor(side / multiple_px)) * multiple_px, (math.floor(side / multiple_px) + 1) * multiple_px} for side in ideal]

    def distance(size: tuple[int, int]) -> tuple[float, tuple[int, int]]:
        shape, area = math.log(size[0] / size[1] / ratio), math.log(size[0] * size[1] / size_px**2)
        return round(2 * abs(shape) + abs(area), 9), size

    best = min(((width, height) for width in sides[0] for height in sides[1]), key=distance)
    if abs(best[0] * best[1] / size_px**2 - 1) > AREA_TOLERANCE:
        raise ConfigError(
            f'data.aspects: at stage size_px = {size_px} no picture of "{aspect}" has sides that are multiples of {multiple_px} px (from the codec) and an area '
            f"within {AREA_TOLERANCE:.0%} of {size_px} x {size_px}; the nearest is {best[0]} x {best[1]}. Use larger stages or another aspect."
        )
    return best
