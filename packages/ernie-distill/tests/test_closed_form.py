r"""Distribution matching where everything is normal: fixed points in closed form, by exact integrals and by descent through the surrogate.

One dimension. The teacher's data are N(mu_c, v) with the prompt and N(mu_u, v) without; the student is b + a z, and the fake score knows its law N(b, a^2).
A prediction at x_r is affine in x_r, so the direction is affine in z and in the noise: its mean and its mean product with z follow from two evaluations at
each noise level r, and the mean over r from Gauss-Legendre nodes. With w(r) = r^2 / ((1 - r)^2 v + r^2), the share of itself that a prediction forgets:

    matching            (a, b) = (sqrt v, mu_c)
    and guidance s      b = mu_c + (s - 1) (mu_c - mu_u) E_CA[w] / E_DM[w]
    weights of sum C    b = C mu E[w] / (1 - C E[1 - w])
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ernie_core.flow.path import interpolate, per_sample
from ernie_core.sampling.samplers import euler
from ernie_core.sampling.schedule import inference_sigmas
from ernie_distill import losses
from ernie_distill.losses import GuidanceTerm, MatchTerm
from ernie_distill.samplers import renoise

OURS = SimpleNamespace(direction=losses.direction, surrogate=losses.surrogate)
TOLERANCE = 1e-2
VARIANCE = 0.25
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(64))
U, U_WEIGHTS = (NODES + 1) / 2, WEIGHTS / 2  # on [0, 1]
FULL = (0.0, 1.0)


@dataclass(frozen=True)
class Normal:
    """A score model of N(mean, std^2)."""

    mean: float
    std: float

    def predict(self, x_r, r_B):
        """E[x0 | x_r]."""
        r = per_sample(r_B, x_r)
        kept = (1 - r) * self.std**2 / ((1 - r) ** 2 * self.std**2 + r**2)
        return self.mean + kept * (x_r - (1 - r) * self.mean)


@dataclass(frozen=True)
class Problem:
    """What a student is trained on. ``gate_sum``: of the teachers' weights in matching. ``normaliser`` none: others weigh noise levels anew."""

    match: bool = True
    guidance_scale: float | None = None
    match_range: tuple[float, float] = FULL
    guidance_range: tuple[float, float] = FULL
    gate_sum: float = 1.0
    cond: Normal = Normal(1.0, math.sqrt(VARIANCE))
    uncond: Normal = Normal(0.0, math.sqrt(VARIANCE))

    def direction(self, maths, x0_B1, student, u_B, noise_B1, second_u_B, second_noise_B1):
        """g [B, 1] for samples of the student. The guidance term has its own noise level and noise."""
        match = guidance = None
        if self.match:
            r_B = self.match_range[0] + (self.match_range[1] - self.match_range[0]) * u_B
            x_r = interpolate(x0_B1, noise_B1, r_B)
            match = MatchTerm(self.gate_sum * self.cond.predict(x_r, r_B), student.predict(x_r, r_B))
        if self.guidance_scale is not None:
            r_B = self.guidance_range[0] + (self.guidance_range[1] - self.guidance_range[0]) * second_u_B
            x_r = interpolate(x0_B1, second_noise_B1, r_B)
            guidance = GuidanceTerm(self.cond.predict(x_r, r_B), self.uncond.predict(x_r, r_B), self.guidance_scale)
        return maths.direction(x0_B1, match, guidance, normaliser="none").g


def flow(problem, b, a, maths=OURS):
    """Mean of g, and of g z: how b and a move, exactly."""
    still = torch.zeros(len(U), 1, dtype=torch.float64)

    def at(z):
        return problem.direction(maths, still + b + a * z, Normal(b, a), U, still, U, still).flatten()

    constant, slope = at(0.0), at(1.0) - at(0.0)
    return float(U_WEIGHTS @ constant), float(U_WEIGHTS @ slope)


def fixed_point(problem, maths=OURS, *, b=0.2, a=0.9, steps=4000):
    """Where the exact flow comes to rest; infinite where it does not."""
    for _ in range(steps):
        db, da = flow(problem, b, a, maths)
        b, a = b + db, a + da
        if max(abs(db), abs(da)) < 1e-9:
            return b, a
        if not max(abs(b), abs(a)) < 1e6:
            break
    return math.inf, math.inf


