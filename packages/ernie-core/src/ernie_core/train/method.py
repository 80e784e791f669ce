"""The ``Method`` seam: what is trained, who learns at a step, and the loss. Light: torch only under type checking.

The trainer owns batches, accumulation, backward, clipping, stepping, EMA, metrics and checkpoints; a method owns the mathematics. Pre-training,
fine-tuning, preference training and distillation are all ``ernie train`` with another ``[method]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ernie_core.config.base import Config, Fraction
from ernie_core.records import Record, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ernie_core.rng import StepRng

    VelocityFn = Callable[[Tensor, float], Tensor]


class EmaConfig(Config):
    """Exponential moving average of a network's weights, kept in float32.

    The decay of update n = 1, 2, ... is ``min(decay, 1 - (1 + n) ** -(2 / 3))``, so that early updates forget the initialisation.
    """

    decay: Fraction = 0.9999


@dataclass(frozen=True)
class Network:
    """One network of a method. ``trained=False`` means frozen for the whole run: never written to a checkpoint, its hash is checked at resume.

    With ``follows``, the name of a trained network of the same shape, it is not frozen: after each applied step of that network its weights become
    their moving average at the constant decay ``ema.decay``, kept in float32 and saved with checkpoints. It starts as that network does.
    """

    name: str
    module: nn.Module
    trained: bool = True
    ema: EmaConfig | None = None
    optimizer: str = "default"  # "default" is [optimizer]; any other name is a table [optimizers.NAME]
    follows: str = ""


@dataclass(frozen=True)
class Turn:
    """Who learns at one optimiser step. ``trains`` are network names; the others get no gradient and no optimiser step."""

    name: str
    trains: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """One micro-batch as it comes from the data source.

    ``indices`` are places in the global batch: the keys of every random draw. ``stage`` is the resolution stage of the step.
    """

    records: Sequence[Record]
    indices: Sequence[int]
    stage: Stage

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class FixedSampling:
    """The only way in which pictures should be drawn from what a method trains, such as a model distilled to few steps: kept in every checkpoint, obeyed by
    ``ernie sample`` and ``ernie eval``, and written beside an export."""

    steps: int
    guidance_scale: float = 1.0
    sampler: str = "euler"


@dataclass
class Metrics:
    """Sums with their weights, so that micro-steps and ranks can be added in any grouping. Values stay on their device until ``means``."""

    sums: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def add(self, name: str, total: Tensor | float, weight: Tensor | float) -> None:
        """Add a sum over samples and the number (or weight) of samples it covers."""
        if name in self.sums:
            before, count = self.sums[name]
            total, weight = before + total, count + weight
        self.sums[name] = (total, weight)

    def add_values(self, name: str, values_B: Tensor) -> None:
        """Add one value per sample."""
        self.add(name, values_B.detach().sum(), values_B.numel())

    def merge(self, other: Metrics) -> None:
        for name, (total, weight) in other.sums.items():
            self.add(name, total, weight)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sums)

    def means(self) -> dict[str, float]:
        """Weighted means as Python floats, by sorted name. This is where a device is synchronised."""
        return {name: float(self.sums[name][0]) / max(float(self.sums[name][1]), 1e-12) for name in sorted(self.sums)}


class Method(Protocol):
    """A training method. Built once by the component the config selects, with a ``MethodContext``."""

    def networks(self) -> Sequence[Network]:
        """All networks, trained and frozen, in an order that is the same on every rank. Called once."""
        ...

    def deployed(self) -> Mapping[str, str]:
        """Which networks a user samples from: ``{"transformer": network name}`` and, if it is trained, ``"encoder"``. A transformer that is frozen comes with
        the ``"adapter"`` that was trained on it (``ernie_core.adapters.policy``)."""
        ...

    def turn(self, step: int) -> Turn:
        """Who learns at this step; a pure function of the step. "5:1" is a period of six turns."""
        ...

    def prepare(self, part: Part, rng: StepRng) -> Any:
        """Records to tensors on the device: pixels to latents, captions chosen, frozen encodings. No gradient.

        It takes ``rng`` because the caption's style and the codec's posterior noise are draws, keyed by step and index as all others.
        """
        ...

    def loss(self, batch: Any, turn: Turn, rng: StepRng) -> tuple[Tensor, Metrics]:
        """The sum over the micro-batch's samples, differentiable by the turn's networks; the trainer divides by the global batch."""
        ...

    def after_step(self, turn: Turn, step: int) -> None:
        """Called only after a step that was applied, e.g. to refresh a teacher."""
        ...

    def validate(self, batch: Any, rng: StepRng) -> Metrics:
        """Fixed-noise, fixed-sigma metrics of a held-out micro-batch, without gradient."""
        ...

    def velocity_fn(self, network: str, prompts: Sequence[str], *, guidance_scale: float) -> VelocityFn:
        """The guided velocity of one network for these prompts, for sample grids."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Counters and the like as JSON values; tensors of networks are the trainer's."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Described(Protocol):
    """A method with something to say before the first step, such as what its coefficients amount to. Optional."""

    def describe(self) -> Sequence[str]:
        """Lines for people; printed once at the start of a run, on rank 0."""
        ...


@runtime_checkable
class FixesSampling(Protocol):
    """A method whose model is to be sampled in one way only. Optional."""

    def sampling(self) -> FixedSampling: ...


@runtime_checkable
class Repeats(Protocol):
    """A method some of whose steps take the records of an earlier one. Optional."""

    def data_step(self, step: int) -> int:
        """The step, not after this one, whose records are taken; a pure function."""
        ...
