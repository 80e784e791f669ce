"""Where a student's samples should move: teachers and fake score are asked about them, renoised with fresh noise, under the gate's weights. No gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ernie_core.flow.matching import FlowMatching
from ernie_core.flow.path import interpolate, per_sample
from ernie_core.rng import StepRng
from ernie_core.text.embeddings import TextEmbeddings, concatenate
from ernie_distill.api import OBJECTIVES, Gate, GateInputs, Objective
from ernie_distill.denoise import denoise
from ernie_distill.gates.weights import check_weights, truncate
from ernie_distill.losses import Direction, GuidanceTerm, MatchTerm, direction
from ernie_distill.method_config import MtDmdConfig
from ernie_distill.prompt_batch import PromptBatch
from ernie_distill.region import text_region
from ernie_distill.roles import Roles
from ernie_distill.teachers import Committee, mix
from ernie_distill.turns import FAKE


@dataclass(frozen=True)
class Renoised:
    """``x_BCHW`` in float32 at ``sigma_B`` (float32, CPU), and the teachers' weights there."""

    x_BCHW: Tensor
    sigma_B: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Target:
    """``direction``, and what was asked of which teacher, by objective."""

    direction: Direction
    asked: Mapping[Objective, Renoised]


class Targets:
    def __init__(
        self, config: MtDmdConfig, *, roles: Roles, committee: Committee, gate: Gate, matching: FlowMatching, dtype: torch.dtype
    ) -> None:
        self._config, self._roles, self._committee, self._gate = config, roles, committee, gate
        self._matching, self._dtype = matching, dtype
        self._empty: TextEmbeddings | None = None

    @torch.no_grad()
    def at(self, x0_BCHW: Tensor, batch: PromptBatch, rng: StepRng, *, step_sigma: float, updates: int) -> Target:
        """
        Args:
            x0_BCHW: the student's clean samples, float32, detached.
            step_sigma: the noise level of the student's step that gave them.
            updates: of the student so far, for the schedules that follow them.

        Raises:
            ConfigError: the gate's weights break their laws.
        """
        config, guided = self._config, self._config.guidance.weight > 0
        lean = real_score_lean(config, updates)
        match = self._renoised("dm", x0_BCHW, batch, rng, self._match_sigmas(batch, rng, updates))
        asked: dict[Objective, Renoised] = {"dm": match}
        if guided and config.coupled:
            asked["ca"] = Renoised(match.x_BCHW, match.sigma_B, self._weights("ca", batch, match.x_BCHW, match.sigma_B))
        elif guided:
            asked["ca"] = self._renoised("ca", x0_BCHW, batch, rng, self._guidance_sigmas(batch, rng, step_sigma))
        guidance = None
        if guided and config.coupled and not lean:
            weights = [match.weights, asked["ca"].weights, asked["ca"].weights]
            evaluate = partial(self._both_twice, match, batch)
            real, cond, uncond = mix(weights, self._committee.asked(*weights[:2]), evaluate, x0_BCHW)
            guidance = GuidanceTerm(cond, uncond, config.guidance.scale, sum_of(asked["ca"].weights, x0_BCHW))
        else:
            evaluate = partial(self._conditional, match, batch, lean)
            (real,) = mix([match.weights], self._committee.asked(match.weights), evaluate, x0_BCHW)
            if guided:
                at = asked["ca"]
                evaluate = partial(self._both, at, batch)
                cond, uncond = mix([at.weights, at.weights], self._committee.asked(at.weights), evaluate, x0_BCHW)
                guidance = GuidanceTerm(cond, uncond, config.guidance.scale, sum_of(at.weights, x0_BCHW))
        with self._roles.borrowed(FAKE) as network:
            fake = denoise(network, match.x_BCHW, match.sigma_B, batch.text, self._dtype)
        found = direction(x0_BCHW, MatchTerm(real, fake), guidance, normaliser=config.normaliser, guidance_weight=config.guidance.weight)
        return Target(found, asked)

    @torch.no_grad()
    def check_gate(self, noise_BCHW: Tensor, batch: PromptBatch) -> None:
        """
        Raises:
            ConfigError: the gate's weights break their laws on pure noise.
        """
        ones_B = torch.ones(len(batch))
        for objective in OBJECTIVES if self._config.guidance.weight > 0 else OBJECTIVES[:1]:
            self._weights(objective, batch, noise_BCHW, ones_B)

    # ---- noise levels ----

    def _match_sigmas(self, batch: PromptBatch, rng: StepRng, updates: int) -> Tensor:
        options = self._config.match
        shape = beta_shape(options.beta_start, options.beta_decay_steps, updates)
        draws = rng.at("match-sigma")
        if shape == (1.0, 1.0):
            u_B = torch.from_numpy(draws.stratified(batch.indices, batch.total)).float()
        else:
            u_B = torch.tensor([draws.generator(index).beta(*shape) for index in batch.indices], dtype=torch.float32)
        return options.low + (options.high - options.low) * u_B

    def _guidance_sigmas(self, batch: PromptBatch, rng: StepRng, step_sigma: float) -> Tensor:
        options = self._config.guidance
        high = min(options.high, step_sigma) if options.below_step else options.high
        u_B = torch.from_numpy(rng.at("guidance-sigma").stratified(batch.indices, batch.total)).float()
        return options.low + (high - options.low) * u_B

    # ---- weights ----

    def _renoised(self, objective: Objective, x0_BCHW: Tensor, batch: PromptBatch, rng: StepRng, sigma_B: Tensor) -> Renoised:
        noise_BCHW = self._matching.noise(rng.at(f"{objective}-noise"), batch.indices, batch.shape_CHW)
        x_BCHW = interpolate(x0_BCHW, noise_BCHW, sigma_B)
        return Renoised(x_BCHW, sigma_B, self._weights(objective, batch, x_BCHW, sigma_B))

    def _weights(self, objective: Objective, batch: PromptBatch, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        def predict(rows: list[int], text: TextEmbeddings) -> Tensor:
            return self._committee.predict(0, x_BCHW[rows], sigma_B[rows], text)

        region = partial(text_region, predict, self._matching.frozen_text, batch.prompts, batch.text, x_BCHW)
        weights = self._gate(GateInputs(objective, sigma_B, batch.domains, batch.prompts, batch.text, x_BCHW, region))
        check_weights(
            weights,
            objective,
            len(self._committee),
            self._config.guidance_budget,
            samples=len(batch),
            gate=f"gate `{self._config.gate.use}`",
        )
        return truncate(weights, active=self._config.active_teachers, above=self._config.active_above)

    # ---- predictions of some rows ----

    def _conditional(self, at: Renoised, batch: PromptBatch, lean: float, k: int, rows: list[int]) -> tuple[Tensor, ...]:
        return (self._committee.predict(k, at.x_BCHW[rows], at.sigma_B[rows], batch.text.rows(rows), lean=lean),)

    def _both(self, at: Renoised, batch: PromptBatch, k: int, rows: list[int]) -> tuple[Tensor, ...]:
        """With the prompt and with "", as one batch."""
        if self._empty is None:
            self._empty = self._matching.frozen_text([""])
        x_BCHW, sigma_B = at.x_BCHW[rows], at.sigma_B[rows]
        text = concatenate(self._empty.rows([0] * len(rows)), batch.text.rows(rows))
        uncond, cond = self._committee.predict(k, torch.cat([x_BCHW, x_BCHW]), torch.cat([sigma_B, sigma_B]), text).chunk(2)
        return cond, uncond

    def _both_twice(self, at: Renoised, batch: PromptBatch, k: int, rows: list[int]) -> tuple[Tensor, ...]:
        cond, uncond = self._both(at, batch, k, rows)
        return cond, cond, uncond


def sum_of(weights: Tensor, like: Tensor) -> Tensor:
    """Of all teachers' weights, [B, 1, 1, 1] or [B, 1, h, w], float32, on the device of ``like``."""
    total = weights.double().sum(1).to(like)
    return per_sample(total, like) if total.ndim == 1 else total


def real_score_lean(config: MtDmdConfig, updates: int) -> float:
    """Share of the fake score's adapter that is added to the teachers in matching: DMDR's cosine, from ``start`` to 0 at ``decay_steps`` and ever after."""
    options = config.real_score
    return 0.0 if options is None else options.start * falling_cosine(updates, options.decay_steps)


def beta_shape(start: tuple[float, float] | None, decay_steps: int, updates: int) -> tuple[float, float]:
    """Of the Beta distribution of the renoising level: from ``start`` to uniform, (1, 1), on DMDR's cosine."""
    if start is None:
        return (1.0, 1.0)
    share = falling_cosine(updates, decay_steps)
    return (1.0 + (start[0] - 1.0) * share, 1.0 + (start[1] - 1.0) * share)


def falling_cosine(n: int, total: int) -> float:
    """1 at 0, 1/2 half way, exactly 0 from ``total`` on."""
    return 0.0 if n >= total else 0.5 * (1.0 + math.cos(math.pi * n / total))
