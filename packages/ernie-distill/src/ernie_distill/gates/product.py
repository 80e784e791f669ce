r"""The gate ``product`` (G3), the default.

    W_k(sigma, c, O)  ~  pi_k^O  S_k(sigma)  D_k(c)

Without options D alone is left: nothing to tune, and what it does can be read off. With them it does all that the report tells of its own gates: experts that
count for one objective only (priors), and a handover from layout to texture (schedule).

Source: ERNIE-Image report (arXiv 2605.25347), MT-DMD, for what gates do; the product is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ernie_core.api import ConfigError, GateContext
from ernie_distill.gate_config import ProductConfig
from ernie_distill.gates.constant import check_names
from ernie_distill.gates.domain import Shares
from ernie_distill.gates.schedule import Bumps, normalised

if TYPE_CHECKING:
    from ernie_distill.api import GateInputs


class Product:
    """
    Raises:
        ConfigError: an option names no teacher, or a domain without experts; all priors of an objective are 0.
    """

    def __init__(self, config: ProductConfig, context: GateContext, *, name: str = "product") -> None:
        where = f"gate {name}"
        self._config, self._name = config, name
        self._bumps = Bumps(config.schedule, context, where=f"{where}: schedule")
        self._shares = Shares(config.domain, context, where=where)
        self._prior_K = {
            "dm": _priors(config.match_prior, context, where=f"{where}: match_prior"),
            "ca": _priors(config.guidance_prior, context, where=f"{where}: guidance_prior"),
        }

    def __call__(self, inputs: GateInputs) -> Tensor:
        """[B, K] on the CPU."""
        logs_BK = (
            self._prior_K[inputs.objective]
            + self._bumps.logs(inputs.sigma_B.cpu())
            + self._shares.rows(inputs.domains, inputs.prompts).log()
        )
        return normalised(logs_BK, inputs.objective, self._config)

    def describe(self) -> Sequence[str]:
        lines = [f"gate {self._name}: {self._shares.describe()}; {self._bumps.describe()}"]
        for word, priors in (("matching", self._config.match_prior), ("guidance", self._config.guidance_prior)):
            if priors:
                lines.append(f"priors for {word}: " + ", ".join(f"{name} {prior:g}" for name, prior in priors.items()) + ", else 1")
        return lines


def _priors(priors: Mapping[str, float], context: GateContext, *, where: str) -> Tensor:
    """Logarithms [K], float64."""
    check_names(priors, context, where=where)
    values = [priors.get(name, 1.0) for name in context.teachers]
    if not any(values):
        raise ConfigError(f"{where}: 0 for all teachers; expected at least one above 0")
    return torch.tensor(values, dtype=torch.float64).log()


def build(config: ProductConfig, context: GateContext) -> Product:
    return Product(config, context)
