"""Contract of gates, for authors of plugins: the laws that a gate must keep, as tests to subclass. Needs torch, no pytest.

.. code-block:: python

    from ernie_distill.testing import GateContract

    class TestMyGate(GateContract):
        entry = "my-gate"
        options = {"strength": 0.5}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ernie_core.api import GateContext
from ernie_core.testing.component import ComponentContract
from ernie_core.text.embeddings import TextEmbeddings
from ernie_distill.api import OBJECTIVES, Gate, GateInputs, Objective
from ernie_distill.gates.weights import check_weights

SAMPLES: tuple[tuple[str, str, float], ...] = (
    ("text", 'a poster that says "ÄÖ 雪"', 1.0),
    ("art", "an oil painting of a harbour", 0.5),
    ("", "a shop with the sign “OPEN”", 0.2),
    ("", "nothing of note", 0.02),
    ("cartography", 'a map titled "Atlantis"', 0.0),
    ("art", "", 0.98),
)
"""Domain, prompt and noise level."""


class GateContract(ComponentContract):
    """``gate(inputs) -> weights`` and ``describe()``; see ``ernie_distill.api.Gate``.

    Attributes:
        teachers: of the committee it is built for, the generalist first.
        domains: of each.
        guidance_budget: largest sum of guidance weights with these options; None: any.
        text_width, channels: of the embeddings and latents it is asked about.
        tolerance: absolute, for weights that should be equal up to the order of summation.
    """

    registry: ClassVar[str] = "gates"
    teachers: ClassVar[tuple[str, ...]] = ("generalist", "art", "text", "layout")
    domains: ClassVar[tuple[tuple[str, ...], ...]] = ((), ("art", "photo"), ("text",), ())
    guidance_budget: ClassVar[float | None] = 1.0
    text_width: ClassVar[int] = 12
    channels: ClassVar[int] = 3
    tolerance: ClassVar[float] = 1e-6

    def context(self) -> GateContext:
        return GateContext(self.teachers, self.domains)

    def gate(self) -> Gate:
        return self.build(self.context())

    def inputs(self, objective: Objective) -> GateInputs:
        """One sample per row of ``SAMPLES``, with a region where the prompt has quoted text."""
        generator = torch.Generator().manual_seed(0)
        domains, prompts, sigmas = zip(*SAMPLES, strict=True)
        lens = tuple(1 + (3 * b) % 5 for b in range(len(SAMPLES)))
        text_BTE = torch.randn(len(SAMPLES), max(lens), self.text_width, generator=generator)
        text_BTE *= (torch.arange(max(lens)) < torch.tensor(lens)[:, None])[..., None]
        x_BCHW = torch.randn(len(SAMPLES), self.channels, 4, 6, generator=generator)
        ramp_B1hw = torch.linspace(0, 1, 24).reshape(1, 1, 4, 6).repeat(len(SAMPLES), 1, 1, 1)
        for b, prompt in enumerate(prompts):
            ramp_B1hw[b] *= float(any(mark in prompt for mark in '"“'))
        return GateInputs(
            objective, torch.tensor(sigmas), domains, prompts, TextEmbeddings(text_BTE, lens), x_BCHW, lambda: ramp_B1hw.clone()
        )

    def weights(self, inputs: GateInputs, gate: Gate | None = None) -> Tensor:
        """Checked."""
        found = (gate or self.gate())(inputs)
        samples, teachers = len(inputs.sigma_B), len(self.teachers)
        return check_weights(found, inputs.objective, teachers, self.guidance_budget, samples=samples, gate=self.entry)

    def everywhere(self, weights: Tensor) -> Tensor:
        """Weights [B, K, 1, h, w], whatever they were: those that are the same at all places, spread out."""
        spread = weights if weights.ndim == 5 else weights[..., None, None, None]
        return spread.cpu().expand(*spread.shape[:2], 1, 4, 6)

    def test_weights_keep_the_laws_of_both_objectives(self):
        for objective in OBJECTIVES:
            self.weights(self.inputs(objective))

    def test_weights_keep_the_laws_at_every_noise_level(self):
        for objective in OBJECTIVES:
            for sigma in (0.0, 1e-3, 0.3, 0.7, 0.999, 1.0):
                self.weights(replace(self.inputs(objective), sigma_B=torch.full((len(SAMPLES),), sigma)))

    def test_a_sample_does_not_depend_on_its_batch(self):
        for objective in OBJECTIVES:
            inputs, gate = self.inputs(objective), self.gate()
            together = self.everywhere(self.weights(inputs, gate))
            for rows in ([0], [3], [5, 2], list(range(len(SAMPLES)))[::-1]):
                some = self.everywhere(self.weights(rows_of(inputs, rows), gate))
                assert torch.allclose(some, together[rows], rtol=0, atol=self.tolerance), (
                    f"{objective}: samples {rows} by themselves are weighed otherwise"
                )

    def test_equal_inputs_give_equal_weights(self):
        for objective in OBJECTIVES:
            gate = self.gate()
            first = self.weights(self.inputs(objective), gate)
            self.weights(rows_of(self.inputs("ca" if objective == "dm" else "dm"), [4, 1]), gate)
            assert torch.equal(first, self.weights(self.inputs(objective), gate)), "the gate remembers what it was asked"
            assert torch.equal(first, self.weights(self.inputs(objective))), "two gates of the same options differ"

    def test_no_gradient_passes(self):
        for objective in OBJECTIVES:
            inputs = self.inputs(objective)
            x_BCHW = inputs.x_BCHW.clone().requires_grad_()
            text = TextEmbeddings(inputs.text.text_BTE.clone().requires_grad_(), inputs.text.lens)
            assert not self.weights(replace(inputs, x_BCHW=x_BCHW, text=text)).requires_grad

    def test_inputs_stay_as_they_were(self):
        for objective in OBJECTIVES:
            inputs, before = self.inputs(objective), self.inputs(objective)
            self.gate()(inputs)
            assert all(same(getattr(inputs, f.name), getattr(before, f.name)) for f in fields(inputs) if f.name != "region")

    def test_it_says_what_it_is(self):
        lines = self.gate().describe()
        assert lines
        assert all(line.strip() and "\n" not in line for line in lines)


def rows_of(inputs: GateInputs, rows: Sequence[int]) -> GateInputs:
    """Some samples of a batch, in this order."""
    chosen = list(rows)
    return GateInputs(
        inputs.objective,
        inputs.sigma_B[chosen],
        [inputs.domains[b] for b in chosen],
        [inputs.prompts[b] for b in chosen],
        inputs.text.rows(chosen),
        inputs.x_BCHW[chosen],
        lambda: inputs.region()[chosen],
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, TextEmbeddings):
        return one.lens == other.lens and torch.equal(one.text_BTE, other.text_BTE)
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other
