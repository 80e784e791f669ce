"""What plugins build on that offer gates: the protocol, what a gate is told, and the laws of weights. Light: torch only under type checking.

A committee has K teachers, the generalist first. Its clean-sample prediction is ``sum_k W_k E_k``, with one set of weights for each of the two objectives:

* ``dm``, distribution matching: a target that the fake score is compared with. Weights must sum to 1; otherwise the target is scaled towards or away from 0,
  and the student's mean with it (for sums above 1 / E[1 - w] without bound).
* ``ca``, the augmentation by guidance: a difference of two predictions of the same teacher. Its weights are guidance strengths, so only their budget matters.

Source: ERNIE-Image report (arXiv 2605.25347), MT-DMD: ``W_k(x_t, sigma, c, O)`` in [0, 1]; what normalises them is not disclosed and ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ernie_core.text.embeddings import TextEmbeddings

Objective = Literal["dm", "ca"]
OBJECTIVES: tuple[Objective, ...] = ("dm", "ca")


@dataclass(frozen=True)
class GateInputs:
    """What a gate may look at. Nothing of it carries gradient.

    Attributes:
        objective: which weights are asked for.
        sigma_B: noise level of each sample, float32 on the CPU: a gate that looks at nothing on a device costs no synchronisation.
        domains: each sample's domain as the data source names it (``Record.category``), "" where it has none.
        prompts: each sample's prompt.
        text: its encoding.
        x_BCHW: the noisy latents, float32.
        region: where the quoted text of each prompt is drawn, [B, 1, h, w] in [0, 1] on the device of ``x_BCHW``; all 0 for a prompt without. Costs two
            passes of the generalist when it is called.
    """

    objective: Objective
    sigma_B: Tensor
    domains: Sequence[str]
    prompts: Sequence[str]
    text: TextEmbeddings
    x_BCHW: Tensor
    region: Callable[[], Tensor]


class Gate(Protocol):
    """Built once per run with a ``GateContext``. Without state: equal inputs, equal weights, whatever batch a sample is in. One that reads files has an
    ``identity()`` as well (``ernie_core.api.Identified``): a run goes on only with the gate that it began with."""

    def __call__(self, inputs: GateInputs) -> Tensor:
        """Weights in [0, 1], float32: [B, K], or [B, K, 1, h, w] where they differ by place. Objective ``dm`` sums to 1 over K."""
        ...

    def describe(self) -> Sequence[str]:
        """Lines for people, printed at the start of a run."""
        ...
