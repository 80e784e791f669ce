"""The interface between the trainer and how training is spread over devices. Light: torch only under type checking.

One engine instance lives per run. ``single`` and ``ddp`` are both ``ReplicatedEngine`` over another ``Group``; sharded engines implement the same
protocol from their own packages through ``ernie_register_engines``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ernie_core.config.run import OptimizerTable
    from ernie_core.train.method import Network, Turn


@dataclass(frozen=True)
class Outcome:
    """What became of an optimiser step. ``applied=False``: nothing at all was changed, and ``reason`` names the network and parameter."""

    applied: bool
    grad_norms: Mapping[str, float] = field(default_factory=dict)  # by network, before clipping
    reason: str = ""


class Group(Protocol):
    """The few collectives an engine and the trainer need."""

    rank: int
    world_size: int

    def sum_(self, tensor: Tensor) -> None:
        """Sum a tensor over the ranks, in place."""
        ...

    def broadcast_(self, tensor: Tensor) -> None:
        """Overwrite a tensor by rank 0's."""
        ...

    def barrier(self) -> None: ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Holds float32 masters, working copies, gradients and optimiser states of the trained networks."""

    device: torch.device
    group: Group

    def prepare(self, networks: Sequence[Network], optimizers: Mapping[str, OptimizerTable], *, ops: Any, compute: torch.dtype) -> None:
        """Take over the networks: place them, make masters and optimisers. Called once, with networks at their float32 initial weights."""
        ...

    def micro_step(self, turn: Turn, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch; gradients of the turn's networks accumulate, and are reduced on the ``last``."""
        ...

    def backward(self, loss: Tensor) -> None: ...

    def step(self, turn: Turn, *, learning_rate_factor: float, refuse_above: Mapping[str, float]) -> Outcome:
        """Clip and apply, or refuse on all ranks alike if the loss or a gradient is not finite or its norm exceeds ``refuse_above[network]``."""
        ...

    def discard_gradients(self) -> None:
        """Forget accumulated gradients, e.g. of a step that is abandoned."""
        ...

    def masters(self, network: str) -> Iterator[tuple[str, Tensor]]:
        """This rank's float32 weights by parameter name."""
        ...

    def gather_state(self, network: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Float32 weights by state-dict key, and optimiser tensors by ``"<moment>/<parameter>"``, on the CPU. All ranks call it; rank 0's counts."""
        ...

    def gather_other(self, network: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Like ``gather_state``'s weights for other per-parameter values, such as an EMA."""
        ...

    def load_state(self, network: str, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None: ...

    def weights_replaced(self, network: str, values: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """The network computes with other per-parameter values, such as its EMA, inside the context."""
        ...