def descended(problem, maths=OURS, *, b=0.2, a=0.9, steps=600, batch=256, learning_rate=0.5):
    """The same by gradient descent on samples, through the surrogate: mean of (b, a) over the second half."""
    draw = np.random.Generator(np.random.Philox(7))
    b, a = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (b, a))
    seen = []

    def pairs():
        """Each draw with its mirror image, whose odd errors cancel."""
        half = torch.from_numpy(draw.standard_normal((batch // 2, 1)))
        return torch.cat([half, -half])

    def levels():
        u = (torch.arange(batch // 2) + float(draw.random())) / (batch // 2)
        return u[torch.from_numpy(draw.permutation(batch // 2))].double().repeat(2)

    for step in range(steps):
        x0_B1 = b + a * pairs()
        with torch.no_grad():
            g = problem.direction(maths, x0_B1, Normal(float(b), float(a)), levels(), pairs(), levels(), pairs())
        gradients = torch.autograd.grad(maths.surrogate(x0_B1, g).mean(), (b, a))
        with torch.no_grad():
            for value, gradient in zip((b, a), gradients):
                value -= learning_rate * gradient
        if step >= steps // 2:
            seen.append((float(b.detach()), float(a.detach())))
    return tuple(np.mean(seen, 0))


def mean_w(low=0.0, high=1.0, v=VARIANCE):
    r = low + (high - low) * U
    return float(U_WEIGHTS @ (r**2 / ((1 - r) ** 2 * v + r**2)))


def near(found, expected):
    assert found == pytest.approx(expected, abs=TOLERANCE)


# ---- the checks, as functions of the mathematics, so that wrong mathematics can be seen to fail them ----


def check_matching_alone(maths):
    b, a = fixed_point(Problem(), maths)
    near(b, 1.0)
    near(a, 0.5)


def check_coupled_guidance(maths):
    near(fixed_point(Problem(guidance_scale=4.0), maths)[0], 4.001)


def check_decoupled_guidance(maths, limit=0.5, expected=2.582):
    near(fixed_point(Problem(guidance_scale=4.0, guidance_range=(0.0, limit)), maths)[0], expected)


def check_dmd2(maths):
    """Section 3 of DMD2 with guidance, written anew: the gradient of its loss by the sample, and ours."""
    for scale in (1.5, 4.0, 7.5):
        x0, cond, uncond, fake = torch.randn(4, 6, 3, 4, 5, generator=torch.Generator().manual_seed(int(scale)))
        guided = uncond + scale * (cond - uncond)
        p_real, p_fake = x0 - guided, x0 - fake
        theirs = (p_real - p_fake) / p_real.abs().mean(dim=(1, 2, 3), keepdim=True)
        leaf = x0.clone().requires_grad_()
        (0.5 * torch.nn.functional.mse_loss(leaf, (leaf - theirs).detach())).backward()
        ours = x0.clone().requires_grad_()
        found = maths.direction(x0, MatchTerm(cond, fake), GuidanceTerm(cond, uncond, scale), normaliser="shared-cfg")
        maths.surrogate(ours, found.g).mean().backward()
        torch.testing.assert_close(found.g, -theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))
        torch.testing.assert_close(ours.grad * x0.numel(), leaf.grad * x0.numel(), rtol=1e-6, atol=2e-6 * float(theirs.abs().max()))


def check_samples_stand_alone(maths):
    for normaliser in ("shared-cfg", "per-term", "none"):
        x0, cond, uncond, fake, changed = torch.randn(5, 4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
        before = maths.direction(x0, MatchTerm(cond, fake), GuidanceTerm(cond, uncond, 3.0), normaliser=normaliser).g
        x0[2], cond[2] = 10 * changed[0], changed[1]
        after = maths.direction(x0, MatchTerm(cond, fake), GuidanceTerm(cond, uncond, 3.0), normaliser=normaliser).g
        others = [0, 1, 3]
        assert torch.equal(before[others], after[others])
        assert not torch.equal(before[2], after[2])


def check_surrogate_gradient(maths):
    """Even when g hangs on the sample, by mistake: nothing flows through it."""
    x0 = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    g = torch.sin(3 * x0)
    loss_B = maths.surrogate(x0, g)
    assert loss_B.shape == (3,)
    loss_B.sum().backward()
    assert torch.equal(x0.grad, -g.detach() / 32)  # exactly: 32 elements of a sample
    torch.testing.assert_close(loss_B.detach(), g.detach().square().flatten(1).mean(1) / 2, rtol=1e-6, atol=0)


CHECKS = (
    check_matching_alone,
    check_coupled_guidance,
    check_decoupled_guidance,
    check_dmd2,
    check_samples_stand_alone,
    check_surrogate_gradient,
)


@pytest.mark.parametrize("check", CHECKS)
def test_ours_pass(check):
    check(OURS)


# ---- T1 to T6: fixed points ----


def test_1_matching_alone_finds_the_teachers_mean_and_deviation_by_descent_too():
    b, a = descended(Problem())
    near(b, 1.0)
    near(a, 0.5)


def test_2_guidance_alone_moves_the_mean_on_and_on_and_leaves_the_deviation():
    problem = Problem(match=False, guidance_scale=4.0)
    for b in (0.0, 1.0, 4.0, 100.0):
        db, da = flow(problem, b, 0.9)
        assert db == pytest.approx(3.0 * mean_w(), abs=1e-9)  # as fast wherever it is
        assert da == pytest.approx(0.0, abs=1e-9)
    b, a = descended(problem, steps=400)
    assert b == pytest.approx(0.2 + 0.5 * 3.0 * mean_w() * 300.5, rel=1e-3)  # the mean of steps 201 to 400, each of equal length
    assert a == pytest.approx(0.9, abs=0.1)
    assert fixed_point(problem, steps=300) == (math.inf, math.inf)


def test_3_coupled_guidance_overshoots_to_the_guided_mean():
    problem = Problem(guidance_scale=4.0)
    near(descended(problem)[0], 4.001)
    near(fixed_point(problem)[1], 0.5)


@pytest.mark.parametrize(("limit", "expected"), [(0.25, 1.477), (0.5, 2.582), (0.75, 3.461)])
def test_4_guidance_at_low_noise_overshoots_less(limit, expected):
    assert 1 + 3 * mean_w(0.0, limit) / mean_w() == pytest.approx(expected, abs=1e-3)  # the formula gives the table
    check_decoupled_guidance(OURS, limit, expected)
    b, a = descended(Problem(guidance_scale=4.0, guidance_range=(0.0, limit)))
    near(b, expected)
    near(a, 0.5)


@pytest.mark.parametrize("limit", [0.25, 0.5, 0.75])
def test_5_both_terms_at_low_noise_are_as_bad_as_coupled_ones(limit):
    problem = Problem(guidance_scale=4.0, match_range=(0.0, limit), guidance_range=(0.0, limit))
    near(fixed_point(problem)[0], 4.001)
    if limit == 0.75:  # lower limits take longer to descend to the same place
        near(descended(problem, learning_rate=1.0)[0], 4.001)


@pytest.mark.parametrize(("gate_sum", "expected"), [(0.8, 0.721), (0.9, 0.853), (1.0, 1.0), (1.1, 1.164), (1.6, 2.388)])
def test_6_weights_that_do_not_sum_to_one_scale_the_mean(gate_sum, expected):
    assert mean_w() == pytest.approx(0.645, abs=1e-3)
    assert gate_sum * mean_w() / (1 - gate_sum * (1 - mean_w())) == pytest.approx(expected, abs=3e-3)
    problem = Problem(gate_sum=gate_sum)
    near(fixed_point(problem)[0], expected)
    near(descended(problem)[0], expected)


def test_6_weights_beyond_the_limit_diverge():
    limit = 1 / (1 - mean_w())
    b, _ = fixed_point(Problem(gate_sum=limit - 0.3))
    assert b == pytest.approx((limit - 0.3) * mean_w() / (1 - (limit - 0.3) * (1 - mean_w())), rel=1e-3)
    assert fixed_point(Problem(gate_sum=limit + 0.3)) == (math.inf, math.inf)
    assert descended(Problem(gate_sum=limit + 0.3), steps=400)[0] > 1e3


# ---- T8: the sampler that a student was trained with ----


class StepwiseStudent:
    """Zero-mean data N(0, v): at each noise level the clean sample is the state times a gain."""

    def __init__(self, sigmas, gains):
        self.gains = dict(zip(sigmas, gains))

    def velocity(self, x, sigma):
        return (x - self.gains[sigma] * x) / sigma


def spread(sampler, student, sigmas, *, levels=None):
    """Exact deviation of what a linear student gives: independent standard normals are axes, and a state is its coordinates along them."""
    axes = torch.eye(len(sigmas), dtype=torch.float64)
    on_step = None if levels is None else (lambda i, sigma, x: levels.append(float(x.norm())))
    return float(sampler(student.velocity, axes[:1], sigmas, noise_fn=lambda i: axes[i + 1 : i + 2], on_step=on_step).norm())


def best_student(sampler, sigmas, v):
    """The one whose every step returns whole samples, N(0, v), from where the rollout brings it: the fixed point of test 1, step by step."""
    gains = []
    for i in range(len(sigmas) - 1):
        levels = []
        spread(sampler, StepwiseStudent(sigmas, gains), sigmas[: i + 1], levels=levels)
        gains.append(math.sqrt(v) / (levels[-1] if levels else 1.0))
    return StepwiseStudent(sigmas, gains)


@pytest.mark.parametrize(
    ("steps", "v", "over", "under"), [(8, 1.0, 1.76, 0.52), (8, 0.25, 1.65, 0.60), (2, 1.0, 1.27, 0.79), (2, 0.25, 1.15, 0.87)]
)
def test_8_a_student_is_right_in_its_own_sampler_and_only_there(steps, v, over, under):
    sigmas = inference_sigmas(steps, 3.0)
    by_renoising, by_euler = best_student(renoise, sigmas, v), best_student(euler, sigmas, v)
    true = math.sqrt(v)
    assert spread(renoise, by_renoising, sigmas) == pytest.approx(true, rel=1e-6)
    assert spread(euler, by_euler, sigmas) == pytest.approx(true, rel=1e-6)
    near(spread(euler, by_renoising, sigmas) / true, over)
    near(spread(renoise, by_euler, sigmas) / true, under)


def test_8_gains_in_closed_form():
    sigmas = inference_sigmas(8, 3.0)
    for sigma, gain in best_student(renoise, sigmas, 0.25).gains.items():
        assert gain == pytest.approx(0.5 / math.hypot(0.5 * (1 - sigma), sigma), rel=1e-6)
    deviation = 1.0
    for (sigma, after), gain in zip(pairwise(sigmas), best_student(euler, sigmas, 0.25).gains.values()):
        assert gain == pytest.approx(0.5 / deviation, rel=1e-6)
        deviation = after / sigma * deviation + (1 - after / sigma) * 0.5


def test_8_another_shift_in_training_is_another_student():
    trained, deployed = inference_sigmas(8, 1.0), inference_sigmas(8, 3.0)
    student = StepwiseStudent(deployed, best_student(euler, trained, 0.25).gains.values())
    assert abs(spread(euler, student, deployed) / 0.5 - 1) > 0.02


@pytest.mark.parametrize(("sampler", "other", "ratio"), [(renoise, euler, 1.265), (euler, renoise, 0.791)])
def test_8_descent_through_the_surrogate_in_a_rollout_finds_that_student(sampler, other, ratio):
    """Two steps, data N(0, 1), gains from .3; the rollout is the sampler itself, cut where the student is trained."""
    sigmas, draw = inference_sigmas(2, 3.0), np.random.Generator(np.random.Philox(3))
    gains = [torch.tensor(0.3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    teacher = Normal(0.0, 1.0)

    def normal():
        half = torch.from_numpy(draw.standard_normal((512, 1)))
        return torch.cat([half, -half]) / half.square().mean().sqrt()

    for step in range(400):
        i = step % 2
        student = StepwiseStudent(sigmas, [float(gain.detach()) for gain in gains])
        with torch.no_grad():
            x_B1 = sampler(student.velocity, normal(), sigmas[: i + 1], noise_fn=lambda _: normal())
        x0_B1 = gains[i] * x_B1
        with torch.no_grad():
            r_B = torch.from_numpy(draw.random(1024))
            x_r = interpolate(x0_B1, normal(), r_B)
            fake = Normal(0.0, float(x0_B1.std()))
            g = losses.direction(x0_B1, MatchTerm(teacher.predict(x_r, r_B), fake.predict(x_r, r_B)), None, normaliser="none").g
        (gradient,) = torch.autograd.grad(losses.surrogate(x0_B1, g).mean(), gains[i])
        with torch.no_grad():
            gains[i] -= 1.0 * gradient
    found = StepwiseStudent(sigmas, [float(gain.detach()) for gain in gains])
    near(spread(sampler, found, sigmas), 1.0)
    assert spread(other, found, sigmas) == pytest.approx(ratio, abs=2 * TOLERANCE)


# ---- weights of guidance are strengths ----


@pytest.mark.parametrize("normaliser", ["shared-cfg", "per-term", "none"])
def test_guidance_of_no_weight_leaves_matching_alone(normaliser):
    """Also at places: a sum of 0 is no picture, and no distance is measured to it."""
    x0, cond, uncond, fake = torch.randn(4, 4, 2, 3, 3, generator=torch.Generator().manual_seed(7))
    alone = losses.direction(x0, MatchTerm(cond, fake), None, normaliser="none" if normaliser == "none" else "per-term").g
    nothing = GuidanceTerm(torch.zeros_like(x0), torch.zeros_like(x0), 4.0, torch.zeros(4, 1, 1, 1))
    torch.testing.assert_close(losses.direction(x0, MatchTerm(cond, fake), nothing, normaliser=normaliser).g, alone)
    half = torch.tensor([0.0, 1.0, 0.0]).expand(4, 1, 3, 3)
    there = losses.direction(x0, None, GuidanceTerm(cond * half, uncond * half, 4.0, half), normaliser="per-term")
    column = losses.direction(x0[..., 1:2], None, GuidanceTerm(cond[..., 1:2], uncond[..., 1:2], 4.0), normaliser="per-term")
    torch.testing.assert_close(there.g[..., 1:2], column.g)
    assert there.g[..., ::2].abs().max() == 0


@pytest.mark.parametrize("normaliser", ["shared-cfg", "per-term", "none"])
def test_a_sum_of_one_is_a_mean(normaliser):
    x0, cond, uncond, fake = torch.randn(4, 4, 2, 3, 3, generator=torch.Generator().manual_seed(8))
    plain, told = (
        losses.direction(x0, MatchTerm(cond, fake), GuidanceTerm(cond, uncond, 4.0, total), normaliser=normaliser).g
        for total in (None, torch.ones(4, 1, 1, 1))
    )
    torch.testing.assert_close(told, plain)


# ---- T9: nothing to learn ----


@pytest.mark.parametrize("normaliser", ["shared-cfg", "per-term", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_9_equal_scores_without_guidance_move_nothing_bitwise(normaliser, dtype):
    x0, cond, uncond = torch.randn(3, 4, 2, 3, 3, generator=torch.Generator().manual_seed(4), dtype=dtype)
    guidance = GuidanceTerm(cond, uncond, 1.0)
    assert torch.equal(losses.direction(x0, MatchTerm(cond, cond.clone()), guidance, normaliser=normaliser).g, torch.zeros_like(x0))
    if normaliser != "shared-cfg":
        assert torch.equal(losses.direction(x0, MatchTerm(cond, cond.clone()), None, normaliser=normaliser).g, torch.zeros_like(x0))
    leaf = x0.clone().requires_grad_()
    losses.surrogate(leaf, torch.zeros_like(x0)).sum().backward()
    assert torch.equal(leaf.grad, torch.zeros_like(x0))


# ---- wrong mathematics is caught ----


def mixed(x0, match, guidance, *, normaliser, match_sign=1.0, scale_shift=-1.0, n=None):
    """``direction`` written once more, with places to be wrong in. As ``losses.direction`` where nothing is changed."""
    g = torch.zeros_like(x0)
    one = torch.ones(len(x0), dtype=x0.dtype)

    def norm(prediction):
        return (x0 - prediction).abs().flatten(1).mean(1) + losses.TINY

    n = (
        n
        or {"none": lambda *_: one, "per-term": lambda x0, p, guided: norm(p), "shared-cfg": lambda x0, p, guided: norm(guided)}[normaliser]
    )
    guided = None
    if guidance is not None:
        difference = guidance.real_cond - guidance.real_uncond
        guided = guidance.real_uncond + guidance.guidance_scale * difference
        g = g + (guidance.guidance_scale + scale_shift) * difference / per_sample(n(x0, guidance.real_cond, guided), x0)
    if match is not None:
        g = g + match_sign * (match.real_cond - match.fake_cond) / per_sample(n(x0, match.real_cond, guided), x0)
    return SimpleNamespace(g=g)


def changed(**options):
    def direction(x0, match, guidance, *, normaliser):
        return mixed(x0, match, guidance, normaliser=normaliser, **options)

    return SimpleNamespace(direction=direction, surrogate=losses.surrogate)


def batch_wide(x0, match, guidance, *, normaliser):
    """FastVideo's: one mean over the batch."""
    found = losses.direction(x0, match, guidance, normaliser="none").g
    return SimpleNamespace(g=found if normaliser == "none" else found / (x0 - match.real_cond).abs().mean())


def in_bfloat16(x0, match, guidance, *, normaliser):
    match = match and MatchTerm(match.real_cond.bfloat16(), match.fake_cond.bfloat16())
    return losses.direction(x0, match, guidance, normaliser=normaliser)


WRONG = {
    "the sign of matching": (changed(match_sign=-1.0), check_matching_alone),
    "a where a - 1 belongs": (changed(scale_shift=0.0), check_coupled_guidance),
    "the normaliser of the conditional prediction": (changed(n=lambda x0, p, guided: losses.mean_distance(x0, p)), check_dmd2),
    "a normaliser over the batch": (SimpleNamespace(direction=batch_wide, surrogate=losses.surrogate), check_samples_stand_alone),
    "a subtraction in bfloat16": (SimpleNamespace(direction=in_bfloat16, surrogate=losses.surrogate), check_dmd2),
    "a gradient through g": (
        SimpleNamespace(direction=losses.direction, surrogate=lambda x0, g: (0.5 * (x0 - (x0.detach() + g)).square()).flatten(1).mean(1)),
        check_surrogate_gradient,
    ),
    "a sum where the mean belongs": (
        SimpleNamespace(direction=losses.direction, surrogate=lambda x0, g: (-g.detach() * x0).flatten(1).sum(1)),
        check_surrogate_gradient,
    ),
    "the surrogate's sign": (
        SimpleNamespace(direction=losses.direction, surrogate=lambda x0, g: -losses.surrogate(x0, g)),
        check_surrogate_gradient,
    ),
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_copy_that_is_changed_below_is_right_unchanged(check):
    check(changed())


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_formula_is_caught(name):
    maths, check = WRONG[name]
    with pytest.raises(AssertionError):
        check(maths)


def test_guidance_above_the_students_noise_level_is_caught():
    """Decoupled DMD counts time from noise to data; its tau > t taken literally is this."""
    b, _ = fixed_point(Problem(guidance_scale=4.0, guidance_range=(0.5, 1.0)))
    assert b > 5
    with pytest.raises(AssertionError):
        near(b, 2.582)


def test_a_fake_score_that_is_guided_is_caught():
    """Guidance on both sides cancels, and the student stays the unguided teacher's."""
    problem = Problem(guidance_scale=4.0)

    def direction(x0, match, guidance, *, normaliser):
        drift = (guidance.guidance_scale - 1) * (guidance.real_cond - guidance.real_uncond)  # the fake's own, once it is near the teacher
        return losses.direction(x0, MatchTerm(match.real_cond, match.fake_cond + drift), guidance, normaliser=normaliser)

    wrong = SimpleNamespace(direction=direction, surrogate=losses.surrogate)
    near(fixed_point(problem, wrong)[0], 1.0)
    with pytest.raises(AssertionError):
        check_coupled_guidance(wrong)
