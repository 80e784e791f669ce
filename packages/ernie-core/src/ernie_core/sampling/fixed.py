"""How a model is to be sampled whose method fixed that, such as one distilled to few steps: what is kept beside its weights, and what its users may ask for.

A distilled model's noise levels are those of its own number of steps, and guidance is in its weights already: other steps or guidance do not give worse or
better pictures of the same model, but pictures of none that was trained. Another sampler visits the same levels, and comparing the two is a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from ernie_core.config.base import Config, NonNegative, PositiveInt
from ernie_core.config.run import SamplesTable
from ernie_core.errors import ConfigError, Problem, WeightsError
from ernie_core.train.checkpoint import glance_at_state, is_own_checkpoint
from ernie_core.train.method import FixedSampling

FILE = "sampling.json"
"""Beside ``model_index.json`` of an export."""
GRID_STEPS, GRID_GUIDANCE = 20, 4.0  # of a run's pictures, where neither its config nor its method says anything
DEFAULT_SAMPLER = "euler"


class _Stored(Config):
    steps: PositiveInt
    guidance_scale: NonNegative
    sampler: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance_scale) or not self.sampler:
            raise ValueError("expected a finite guidance_scale and the name of a sampler")


def to_stored(fixed: FixedSampling) -> dict[str, Any]:
    return asdict(fixed)


def in_words(fixed: FixedSampling) -> str:
    """For who takes the model elsewhere, in diffusers' terms."""
    how = "" if fixed.sampler == DEFAULT_SAMPLER else f", by the sampler {fixed.sampler}"
    return f"sample it with num_inference_steps={fixed.steps}, guidance_scale={fixed.guidance_scale:g} and no others{how}"


def from_stored(plain: object, where: str) -> FixedSampling:
    """
    Raises:
        WeightsError: it is not what ``to_stored`` gives.
    """
    try:
        stored = msgspec.convert(plain, _Stored)
    except (msgspec.ValidationError, ValueError) as error:
        raise WeightsError(
            f'{where}: {error}; expected {{"steps": 8, "guidance_scale": 1.0, "sampler": "euler"}} with this model\'s own values'
        ) from error
    return FixedSampling(stored.steps, stored.guidance_scale, stored.sampler)


def fixed_in_folder(root: Path) -> FixedSampling | None:
    """What an exported pipeline folder says; None if it has no ``sampling.json``.

    Raises:
        WeightsError: the file cannot be read, or says something else.
    """
    file = root / FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror or error}") from error
    try:
        plain = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file}: not valid JSON ({error}); export the model again") from error
    return from_stored(plain, str(file))


def fixed_in_state(state: Mapping[str, Any], where: str) -> FixedSampling | None:
    """What a checkpoint's state says."""
    return from_stored(state["sampling"], where) if state.get("sampling") is not None else None


def glance_at_fixed(path: str | Path) -> FixedSampling | None:
    """What ``load_pipeline`` will most likely find, with no weights read or verified. For early checks.

    Raises:
        WeightsError: as ``fixed_in_folder``.
    """
    root = Path(path)
    if (root / "model_index.json").is_file():
        return fixed_in_folder(root)
    state = glance_at_state(root) if is_own_checkpoint(root) else None
    return None if state is None else fixed_in_state(state, str(root))


def refusals(fixed: FixedSampling, *, steps: int | None, guidance_scale: float | None, names: tuple[str, str]) -> list[tuple[str, str]]:
    """What of the wishes contradicts it, as (name, reason). None is no wish. ``names``: of steps and guidance scale, as the user writes them."""
    found = []
    if steps is not None and steps != fixed.steps:
        found.append(
            (
                names[0],
                f"this model was distilled to {fixed.steps} steps and knows only their noise levels, found {names[0]} {steps}; remove it",
            )
        )
    if guidance_scale is not None and max(guidance_scale, 1.0) != max(fixed.guidance_scale, 1.0):
        how = "without guidance, which is in its weights" if fixed.guidance_scale <= 1 else f"at guidance {fixed.guidance_scale:g}"
        found.append((names[1], f"this model was distilled to be sampled {how}, found {names[1]} {guidance_scale:g}; remove it"))
    return found


def settle(samples: SamplesTable, fixed: FixedSampling | None) -> FixedSampling:
    """How a run's own pictures are drawn, and its model's by default: what ``[samples]`` says, else what the method fixed, else 20 steps at guidance 4.

    Raises:
        ConfigError: ``[samples]`` contradicts the method, naming the keys.
    """
    names = ("samples.steps", "samples.guidance_scale")
    wrong = refusals(fixed, steps=samples.steps, guidance_scale=samples.guidance_scale, names=names) if fixed is not None else []
    if wrong:
        raise ConfigError([Problem(name, reason) for name, reason in wrong])
    default = fixed or FixedSampling(GRID_STEPS, GRID_GUIDANCE, DEFAULT_SAMPLER)
    return FixedSampling(
        samples.steps if samples.steps is not None else default.steps,
        samples.guidance_scale if samples.guidance_scale is not None else default.guidance_scale,
        samples.sampler.use if samples.sampler is not None else default.sampler,
    )
