"""Which distillation of a guided teacher to a few steps works in the plane: matching, guidance, both; one teacher, two that each know half.

An arm starts student and fake score from the teacher (from the network that has learned both halves, where teachers are partial) and runs the loop of the
method ``mt-dmd``: a warm-up of the fake score, then periods of five updates of it and one of the student, all on one rollout with the sampler that is deployed.
A sample's step is drawn for itself (DMDR), so that a batch covers all steps. All arms of a seed see the same labels, noises and noise levels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ernie_core.api import Config, Fraction, Positive, PositiveInt
from ernie_core.flow.path import interpolate, per_sample, velocity_target, x0_from_velocity
from ernie_core.plane.velocity import PlaneVelocity
from ernie_core.rng import Rng
from ernie_core.sampling.samplers import VelocityFn, euler
from ernie_core.sampling.schedule import inference_sigmas
from ernie_distill.losses import GuidanceTerm, MatchTerm, Normaliser, direction, fake_score_loss, surrogate
from ernie_distill.plane.mixture import (
    MODES,
    STD,
    Quality,
    TeacherConfig,
    judge,
    labelled_velocity,
    mean_of_weights,
    modes,
    normal,
    start_noise,
    train_teacher,
    uniform,
)
from ernie_distill.samplers import renoise

SamplerName = Literal["euler", "renoise"]
SAMPLERS = {"euler": euler, "renoise": renoise}
SHIFT = 3.0
TEACHER_STEPS = 50


class DistilConfig(Config):
    """Sizes of the experiment; the defaults are the published table's."""

    teacher: TeacherConfig = TeacherConfig()
    marks: tuple[PositiveInt, ...] = (100, 300)
    """Updates of the student at which it is measured; the last ends it."""
    fake_steps: PositiveInt = 5
    fake_warmup_steps: PositiveInt = 100
    guidance_scale: Positive = 4.0
    learning_rate: Positive = 5e-4
    fake_learning_rate: Positive = 1e-3
    ema_decay: Fraction = 0.98
    match_range: tuple[Fraction, Fraction] = (0.02, 0.98)
    batch: PositiveInt = 128
    samples: PositiveInt = 3200


@dataclass(frozen=True)
class Arm:
    """``teachers``: "whole" has learned the points; "x" and "y" one half each; "gated" takes each coordinate from the one that knows it; "predictions" and
    "weights" are the plain means of both. ``normaliser`` follows ``losses.direction``."""

    name: str
    teachers: str = "whole"
    match: bool = True
    guidance: bool = True
    coupled: bool = False
    steps: int = 8
    rollout: SamplerName = "euler"

    @property
    def normaliser(self) -> Normaliser:
        return "shared-cfg" if self.coupled else "per-term"


ARMS = (
    *(Arm(f"DM, {n} steps", guidance=False, steps=n) for n in (8, 4, 2)),
    *(Arm(f"DM + CA, {n} steps", steps=n) for n in (8, 4, 2)),
    Arm("CA alone", match=False),
    Arm("DM + CA coupled (DMD2)", coupled=True),
    Arm("DM + CA, re-noising", rollout="renoise"),
    Arm("teacher of x", teachers="x"),
    Arm("teacher of y", teachers="y"),
    Arm("x and y, gates", teachers="gated"),
    Arm("x and y, mean of predictions", teachers="predictions"),
    Arm("x and y, mean of weights", teachers="weights"),
)


@dataclass(frozen=True)
class Measure(Quality):
    """One arm of one seed after ``update`` updates of the student (0: no training), sampled with ``sampler`` in ``steps`` steps."""

    seed: int
    arm: str
    update: int
    steps: int
    sampler: str


@dataclass(frozen=True)
class Committee:
    """Teachers with one weight per coordinate, the same for both objectives; the weights sum to 1.

    ``start``: what student and fake score start from.
    """

    networks: tuple[PlaneVelocity, ...]
    gates_K2: Tensor
    start: PlaneVelocity

    def x0(self, x_B2: Tensor, sigma_B: Tensor, label_B: Tensor) -> Tensor:
        """The committee's clean prediction, of the mixed predictions of its members."""
        parts = zip(self.gates_K2, self.networks)
        return torch.stack([gate_2 * x0_from_velocity(x_B2, one(x_B2, sigma_B, label_B), sigma_B) for gate_2, one in parts]).sum(0)

    def guided(self, label_B: Tensor, scale: float) -> VelocityFn:
        """What the teacher's own pictures are sampled with."""

        def velocity_fn(x_B2: Tensor, sigma: float) -> Tensor:
            sigma_B = torch.full((len(x_B2),), sigma)
            cond, uncond = self.x0(x_B2, sigma_B, label_B), self.x0(x_B2, sigma_B, torch.full_like(label_B, self.start.no_label))
            return (x_B2 - uncond - scale * (cond - uncond)) / sigma

        return velocity_fn


