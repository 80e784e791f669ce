"""Options that ``ernie sample`` and ``ernie eval`` share, and the pipeline that they describe. Light; torch is imported when it is opened."""

from __future__ import annotations

import argparse
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ernie_core.config.base import Selection
from ernie_core.errors import ConfigError, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ernie_core.cli.app import App
    from ernie_core.sampling.pipeline import Pipeline

LARGEST_SEED = 2**63 - 1  # torch takes seeds below 2**64; picture i has seed + i
_SIZE = re.compile(r"(\d+)x(\d+)")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """``--steps --guidance --seed --size --sampler --raw --device --dtype``."""
    parser.add_argument("--steps", type=at_least(1), metavar="N", help="intervals of the sampler (default: the checkpoint's, or 50)")
    parser.add_argument("--guidance", type=_finite, metavar="G", help="guidance scale; 1 or less is none (default: the checkpoint's, or 4)")
    parser.add_argument("--seed", type=at_least(0, most=LARGEST_SEED), default=0, metavar="S")
    parser.add_argument("--size", type=_size, metavar="WxH", help="in pixels (default: the checkpoint's last stage, or 1024x1024)")
    parser.add_argument(
        "--sampler", metavar="NAME", help="euler, heun, ab2, or a plugin's (default: the one the model was distilled for, or euler)"
    )
    parser.add_argument("--raw", action="store_true", help="the trained weights instead of their moving average")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu or cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of all networks (default: float32 on a CPU, bfloat16 on a GPU)")


@dataclass(frozen=True)
class Sampling:
    """A pipeline with everything settled that the options left open."""

    pipeline: Pipeline
    sampler: Any
    steps: int
    guidance_scale: float
    size_px: tuple[int, int]
    device: str
    dtype: str

    def sample(self, prompts: Sequence[str], *, seed: int) -> NDArray[np.uint8]:
        """One picture per prompt, [B, H, W, 3]; picture i starts from the noise of seed + i."""
        return self.pipeline.sample(
            prompts,
            seed=seed,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            size_px=self.size_px,
            sampler=self.sampler,
        )

    def settled(self, sampler: str) -> dict[str, Any]:
        """For JSON, with the sampler's name."""
        return {
            "size_px": list(self.size_px),
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "shift": self.pipeline.shift,
            "sampler": sampler,
            "device": self.device,
            "dtype": self.dtype,
        }


def settle_with_method(options: argparse.Namespace, checkpoint: str) -> None:
    """Find out, before a model is read, what its method says of how it is sampled: settles ``options.sampler``, and warns of another than the method's.

    Raises:
        ConfigError: steps or guidance that the model must not be sampled with.
        WeightsError: an export's ``sampling.json`` is damaged.
    """
    from ernie_core.sampling.fixed import DEFAULT_SAMPLER, glance_at_fixed, refusals

    fixed = glance_at_fixed(checkpoint)
    if fixed is None:
        options.sampler = options.sampler or DEFAULT_SAMPLER
        return
    wrong = refusals(fixed, steps=options.steps, guidance_scale=options.guidance, names=("--steps", "--guidance"))
    if wrong:
        raise ConfigError([Problem(checkpoint, reason) for _, reason in wrong])
    options.sampler = options.sampler or fixed.sampler
    if options.sampler != fixed.sampler:
        warnings.warn(
            f"{checkpoint}: distilled to be sampled with {fixed.sampler}; with {options.sampler} its pictures differ in contrast, not in precision alone",
            stacklevel=2,
        )


def open_sampling(checkpoint: str, options: argparse.Namespace, app: App) -> Sampling:
    """Load what the options name, after ``settle_with_method``.

    Raises:
        MissingComponent: an unknown sampler; found out before a model is loaded.
        ConfigError, WeightsError, RunFolderError: as ``load_pipeline``.
    """
    import torch

    from ernie_core.plugins.hookspecs import PureContext
    from ernie_core.sampling.pipeline import load_pipeline, usable_device

    sampler = app.host.build("samplers", Selection(options.sampler), PureContext())
    device = usable_device(options.device)
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    pipeline = load_pipeline(
        checkpoint,
        host=app.host,
        device=device,
        dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32,
        raw=options.raw,
    )
    defaults = pipeline.defaults
    return Sampling(
        pipeline,
        sampler,
        options.steps or defaults.steps,
        defaults.guidance_scale if options.guidance is None else options.guidance,
        options.size or defaults.size_px,
        str(device),
        dtype,
    )


@contextmanager
def warnings_told(app: App) -> Iterator[None]:
    """Tell each distinct warning for users once, as one line on stderr, when the work is done."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(warning.message) for warning in seen if issubclass(warning.category, UserWarning)):
        app.err(f"warning: {text}")


def at_least(lowest: int, *, most: int | None = None) -> Callable[[str], int]:
    """An argparse type."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {lowest}, found {text!r}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"expected at most {most}, found {text!r}")
        return value

    return whole_number


def _size(text: str) -> tuple[int, int]:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT in pixels such as 1024x768, found {text!r}")
    return int(match[1]), int(match[2])


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}")
    return value
