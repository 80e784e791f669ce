r"""Distillation to few steps without guidance, by distribution matching with a committee of teachers.

A period has one turn of the student after several of the fake score:

    fake      x0 of the student at one of its steps, renoised to a fresh level: flow loss of the fake score, with the prompt
    student   x0 at one of its steps, with gradient; teachers and fake score say where it should move (``losses.direction``); ``losses.surrogate`` moves it

The student comes to its step by the sampler that users draw with, over the same noise levels (``rollout``). With one teacher, ``coupled`` terms and the shared
normaliser this is DMD2 without its adversarial term; with terms at levels of their own, decoupled DMD; with several teachers under a gate, MT-DMD.

Source: ERNIE-Image report (arXiv 2605.25347); DMD2 (arXiv 2405.14867); Decoupled DMD (arXiv 2511.22677); DMDR (arXiv 2511.13649).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ernie_core.api import (
    ConfigError,
    FixedSampling,
    GateContext,
    Identified,
    Metrics,
    Network,
    Part,
    RunFolderError,
    ScorerContext,
    Turn,
    WeightsError,
)
from ernie_core.flow.entries import TokenShiftConfig
from ernie_core.flow.matching import FlowMatching
from ernie_core.flow.path import interpolate, velocity_target
from ernie_core.model.fingerprint import sha256_module
from ernie_core.rng import StepRng
from ernie_core.sampling.guidance import guided_velocity
from ernie_core.sampling.samplers import euler
from ernie_core.sampling.schedule import inference_sigmas
from ernie_distill.api import Gate
from ernie_distill.denoise import velocity
from ernie_distill.gates.learned import Learned
from ernie_distill.losses import fake_score_loss, surrogate
from ernie_distill.method_config import MtDmdConfig
from ernie_distill.prompt_batch import PromptBatch, read_prompts
from ernie_distill.readings import add_direction, add_loads, add_looks, add_looks_beside
from ernie_distill.reward import Reward
from ernie_distill.roles import Roles
from ernie_distill.rollout import Rollout, Trajectory, clean
from ernie_distill.target import Targets
from ernie_distill.teachers import Committee
from ernie_distill.turns import FAKE, STUDENT, Turns

if TYPE_CHECKING:
    from ernie_core.api import MethodContext

SETTLED = 1 << 62  # updates of the student after which every schedule has ended


class MtDmd:
    """See ``ernie_core.train.method.Method`` for the meaning of each method."""

    def __init__(
        self, config: MtDmdConfig, context: MethodContext, *, roles: Roles, committee: Committee, gate: Gate, reward: Reward | None
    ) -> None:
        self._config, self._context, self._roles, self._committee = config, context, roles, committee
        self._gate, self._reward = gate, reward
        # Noise levels of renoising are the target's own business: no density, no shift.
        self._matching = FlowMatching(context, density=lambda u_B: u_B, shift=TokenShiftConfig(rule="none"))
        self._targets = Targets(config, roles=roles, committee=committee, gate=gate, matching=self._matching, dtype=context.dtype)
        self._turns = Turns(config.fake_steps, config.fake_warmup_steps)
        self._rollout = Rollout(config.steps, context.shift, config.rollout)
        self._state_dtype = torch.float32 if context.latent_dtype == "float32" else context.dtype
        self._trajectories: dict[tuple[Any, ...], Trajectory] = {}
        self._teacher_pictures: dict[tuple[Any, ...], Tensor] = {}
        self._base_sha256 = ""

    @property
    def committee(self) -> Committee:
        return self._committee

    def networks(self) -> Sequence[Network]:
        return [*self._roles.networks(), *self._committee.networks()]

    def deployed(self) -> Mapping[str, str]:
        return self._roles.deployed()

    def sampling(self) -> FixedSampling:
        return FixedSampling(self._config.steps, 1.0, self._config.rollout)

    def turn(self, step: int) -> Turn:
        return self._turns.at(step)

    def data_step(self, step: int) -> int:
        return self._turns.period_of(step) if self._config.reuse_trajectory else step

    def prepare(self, part: Part, rng: StepRng) -> PromptBatch:
        return read_prompts(part, self._matching, StepRng(rng.seed, self.data_step(rng.step)), self._config.styles or None)

    def loss(self, batch: PromptBatch, turn: Turn, rng: StepRng) -> tuple[Tensor, Metrics]:
        if not self._base_sha256:
            self._targets.check_gate(
                self._start(batch, rng).float(), batch
            )  # a wrong gate should not be known only after the fake score's warm-up
            self._base_sha256 = sha256_module(self._roles.base)
        # One draw for all samples and ranks: no rank waits for another's longer rollout.
        step = rng.at("rollout-step").integer(0, self._config.steps)
        return self._fake_loss(batch, step, rng) if turn.name == FAKE else self._student_loss(batch, step, rng)

    def after_step(self, turn: Turn, step: int) -> None:
        """
        Raises:
            WeightsError: the shared base has moved, and with it every teacher.
        """
        if turn.name == STUDENT:
            self._trajectories.clear()
        if (step + 1) % self._config.check_base_steps == 0 and sha256_module(self._roles.base) != self._base_sha256:
            raise WeightsError(
                f"step {step}: the teachers' shared base has other weights than at the start of the run (expected {self._base_sha256[:12]}...). Something "
                "wrote into it; the last checkpoint stands"
            )

    @torch.no_grad()
    def validate(self, batch: PromptBatch, rng: StepRng) -> Metrics:
        """At fixed noise: the looks of the student's pictures beside the guided generalist's, each prompt from two noises, and the size of the direction at
        the middle step (``loss``), with the schedules at their ends: comparable throughout a run."""
        metrics, rngs = Metrics(), (rng, StepRng(rng.seed, rng.step + 1))
        trajectory, other = (self._roll_all(batch, self._start(batch, one), one) for one in rngs)
        teacher = [self._guided_pictures(batch, one) for one in rngs]
        add_looks_beside(metrics, (trajectory.samples[-1], other.samples[-1]), teacher)
        step = self._config.steps // 2
        target = self._targets.at(trajectory.samples[step], batch, rng, step_sigma=self._rollout.sigmas[step], updates=SETTLED)
        metrics.add_values("loss", surrogate(trajectory.samples[step], target.direction.g))
        add_direction(metrics, target.direction, guidance_weight=self._config.guidance.weight)
        return metrics

    def velocity_fn(self, network: str, prompts: Sequence[str], *, guidance_scale: float) -> Callable[[Tensor, float], Tensor]:
        """
        Raises:
            ConfigError: guidance, or another network than the one that is deployed.
        """
        deployed = self.deployed()["transformer"]
        if network != deployed:
            raise ConfigError(f"method mt-dmd samples from `{deployed}`, not from `{network}`")
        if guidance_scale > 1:
            raise ConfigError(f"guidance {guidance_scale:g}: the student has guidance built in and is sampled without, expected 1")
        return guided_velocity(self._roles.become(STUDENT), self._matching.encode(prompts), None, 1.0)

    def state_dict(self) -> Mapping[str, Any]:
        """Turns and schedules are functions of the step; a gate may stand for more than the config says."""
        return {"gate": self._gate.identity()} if isinstance(self._gate, Identified) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            RunFolderError: the gate's files are no longer those that the run began with.
        """
        here = self.state_dict().get("gate")
        if state.get("gate", here) != here:
            raise RunFolderError(
                f"method.gate: the gate `{self._config.gate.use}` is another one than the run began with (expected {state['gate']}, found {here}): restore its "
                "files, or begin another run"
            )
        self._trajectories.clear()  # of a student that is another now

    def describe(self) -> Sequence[str]:
        config = self._config
        levels = " ".join(f"{sigma:.4g}" for sigma in self._rollout.sigmas)
        return [
            f"student: {config.steps} steps of {config.rollout} at shift {self._context.shift:g}, no guidance: {levels}",
            f"turns: {config.fake_warmup_steps} of the fake score alone, then {config.fake_steps} of it before each of the student",
            *self._committee.describe(),
            *self._gate.describe(),
        ]

    # ---- turns ----

    def _fake_loss(self, batch: PromptBatch, step: int, rng: StepRng) -> tuple[Tensor, Metrics]:
        x0_BCHW = self._sample(batch, step, rng)
        low, high = self._config.fake_sigma
        sigma_B = low + (high - low) * torch.from_numpy(rng.at("fake-sigma").stratified(batch.indices, batch.total)).float()
        noise_BCHW = self._matching.noise(rng.at("fake-noise"), batch.indices, batch.shape_CHW)
        x_BCHW = interpolate(x0_BCHW, noise_BCHW, sigma_B).to(self._context.dtype)
        v_BCHW = velocity(self._roles.become(FAKE), x_BCHW, sigma_B, batch.text)
        loss_B = fake_score_loss(v_BCHW, velocity_target(x0_BCHW, noise_BCHW), sigma_B, space=self._config.fake_space)
        metrics = Metrics()
        metrics.add_values("loss", loss_B)
        metrics.add_values("distill/fake_loss", loss_B)
        return loss_B.sum(), metrics

    def _student_loss(self, batch: PromptBatch, step: int, rng: StepRng) -> tuple[Tensor, Metrics]:
        sigma = self._rollout.sigmas[step]
        x_BCHW = self._state(batch, step, rng)
        student = guided_velocity(self._roles.become(STUDENT), batch.text, None, 1.0)
        x0_BCHW = clean(x_BCHW, student(x_BCHW, sigma), sigma)
        target = self._targets.at(x0_BCHW.detach(), batch, rng, step_sigma=sigma, updates=self._turns.student_updates(rng.step))
        loss_B, metrics = surrogate(x0_BCHW, target.direction.g), Metrics()
        if self._reward is not None:
            reward_loss_B, reward_B = self._reward.loss(x0_BCHW, batch.prompts)
            loss_B = loss_B + reward_loss_B
            metrics.add_values("distill/reward", reward_B)
        metrics.add_values("loss", loss_B)
        add_direction(metrics, target.direction, guidance_weight=self._config.guidance.weight)
        add_looks(metrics, "distill/student", x0_BCHW.detach())
        for objective, at in target.asked.items():
            add_loads(metrics, objective, self._committee.names, at, batch)
        return loss_B.sum(), metrics

    # ---- rollouts: all without gradient, keyed by the step whose prompts are taken ----

    def _sample(self, batch: PromptBatch, step: int, rng: StepRng) -> Tensor:
        """The student's clean sample at a step, float32."""
        if self._config.reuse_trajectory:
            return self._reused(batch, rng).samples[step]
        x_BCHW, sigma = self._state(batch, step, rng), self._rollout.sigmas[step]
        with self._roles.borrowed(STUDENT) as network, torch.no_grad():
            return clean(x_BCHW, self._student(network, batch)(x_BCHW, sigma), sigma)

    def _state(self, batch: PromptBatch, step: int, rng: StepRng) -> Tensor:
        """What the student meets at a step."""
        if self._config.reuse_trajectory:
            return self._reused(batch, rng).states[step]
        with self._roles.borrowed(STUDENT) as network:
            return self._rollout.state(self._student(network, batch), self._start(batch, rng), step, noise_fn=self._fresh_noise(batch, rng))

    def _reused(self, batch: PromptBatch, rng: StepRng) -> Trajectory:
        """The period's one rollout; made anew where it is not at hand, as after a kill: the student has not changed since the period began."""
        of = StepRng(rng.seed, self.data_step(rng.step))
        key = (of.step, batch.indices, batch.prompts, batch.shape_CHW)
        if key not in self._trajectories:
            self._trajectories = {k: t for k, t in self._trajectories.items() if k[0] == of.step}
            self._trajectories[key] = self._roll_all(batch, self._start(batch, of), of)
        return self._trajectories[key]

    def _roll_all(self, batch: PromptBatch, noise_BCHW: Tensor, rng: StepRng) -> Trajectory:
        with self._roles.borrowed(STUDENT) as network:
            return self._rollout.trajectory(self._student(network, batch), noise_BCHW, noise_fn=self._fresh_noise(batch, rng))

    def _student(self, network: nn.Module, batch: PromptBatch) -> Callable[[Tensor, float], Tensor]:
        """The very function that users sample with."""
        return guided_velocity(network, batch.text, None, 1.0)

    def _start(self, batch: PromptBatch, rng: StepRng) -> Tensor:
        """Start noise as the pipeline has it: drawn in the transformer's type, in the type of the sampler's state."""
        noise_BCHW = self._matching.noise(rng.at("rollout-noise"), batch.indices, batch.shape_CHW)
        return noise_BCHW.to(self._context.dtype).to(self._state_dtype)

    def _fresh_noise(self, batch: PromptBatch, rng: StepRng) -> Callable[[int], Tensor]:
        return lambda i: self._matching.noise(rng.at(f"rollout-noise-{i}"), batch.indices, batch.shape_CHW)

    def _guided_pictures(self, batch: PromptBatch, rng: StepRng) -> Tensor:
        """The generalist's, at the student's noise, float32, guided where the student learns guidance; the same at every validation of a stage, so they are made
        once."""
        key = (rng.step, batch.indices, batch.prompts, batch.shape_CHW)
        if key not in self._teacher_pictures:
            guidance = self._config.guidance
            empty, scale = (self._matching.frozen_text([""]), guidance.scale) if guidance.weight else (None, 1.0)
            with self._committee.teacher(0) as network:
                velocity_fn = guided_velocity(network, batch.text, empty, scale)
                levels = inference_sigmas(self._config.teacher_steps, self._context.shift)
                self._teacher_pictures[key] = euler(velocity_fn, self._start(batch, rng), levels).float()
        return self._teacher_pictures[key]


def build(config: MtDmdConfig, context: MethodContext) -> MtDmd:
    """
    Raises:
        ConfigError: options that contradict each other or the schedule; see also ``Committee.build`` and the gate's own.
        WeightsError: see ``Committee.build``.
    """
    lowest = Rollout(config.steps, context.shift).sigmas[-2]
    if config.guidance.weight and config.guidance.below_step and not config.coupled and config.guidance.low >= lowest:
        raise ConfigError(
            f"method.guidance.low = {config.guidance.low:g}: the student's last step is at sigma {lowest:.4g}, so that no level below it is left; lower it, or "
            "set guidance.below_step = false"
        )
    roles = Roles(config, context)
    committee = Committee.build(config, context, roles)
    gate = context.component("gates", config.gate, GateContext(committee.names, committee.domains))
    if isinstance(gate, Learned):
        gate.check_teachers(committee.hashes())
    reward = None
    if config.reward is not None:
        scorer = context.component("scorers", config.reward.scorer, ScorerContext(device=str(context.device)))
        reward = Reward(config.reward, scorer, context.codec)
    return MtDmd(config, context, roles=roles, committee=committee, gate=gate, reward=reward)
