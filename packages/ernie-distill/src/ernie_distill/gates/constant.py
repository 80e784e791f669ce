"""The gate ``constant`` (G0): fixed weights. One-hot, it makes the method one of a single teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ernie_core.api import ConfigError, GateContext
from ernie_distill.gate_config import ConstantConfig

if TYPE_CHECKING:
    from ernie_distill.api import GateInputs


class Constant:
    def __init__(self, config: ConstantConfig, context: GateContext) -> None:
        check_names([*config.match, *config.guidance], context, where="gate constant")
        match = config.match or {context.teachers[0]: 1.0}
        self._weights: Mapping[str, Mapping[str, float]] = {"dm": match, "ca": config.guidance or match}
        self._rows = {
            objective: torch.tensor([weights.get(name, 0.0) for name in context.teachers], dtype=torch.float32)
            for objective, weights in self._weights.items()
        }

    def __call__(self, inputs: GateInputs) -> Tensor:
        """[B, K] on the CPU."""
        return self._rows[inputs.objective].repeat(len(inputs.sigma_B), 1)

    def describe(self) -> Sequence[str]:
        told = {
            objective: ", ".join(f"{name} {weight:g}" for name, weight in weights.items()) for objective, weights in self._weights.items()
        }
        return [f"gate constant: matching {told['dm']}; guidance {told['ca']}"]


def check_names(names: Iterable[str], context: GateContext, *, where: str) -> None:
    """
    Raises:
        ConfigError: a name that is no teacher's.
    """
    if unknown := sorted(set(names) - set(context.teachers)):
        raise ConfigError(
            f"{where}: no teacher is called {', '.join(f'`{name}`' for name in unknown)}; teachers: {', '.join(context.teachers)}"
        )


def build(config: ConstantConfig, context: GateContext) -> Constant:
    return Constant(config, context)
