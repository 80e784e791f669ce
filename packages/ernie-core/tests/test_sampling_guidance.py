"""Classifier-free guidance: what the model is called with, and what becomes of its answers."""

import pytest
import torch
from torch import nn

from ernie_core.model.layout import SequenceLayout
from ernie_core.sampling.guidance import guided_velocity
from ernie_core.text.embeddings import pad_right


class Recorder(nn.Module):
    """A velocity model that answers with the mean of each sample's real text tokens, and remembers its calls."""

    class config:
        patch_size = 1

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=dtype))
        self.calls = []

    def forward(self, x, time, text, lens, layout):
        self.calls.append((x, time, text, lens, layout))
        answers = torch.stack([row[:n].mean() for row, n in zip(text, layout.text_lens)])
        return (answers * self.weight)[:, None, None, None].expand_as(x)


COND = pad_right([torch.full((3, 4), 2.0), torch.full((5, 4), 3.0)])
UNCOND = pad_right([torch.full((1, 4), 1.0)])
X = torch.randn(2, 6, 4, 8, generator=torch.Generator().manual_seed(0))


def test_guidance_extrapolates_from_the_unconditional_velocity():
    v = guided_velocity(Recorder(), COND, UNCOND, 4.0)(X, 0.5)
    torch.testing.assert_close(v[:, 0, 0, 0], torch.tensor([1 + 4 * (2 - 1.0), 1 + 4 * (3 - 1.0)]))


def test_both_halves_are_one_packed_batch_unconditional_first():
    model = Recorder()
    guided_velocity(model, COND, UNCOND, 4.0)(X, 0.5)
    ((x, time, text, lens, layout),) = model.calls
    assert torch.equal(x, torch.cat([X, X]))
    assert time.tolist() == [500.0]  # one time for all: modulation is computed once
    assert lens.tolist() == [1, 1, 3, 5]
    assert layout == SequenceLayout.plan((4, 8), (1, 1, 3, 5))
    assert layout.packed
    assert not layout.needs_mask
    assert layout.computed_tokens == layout.real_tokens == 4 * 32 + 10
    assert torch.equal(text[:2, 0], torch.ones(2, 4))


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_at_one_or_less_there_is_a_single_conditional_pass(scale):
    model = Recorder()
    v = guided_velocity(model, COND, None, scale)(X, 0.5)
    ((x, _, _, lens, _),) = model.calls
    assert torch.equal(x, X)
    assert lens.tolist() == [3, 5]
    assert v[:, 0, 0, 0].tolist() == [2.0, 3.0]


def test_the_model_is_called_in_its_own_dtype_with_the_rounded_time():
    model = Recorder(torch.bfloat16)
    v = guided_velocity(model, COND, UNCOND, 2.0)(X, 0.9655172)
    ((x, time, text, _, _),) = model.calls
    assert x.dtype == text.dtype == time.dtype == v.dtype == torch.bfloat16
    assert time.tolist() == [964.0]


def test_guidance_without_the_empty_prompt_is_an_error():
    with pytest.raises(ValueError, match=r"guidance_scale = 4\.0 needs the encoding of the empty prompt"):
        guided_velocity(Recorder(), COND, None, 4.0)


def test_gradients_flow_through_both_halves():
    model = Recorder()
    guided_velocity(model, COND, UNCOND, 4.0)(X, 0.5).sum().backward()
    expected = X[0].numel() * ((1 + 4 * 1.0) + (1 + 4 * 2.0))
    assert float(model.weight.grad) == pytest.approx(expected)
