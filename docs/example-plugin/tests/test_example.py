"""The contracts that core's own components keep, and what is special about these."""

import numpy as np
import torch
from ernie_core.testing.contracts import BlockContract, EvaluationContract, FlowLossContract, SamplerContract, ScorerContract

from ernie_example.loss import pseudo_huber


class TestParallelBlock(BlockContract):
    entry = "parallel-swiglu"
    options = {"ffn_factor": 1.5}

    def test_the_feed_forward_part_has_the_width_that_was_asked_for(self):
        assert self.block().down.in_features == 1.5 * self.context.ffn_hidden_size


class TestPseudoHuber(FlowLossContract):
    entry = "pseudo-huber"

    def test_it_is_quadratic_for_small_errors_and_linear_for_large_ones(self):
        zero = torch.zeros(1, 4)
        for error, expected in ((1e-3, 1e-6), (1e3, 2 * 0.5 * 1e3)):
            found = pseudo_huber(zero + error, zero, torch.tensor([0.5]), scale=0.5)
            torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-3, atol=0)


class TestMidpoint(SamplerContract):
    entry = "midpoint"
    order = 2
    calls_per_step = 2


class TestSharpness(ScorerContract):
    entry = "sharpness"


class TestContrast(EvaluationContract):
    entry = "contrast"

    def perfect(self, prompts):
        return [np.full((8, 8, 3), 255 if "bright" in prompt.tags else 0, np.uint8) for prompt in prompts]