def committees(seed: int, config: DistilConfig, names: Sequence[str]) -> dict[str, Committee]:
    """The teachers that arms ask for; partial ones are trained only if one does."""
    found, even = {}, torch.ones(1, 2)
    if "whole" in names:
        whole = train_teacher(seed, config.teacher)
        found["whole"] = Committee((whole,), even, whole)
    if set(names) - {"whole"}:
        start = train_teacher(seed, config.teacher, right="either")
        x, y = (train_teacher(seed, config.teacher, right=right, start=start) for right in ("x", "y"))
        found["x"], found["y"] = Committee((x,), even, start), Committee((y,), even, start)
        found["gated"] = Committee((x, y), torch.eye(2), start)
        found["predictions"] = Committee((x, y), torch.full((2, 2), 0.5), start)
        found["weights"] = Committee((mean_of_weights([x, y]),), even, start)
    return found


def run_seed(seed: int, config: DistilConfig, chosen: Sequence[Arm] = ARMS) -> tuple[list[Measure], dict[tuple[str, str], Tensor]]:
    """All arms of one seed.

    Returns:
        the measures, those of untrained networks first, and samples by (name, sampler and update), for pictures.
    """
    label_N = torch.arange(config.samples) % MODES
    measures, points = [], {}
    found = committees(seed, config, [arm.teachers for arm in chosen])
    taught = {name: _sampled(c.guided(label_N, config.guidance_scale), seed, TEACHER_STEPS, "euler", config) for name, c in found.items()}
    data_N2 = _data(seed, label_N)

    def measured(name: str, x_N2: Tensor, teachers: str, update: int, steps: int, sampler: str) -> None:
        quality = judge(x_N2, label_N, data_B2=data_N2, teacher_B2=taught[teachers])
        measures.append(Measure(**asdict(quality), seed=seed, arm=name, update=update, steps=steps, sampler=sampler))
        points[name, f"{sampler}, {update}"] = x_N2

    for name in found:
        measured(f"guided teacher: {name}", taught[name], name, 0, TEACHER_STEPS, "euler")
    for steps in sorted({arm.steps for arm in chosen if arm.teachers == "whole"}, reverse=True):
        plain = labelled_velocity(found["whole"].start, label_N)
        measured(f"undistilled, {steps} steps", _sampled(plain, seed, steps, "euler", config), "whole", 0, steps, "euler")
    for arm in chosen:
        for update, student in distil(found[arm.teachers], arm, seed, config):
            for sampler in SAMPLERS if update == max(config.marks) else (arm.rollout,):
                x_N2 = _sampled(labelled_velocity(student, label_N), seed, arm.steps, sampler, config)
                measured(arm.name, x_N2, arm.teachers, update, arm.steps, sampler)
    return measures, points


