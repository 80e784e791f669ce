"""Contracts of the pure functions: flow losses, densities and samplers. Needs torch, no pytest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ernie_core.plugins.hookspecs import PureContext
from ernie_core.testing.component import ComponentContract

SHAPE = (5, 3, 4, 6)  # B, C, H, W


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class FlowLossContract(ComponentContract):
    """``loss(velocity, target, sigma_B) -> loss_B``: float32, one number per sample, the mean over that sample's elements.

    Attributes:
        tolerance: relative, for results that should be equal up to the order of summation.
    """

    registry: ClassVar[str] = "losses"
    tolerance: ClassVar[float] = 1e-5

    def loss(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return self.build(PureContext())

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        sigma_B = torch.linspace(0.1, 0.9, SHAPE[0])
        return normal(*SHAPE, seed=1).to(dtype), normal(*SHAPE, seed=2).to(dtype), sigma_B

    def test_it_is_registered_as_a_flow_loss(self):
        assert self.registered().kind == "flow"

    def test_one_finite_float32_number_per_sample(self):
        for dtype in (torch.float32, torch.bfloat16):
            loss_B = self.loss()(*self.inputs(dtype))
            assert loss_B.shape == (SHAPE[0],)
            assert loss_B.dtype == torch.float32, f"{dtype} inputs gave a {loss_B.dtype} loss: reduce in float32"
            assert torch.isfinite(loss_B).all()
            assert (loss_B > 0).all()

    def test_zero_when_the_velocity_is_the_target(self):
        velocity, _, sigma_B = self.inputs()
        assert self.loss()(velocity, velocity, sigma_B).abs().max() <= self.tolerance

    def test_finite_at_both_ends_of_sigma(self):
        velocity, target, _ = self.inputs()
        for sigma in (0.0, 1.0):
            velocity = velocity.detach().requires_grad_()
            velocity.grad = None
            loss_B = self.loss()(velocity, target, torch.full((SHAPE[0],), sigma))
            loss_B.sum().backward()
            assert torch.isfinite(loss_B).all()
            assert torch.isfinite(velocity.grad).all()

    def test_gradient_is_finite_and_descends_towards_the_target(self):
        velocity, target, sigma_B = self.inputs()
        velocity.requires_grad_()
        loss_B = self.loss()(velocity, target, sigma_B)
        loss_B.sum().backward()
        assert torch.isfinite(velocity.grad).all()
        towards_B = ((target - velocity.detach()) * velocity.grad).flatten(1).sum(1)
        assert (towards_B < 0).all(), "the loss does not fall from the velocity towards the target"

    def test_gradient_at_the_target_is_finite(self):
        velocity, _, sigma_B = self.inputs()
        velocity.requires_grad_()
        self.loss()(velocity, velocity.detach().clone(), sigma_B).sum().backward()
        assert torch.isfinite(velocity.grad).all()

    def test_a_sample_does_not_depend_on_its_batch(self):
        velocity, target, sigma_B = self.inputs()
        together_B = self.loss()(velocity, target, sigma_B)
        for i in range(SHAPE[0]):
            alone = self.loss()(velocity[i : i + 1], target[i : i + 1], sigma_B[i : i + 1])
            torch.testing.assert_close(alone[0], together_B[i], rtol=self.tolerance, atol=0)

    def test_a_larger_picture_weighs_as_much_as_a_smaller_one(self):
        velocity, target, sigma_B = self.inputs()
        once_B = self.loss()(velocity, target, sigma_B)
        twice_B = self.loss()(torch.cat([velocity, velocity], 2), torch.cat([target, target], 2), sigma_B)
        torch.testing.assert_close(twice_B, once_B, rtol=self.tolerance, atol=0)

    def test_inputs_stay_as_they_were(self):
        velocity, target, sigma_B = self.inputs()
        before = [t.clone() for t in (velocity, target, sigma_B)]
        self.loss()(velocity, target, sigma_B)
        assert all(torch.equal(a, b) for a, b in zip(before, (velocity, target, sigma_B), strict=True))


class DensityContract(ComponentContract):
    """``density(u_B) -> sigma_B``: the inverse distribution function of sigma on [0, 1], elementwise and increasing.

    Attributes:
        median: sigma at u = .5, where it is known.
    """

    registry: ClassVar[str] = "densities"
    median: ClassVar[float | None] = None

    def density(self) -> Callable[[Tensor], Tensor]:
        return self.build(PureContext())

    def test_values_lie_in_the_unit_interval_even_at_the_ends(self):
        u_B = torch.tensor([0.0, 2.0**-53, 1e-6, 0.5, 1 - 1e-6, 1 - 2.0**-53], dtype=torch.float64)
        sigma_B = self.density()(u_B)
        assert sigma_B.shape == u_B.shape
        assert torch.isfinite(sigma_B).all()
        assert ((sigma_B >= 0) & (sigma_B <= 1)).all()

    def test_it_increases_with_u_and_spreads(self):
        sigma_B = self.density()(torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1])
        assert (sigma_B.diff() >= 0).all()
        assert sigma_B[-1] - sigma_B[0] > 0.1

    def test_it_is_elementwise_and_repeatable(self):
        u_B = torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        density = self.density()
        order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
        assert torch.equal(density(u_B)[order], density(u_B[order]))
        assert torch.equal(density(u_B), self.density()(u_B))

    def test_median(self):
        if self.median is not None:
            sigma_B = self.density()(torch.tensor([0.5], dtype=torch.float64))
            assert math.isclose(float(sigma_B), self.median, rel_tol=1e-9)


class GaussianFlow:
    """The flow of data ``x0 ~ N(mean, std^2)``, whose velocity and whose solution are known in closed form.

    ``x_sigma ~ N((1 - sigma) mean, (1 - sigma)^2 std^2 + sigma^2)`` and the flow keeps every point's distance in standard deviations.
    """

    def __init__(self, mean: float = 0.7, std: float = 0.4) -> None:
        self.mean, self.std = mean, std

    def spread(self, sigma: float) -> float:
        return math.sqrt(((1 - sigma) * self.std) ** 2 + sigma**2)

    def velocity(self, x: Tensor, sigma: float) -> Tensor:
        growth = (sigma - (1 - sigma) * self.std**2) / self.spread(sigma) ** 2  # d log spread / d sigma
        return -self.mean + (x - (1 - sigma) * self.mean) * growth

    def solution(self, x: Tensor, start: float, end: float) -> Tensor:
        return (1 - end) * self.mean + (x - (1 - start) * self.mean) * self.spread(end) / self.spread(start)


class SamplerContract(ComponentContract):
    """``sampler(velocity_fn, x, sigmas, *, noise_fn=None, on_step=None) -> x``.

    Attributes:
        order: declared order of convergence; the observed one on a closed-form flow may be at most .2 below it.
        calls_per_step: velocity calls per interval. Override ``calls`` where that is not constant.
        stochastic: the sampler draws noise, so that neither an order nor a path can be checked, only where a flow to one point ends, and bookkeeping.
    """

    registry: ClassVar[str] = "samplers"
    order: ClassVar[float]
    calls_per_step: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False

    def sampler(self) -> Callable[..., Tensor]:
        return self.build(PureContext())

    def calls(self, steps: int) -> int:
        return self.calls_per_step * steps

    def sample(self, velocity_fn: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: tuple[float, ...], **options: object) -> Tensor:
        """The sampler's result, with a noise for each interval."""
        return self.sampler()(velocity_fn, x, sigmas, noise_fn=lambda i: normal(*SHAPE, seed=i)[: len(x)], **options)

    def test_a_constant_velocity_is_integrated_exactly(self):
        if self.stochastic:
            return
        x, v = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
        for sigmas in ((1.0, 0.0), shifted_sigmas(8), (0.6, 0.35, 0.2)):
            result = self.sample(lambda _x, _sigma: v, x, sigmas)
            torch.testing.assert_close(result, x + (sigmas[-1] - sigmas[0]) * v, rtol=0, atol=1e-5)

    def test_the_flow_to_a_single_point_ends_there(self):
        noise, x0 = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
        for steps in (1, 2, 8):
            result = self.sample(lambda x, sigma: (x - x0) / sigma, noise, shifted_sigmas(steps))
            torch.testing.assert_close(result, x0, rtol=0, atol=1e-5)

    def test_number_of_velocity_calls(self):
        for steps in (1, 2, 8):
            seen: list[float] = []

            def velocity(x: Tensor, sigma: float, seen: list[float] = seen) -> Tensor:
                seen.append(sigma)
                return -x

            self.sample(velocity, normal(*SHAPE), shifted_sigmas(steps))
            assert len(seen) == self.calls(steps)
            assert all(isinstance(sigma, float) for sigma in seen), "sigma is a Python float: a tensor would sync the device"
            assert all(0 < sigma <= 1 for sigma in seen), "the model is never asked at sigma = 0, where it was not trained"

    def test_on_step_is_called_after_each_interval_with_the_level_reached(self):
        sigmas = shifted_sigmas(6)
        seen: list[tuple[int, float, Tensor]] = []
        result = self.sample(lambda x, _sigma: -x, normal(*SHAPE), sigmas, on_step=lambda i, sigma, x: seen.append((i, sigma, x.clone())))
        assert [(i, sigma) for i, sigma, _ in seen] == list(enumerate(sigmas[1:]))
        assert torch.equal(seen[-1][2], result)

    def test_observed_order_on_a_closed_form_flow(self):
        if self.stochastic:
            return
        flow, x = GaussianFlow(), normal(256, dtype=torch.float64).reshape(16, 1, 4, 4)
        errors = [
            float((self.sampler()(flow.velocity, x, shifted_sigmas(steps)) - flow.solution(x, 1.0, 0.0)).square().mean().sqrt())
            for steps in (32, 64)
        ]
        observed = math.log2(errors[0] / errors[1])
        assert observed >= self.order - 0.2, f"order {observed:.2f} observed, {self.order} declared (errors {errors})"

    def test_shape_and_dtype_are_those_of_x(self):
        for dtype in (torch.float32, torch.bfloat16):
            x = normal(*SHAPE).to(dtype)
            result = self.sample(lambda x, _sigma: -x, x, shifted_sigmas(3))
            assert result.shape == x.shape
            assert result.dtype == dtype

    def test_neither_x_nor_the_velocity_is_changed_in_place(self):
        x, v = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
        x_before, v_before = x.clone(), v.clone()
        self.sample(lambda _x, _sigma: v, x, shifted_sigmas(4))
        assert torch.equal(x, x_before)
        assert torch.equal(v, v_before)

    def test_it_is_repeatable(self):
        x = normal(*SHAPE)
        results = [self.sample(lambda x, sigma: sigma - x, x, shifted_sigmas(5)) for _ in range(2)]
        assert torch.equal(*results)

    def test_a_sample_does_not_depend_on_its_batch(self):
        x = normal(*SHAPE)
        together = self.sample(lambda x, sigma: sigma - x, x, shifted_sigmas(5))
        alone = self.sampler()(lambda x, sigma: sigma - x, x[1:2], shifted_sigmas(5), noise_fn=lambda i: normal(*SHAPE, seed=i)[1:2])
        torch.testing.assert_close(alone[0], together[1], rtol=1e-5, atol=1e-6)


def shifted_sigmas(steps: int, shift: float = 3.0) -> tuple[float, ...]:
    """Falling levels from 1 to 0, shifted as the released schedule is: intervals of unequal width."""
    even = [1 - i / steps for i in range(steps)]
    return (*(shift * s / (1 + (shift - 1) * s) for s in even), 0.0)
