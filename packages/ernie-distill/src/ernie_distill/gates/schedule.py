r"""The gate ``schedule`` (G1): a bump over noise levels for each teacher.

S_k(sigma) = pi_k exp(-(sigma - m_k)^2 / 2 d_k^2)      matching: S_k / sum_j S_j      guidance: S_k, within a budget
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ernie_core.api import GateContext
from ernie_distill.gate_config import BumpConfig, ProductConfig, ScheduleConfig
from ernie_distill.gates.constant import check_names
from ernie_distill.gates.weights import from_logs, within_budget

if TYPE_CHECKING:
    from ernie_distill.api import GateInputs, Objective


class Bumps:
    """``log S_k(sigma)``; 0 for teachers without a bump.

    Raises:
        ConfigError: a bump of no teacher.
    """

    def __init__(self, bumps: Mapping[str, BumpConfig], context: GateContext, *, where: str) -> None:
        check_names(bumps, context, where=where)
        chosen = [bumps.get(name) for name in context.teachers]
        self._center_K = _column(0.0 if bump is None else bump.center for bump in chosen)
        self._precision_K = _column(0.0 if bump is None else bump.width**-2 for bump in chosen)
        self._prior_K = _column(1.0 if bump is None else bump.prior for bump in chosen).log()
        self._told = [f"{name} at {b.center:g} +- {b.width:g}" for name, b in bumps.items()]

    def logs(self, sigma_B: Tensor) -> Tensor:
        """[B, K], float64, on the CPU."""
        away_BK = sigma_B.double()[:, None] - self._center_K
        return self._prior_K - away_BK.square() * self._precision_K / 2

    def describe(self) -> str:
        return ", ".join(self._told) or "the same at all noise levels"


class Schedule:
    def __init__(self, config: ScheduleConfig, context: GateContext) -> None:
        self._config, self._bumps = config, Bumps(config.teachers, context, where="gate schedule")

    def __call__(self, inputs: GateInputs) -> Tensor:
        """[B, K] on the CPU."""
        return normalised(self._bumps.logs(inputs.sigma_B.cpu()), inputs.objective, self._config)

    def describe(self) -> Sequence[str]:
        return [f"gate schedule: {self._bumps.describe()}"]


def normalised(logs_BK: Tensor, objective: Objective, config: ScheduleConfig | ProductConfig) -> Tensor:
    """Weights of scores given as logarithms: on the simplex for matching, for guidance as the options say."""
    if objective == "dm" or config.guidance_norm == "simplex":
        return from_logs(logs_BK)
    return within_budget(logs_BK.clamp(max=0.0).exp(), config.guidance_budget)


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def build(config: ScheduleConfig, context: GateContext) -> Schedule:
    return Schedule(config, context)