def distil(committee: Committee, arm: Arm, seed: int, config: DistilConfig) -> Iterator[tuple[int, PlaneVelocity]]:
    """The student's moving average at each of the config's marks."""
    student, fake, average = (copy.deepcopy(committee.start).requires_grad_(trained) for trained in (True, True, False))
    adam = torch.optim.Adam(student.parameters(), lr=config.learning_rate, betas=(0.0, 0.99), fused=True)
    fake_adam = torch.optim.Adam(fake.parameters(), lr=config.fake_learning_rate, betas=(0.0, 0.99), fused=True)
    turns = _Turns(arm, seed, config)
    for step in range(config.fake_warmup_steps):
        _step(
            fake_adam,
            turns.fake_loss(student, fake, turns.states(student, -1 - step // config.fake_steps), step - config.fake_warmup_steps),
        )
    for update in range(max(config.marks)):
        states = turns.states(student, update)
        for turn in range(config.fake_steps):
            _step(fake_adam, turns.fake_loss(student, fake, states, config.fake_steps * update + turn))
        _step(adam, turns.student_loss(student, fake, committee, states, update))
        torch._foreach_lerp_(list(average.parameters()), list(student.parameters()), 1 - config.ema_decay)
        if update + 1 in config.marks:
            yield update + 1, average


@dataclass(frozen=True)
class States:
    """A rollout: where the samples are at each of the student's noise levels, [steps, B, 2]."""

    x_SB2: Tensor
    label_B: Tensor

    def at(self, step_B: Tensor) -> Tensor:
        return self.x_SB2[step_B, torch.arange(len(step_B))]


class _Turns:
    """The losses of both turns, with the draws they need."""

    def __init__(self, arm: Arm, seed: int, config: DistilConfig) -> None:
        self.arm, self.config, self.rng = arm, config, Rng(seed)
        self.sigmas = inference_sigmas(arm.steps, SHIFT)
        self.levels_S = torch.tensor(self.sigmas[:-1])

    @torch.no_grad()
    def states(self, student: PlaneVelocity, period: int) -> States:
        draw = self._draw("rollout", period)
        label_B = torch.from_numpy(draw.integers(MODES, size=self.config.batch))
        reached = [normal(draw, self.config.batch)]
        noises_SB2 = [normal(draw, self.config.batch) for _ in self.sigmas]
        SAMPLERS[self.arm.rollout](
            labelled_velocity(student, label_B),
            reached[0],
            self.sigmas[:-1],
            noise_fn=noises_SB2.__getitem__,
            on_step=lambda i, sigma, x: reached.append(x),
        )
        return States(torch.stack(reached), label_B)

    def fake_loss(self, student: PlaneVelocity, fake: PlaneVelocity, states: States, step: int) -> Tensor:
        draw = self._draw("fake", step)
        with torch.no_grad():
            x0_B2 = self._clean(student, states, draw)
        noise_B2, sigma_B = normal(draw, len(x0_B2)), uniform(draw, len(x0_B2))
        velocity = fake(interpolate(x0_B2, noise_B2, sigma_B), sigma_B, states.label_B)
        return fake_score_loss(velocity, velocity_target(x0_B2, noise_B2), sigma_B).mean()

    def student_loss(self, student: PlaneVelocity, fake: PlaneVelocity, committee: Committee, states: States, update: int) -> Tensor:
        draw, arm = self._draw("student", update), self.arm
        step_B = self._step_of(states, draw)
        x0_B2 = self._clean(student, states, draw, step_B)
        with torch.no_grad():
            sample_B2 = x0_B2.detach()
            low, high = self.config.match_range
            r_B = low + (high - low) * uniform(draw, len(sample_B2))
            noise_B2 = normal(draw, len(sample_B2))
            match = guidance = None
            if arm.match:
                x_r = interpolate(sample_B2, noise_B2, r_B)
                fake_x0 = x0_from_velocity(x_r, fake(x_r, r_B, states.label_B), r_B)
                match = MatchTerm(committee.x0(x_r, r_B, states.label_B), fake_x0)
            if arm.guidance:
                if not arm.coupled:
                    r_B, noise_B2 = self.levels_S[step_B] * uniform(draw, len(sample_B2)), normal(draw, len(sample_B2))
                x_r = interpolate(sample_B2, noise_B2, r_B)
                unlabelled_B = torch.full_like(states.label_B, committee.start.no_label)
                both = committee.x0(x_r, r_B, states.label_B), committee.x0(x_r, r_B, unlabelled_B)
                guidance = GuidanceTerm(*both, self.config.guidance_scale)
            g = direction(sample_B2, match, guidance, normaliser=arm.normaliser).g
        return surrogate(x0_B2, g).mean()

    def _clean(self, student: PlaneVelocity, states: States, draw: np.random.Generator, step_B: Tensor | None = None) -> Tensor:
        step_B = self._step_of(states, draw) if step_B is None else step_B
        x_B2, sigma_B = states.at(step_B), self.levels_S[step_B]
        return x_B2 - per_sample(sigma_B, x_B2) * student(x_B2, sigma_B, states.label_B)

    def _step_of(self, states: States, draw: np.random.Generator) -> Tensor:
        return torch.from_numpy(draw.integers(self.arm.steps, size=len(states.label_B)))

    def _draw(self, stream: str, step: int) -> np.random.Generator:
        return self.rng.at(f"distill-plane/{stream}", step + 2**20).generator(0)  # warm-up steps are below 0


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _sampled(velocity_fn: VelocityFn, seed: int, steps: int, sampler: str, config: DistilConfig) -> Tensor:
    def noise_fn(i: int) -> Tensor:
        return normal(Rng(seed).at("distill-plane/fresh-noise", i).generator(0), config.samples)

    return SAMPLERS[sampler](velocity_fn, start_noise(seed, config.samples), inference_sigmas(steps, SHIFT), noise_fn=noise_fn)


def _data(seed: int, label_N: Tensor) -> Tensor:
    """True points of these labels."""
    return modes()[label_N] + STD * normal(Rng(seed).at("distill-plane/data", 0).generator(0), len(label_N))


def to_json(measure: Measure) -> dict[str, object]:
    """With null for what is not finite, which is not JSON."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in asdict(measure).items()}
