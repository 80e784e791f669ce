"""The contracts fail on components that break the law they name: each case is one mistake that an author could make."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from ernie_core.ops.reference import ReferenceOps
from ernie_core.records import Record, RecordRef
from ernie_core.sampling.samplers import euler, heun
from ernie_core.testing.contracts import (
    BlockContract,
    CodecContract,
    DataSourceContract,
    DensityContract,
    FlowLossContract,
    OpSetContract,
    PromptEncoderContract,
    SamplerContract,
)
from ernie_core.text.embeddings import TextEmbeddings, pad_right


def contract(base, built, **attributes):
    """The contract as an author would subclass it, with a given object instead of a registered one."""
    return type("Contract", (base,), {"entry": "broken", "build": lambda self, context: built, **attributes})()


def fails(case, test):
    with pytest.raises(AssertionError):
        getattr(case, f"test_{test}")()


def in_place_euler(velocity_fn, x, sigmas, *, noise_fn=None, on_step=None):
    for sigma, after in pairwise(sigmas):
        x += (after - sigma) * velocity_fn(x, sigma)
    return x


def early_euler(velocity_fn, x, sigmas, *, noise_fn=None, on_step=None):
    return euler(velocity_fn, x, sigmas[:-1], on_step=on_step)


def wrong_sign(velocity_fn, x, sigmas, *, noise_fn=None, on_step=None):
    return euler(lambda x, sigma: -velocity_fn(x, sigma), x, sigmas, on_step=on_step)


def batch_coupled(velocity_fn, x, sigmas, *, noise_fn=None, on_step=None):
    return euler(lambda x, sigma: velocity_fn(x, sigma) * x.std(), x, sigmas, on_step=on_step)


def float_upcast(velocity_fn, x, sigmas, *, noise_fn=None, on_step=None):
    return euler(velocity_fn, x.float(), sigmas, on_step=on_step)


@pytest.mark.parametrize(
    ("sampler", "test"),
    [
        (in_place_euler, "neither_x_nor_the_velocity_is_changed_in_place"),
        (in_place_euler, "on_step_is_called_after_each_interval_with_the_level_reached"),
        (early_euler, "a_constant_velocity_is_integrated_exactly"),
        (early_euler, "on_step_is_called_after_each_interval_with_the_level_reached"),
        (wrong_sign, "a_constant_velocity_is_integrated_exactly"),
        (wrong_sign, "the_flow_to_a_single_point_ends_there"),
        (early_euler, "the_flow_to_a_single_point_ends_there"),
        (wrong_sign, "observed_order_on_a_closed_form_flow"),
        (euler, "observed_order_on_a_closed_form_flow"),
        (heun, "number_of_velocity_calls"),
        (batch_coupled, "a_sample_does_not_depend_on_its_batch"),
        (float_upcast, "shape_and_dtype_are_those_of_x"),
    ],
)
def test_a_wrong_sampler_is_caught(sampler, test):
    fails(contract(SamplerContract, sampler, order=2), test)


def square(velocity, target):
    return (velocity.float() - target.float()) ** 2


@pytest.mark.parametrize(
    ("loss", "test"),
    [
        (lambda v, t, s: square(v, t).mean(), "one_finite_float32_number_per_sample"),
        (lambda v, t, s: ((v - t) ** 2).flatten(1).mean(1), "one_finite_float32_number_per_sample"),
        (lambda v, t, s: square(v, t).flatten(1).sum(1), "a_larger_picture_weighs_as_much_as_a_smaller_one"),
        (lambda v, t, s: square(v, t).flatten(1).mean(1) / square(v, t).mean(), "a_sample_does_not_depend_on_its_batch"),
        (lambda v, t, s: square(v, t).flatten(1).mean(1) / s**2, "finite_at_both_ends_of_sigma"),
        (lambda v, t, s: square(v, -t).flatten(1).mean(1), "zero_when_the_velocity_is_the_target"),
        (lambda v, t, s: -square(v, t).flatten(1).mean(1), "gradient_is_finite_and_descends_towards_the_target"),
        (lambda v, t, s: square(v, t).flatten(1).mean(1).sqrt(), "gradient_at_the_target_is_finite"),
        (lambda v, t, s: square(v.mul_(2), t).flatten(1).mean(1), "inputs_stay_as_they_were"),
    ],
)
def test_a_wrong_loss_is_caught(loss, test):
    fails(contract(FlowLossContract, loss), test)


@pytest.mark.parametrize(
    ("density", "test"),
    [
        (lambda u: 1 - u, "it_increases_with_u_and_spreads"),
        (lambda u: torch.full_like(u, 0.5), "it_increases_with_u_and_spreads"),
        (torch.special.ndtri, "values_lie_in_the_unit_interval_even_at_the_ends"),
        (lambda u: u - 1e-3 * u[0], "it_is_elementwise_and_repeatable"),
        (lambda u: u, "median"),
    ],
)
def test_a_wrong_density_is_caught(density, test):
    fails(contract(DensityContract, density, median=0.75), test)


class BrokenBlock(nn.Module):
    """A one-layer block with one mistake, chosen by name."""

    def __init__(self, mistake):
        super().__init__()
        self.mistake = mistake
        self.linear = nn.Linear(64, 64)
        self.unused = nn.Parameter(torch.ones(3)) if mistake == "unused" else None
        self.hidden = torch.randn(64)  # neither a parameter nor a buffer

    def forward(self, x_BSD, inputs):
        y_BSD = self.linear(x_BSD) * (1 + inputs.modulation[0])
        match self.mistake:
            case "mixes tokens":
                y_BSD = y_BSD + y_BSD.mean(1, keepdim=True)
            case "mixes samples":
                y_BSD = y_BSD + y_BSD.mean(0, keepdim=True)
            case "dropout":
                y_BSD = nn.functional.dropout(y_BSD)
            case "no time":
                y_BSD = self.linear(x_BSD)
            case "float32":
                y_BSD = y_BSD.float()
            case "in place":
                x_BSD.mul_(2)
            case "state":
                y_BSD = y_BSD + self.hidden
        return x_BSD + y_BSD


@pytest.mark.parametrize(
    ("mistake", "test"),
    [
        ("mixes tokens", "packed_samples_give_what_each_gives_alone"),
        ("mixes tokens", "padding_has_no_influence_on_real_tokens"),
        ("mixes samples", "a_sample_does_not_depend_on_its_batch"),
        ("dropout", "it_draws_no_random_numbers"),
        ("dropout", "two_calls_give_the_same_bits_and_x_stays_as_it_was"),
        ("in place", "two_calls_give_the_same_bits_and_x_stays_as_it_was"),
        ("unused", "gradient_reaches_every_parameter_the_tokens_and_the_modulation"),
        ("no time", "gradient_reaches_every_parameter_the_tokens_and_the_modulation"),
        ("float32", "shape_and_dtype_are_kept"),
        ("state", "its_state_dict_is_all_there_is"),
    ],
)
def test_a_wrong_block_is_caught(mistake, test):
    case = contract(BlockContract, None)
    type(case).build = lambda self, context: BrokenBlock(mistake)
    fails(case, test)


def test_a_block_that_mixes_nothing_and_learns_passes_what_the_wrong_ones_fail():
    case = contract(BlockContract, None)
    type(case).build = lambda self, context: BrokenBlock("")
    case.test_packed_samples_give_what_each_gives_alone()
    case.test_padding_has_no_influence_on_real_tokens()
    case.test_gradient_reaches_every_parameter_the_tokens_and_the_modulation()


@pytest.mark.parametrize(
    ("op", "test"),
    [
        ("rms_norm_modulate", "rms_norm_modulate"),
        ("qk_norm_rope", "qk_norm_rope"),
        ("attention", "attention"),
        ("geglu", "geglu"),
        ("gated_residual", "gated_residual"),
        ("final_norm", "final_norm"),
    ],
)
def test_an_op_that_is_a_thousandth_off_is_caught(op, test):
    ops = ReferenceOps("broken")
    right = getattr(ops, op)

    def off(*args, **kwargs):
        result = right(*args, **kwargs)
        return tuple(1.001 * r for r in result) if isinstance(result, tuple) else 1.001 * result

    setattr(ops, op, off)
    fails(contract(OpSetContract, ops), test)


def test_an_optimiser_that_ignores_weight_decay_is_caught():
    class Forgetful(ReferenceOps):
        def adamw(self, param_groups, *, learning_rate, betas, eps, weight_decay):
            return super().adamw(param_groups, learning_rate=learning_rate, betas=betas, eps=eps, weight_decay=0.0)

    fails(contract(OpSetContract, Forgetful("broken")), "adamw_takes_the_steps_of_torchs")


class BrokenCodec:
    channels, pixels_per_token, posterior_noise = 12, 2, False

    def __init__(self, mistake):
        self.mistake = mistake

    def encode(self, pixels_B3HW, *, noise_BCHW=None):
        pixels_B3HW = pixels_B3HW[..., : pixels_B3HW.shape[-2] // 2 * 2, :]  # silently crops
        latents = nn.functional.pixel_unshuffle(pixels_B3HW, 2)
        match self.mistake:
            case "swapped":
                latents = latents.transpose(2, 3)
            case "noisy" if noise_BCHW is not None:
                latents = latents + noise_BCHW
            case "batch":
                latents = latents - latents.mean()
            case "random":
                latents = latents + torch.rand_like(latents)
        return latents

    def decode(self, latents_BCHW):
        if self.mistake == "cut":
            latents_BCHW = latents_BCHW.detach()
        return nn.functional.pixel_shuffle(latents_BCHW, 2) * (0.9 if self.mistake == "lossy" else 1)


@pytest.mark.parametrize(
    ("mistake", "test"),
    [
        ("swapped", "shapes_there_and_back"),
        ("noisy", "noise_is_used_exactly_if_it_says_so"),
        ("batch", "a_picture_does_not_depend_on_its_batch"),
        ("random", "the_mode_is_repeatable"),
        ("lossy", "round_trip"),
        ("cut", "a_gradient_on_pixels_reaches_the_latents"),
        ("", "sides_that_do_not_fit_are_refused"),
    ],
)
def test_a_wrong_codec_is_caught(mistake, test):
    fails(contract(CodecContract, BrokenCodec(mistake), round_trip_tolerance=1e-6), test)


class BrokenEncoder(nn.Module):
    width, trainable = 8, True

    def __init__(self, mistake):
        super().__init__()
        self.mistake = mistake
        self.table = nn.Embedding(256, 8)
        self.idle = nn.Parameter(torch.ones(1)) if mistake == "idle" else None

    def encode(self, prompts):
        rows = [self.table(torch.tensor(list(prompt.encode()) or [0])) for prompt in prompts]
        text = pad_right(rows)
        if self.mistake == "padding":
            return TextEmbeddings(text.text_BTE + 1, text.lens)
        if self.mistake == "batch":
            return TextEmbeddings(text.text_BTE / text.text_BTE.std(), text.lens)
        return text


@pytest.mark.parametrize(
    ("mistake", "test"),
    [
        ("padding", "shape_lengths_and_zero_padding"),
        ("batch", "a_prompt_does_not_depend_on_its_batch"),
        ("idle", "a_trainable_encoder_is_a_module_that_learns_and_a_frozen_one_carries_no_gradient"),
    ],
)
def test_a_wrong_prompt_encoder_is_caught(mistake, test):
    fails(contract(PromptEncoderContract, BrokenEncoder(mistake)), test)


class BrokenSource:
    """Twenty grey pictures with one mistake, chosen by name."""

    def __init__(self, mistake):
        self.mistake, self.calls = mistake, 0

    def __len__(self):
        return 20

    def batch(self, step, *, global_batch, stage):
        self.calls += 1
        start = self.calls if self.mistake == "stateful" else step * global_batch
        sides = [(64, 64)] * global_batch
        if self.mistake == "mixed" and global_batch > 1:
            sides[1] = (48, 80)
        if self.mistake == "uneven":
            sides = [(60, 60)] * global_batch
        return [RecordRef(f"r{(start + i) % 20}", (start + i) % 20, side) for i, side in enumerate(sides)]

    def fetch(self, refs):
        refs = list(reversed(refs)) if self.mistake == "reordered" else refs
        captions = {} if self.mistake == "mute" else {"a": "grey"}
        return [Record(ref.key, np.full((*ref.size_px, 3), ref.row, np.uint8), captions, ref.size_px) for ref in refs]


@pytest.mark.parametrize(
    ("mistake", "test"),
    [
        ("stateful", "a_batch_is_a_pure_function_of_seed_and_step"),
        ("mixed", "a_batch_has_the_requested_number_of_refs_of_one_bucket"),
        ("uneven", "bucket_sides_are_multiples_that_the_codec_needs_and_near_the_stages_area"),
        ("reordered", "fetch_returns_each_ref_in_order_at_its_size"),
        ("mute", "fetch_returns_each_ref_in_order_at_its_size"),
        ("", "another_seed_gives_another_order"),
    ],
)
def test_a_wrong_data_source_is_caught(mistake, test):
    case = contract(DataSourceContract, None)
    type(case).build = lambda self, context: BrokenSource(mistake)
    fails(case, test)
