r"""Preference training on flow matching: the policy's velocity errors on chosen and rejected pictures, against a reference's on the same noise.

    l = mean |v(x_sigma, sigma, prompt) - (noise - x0)|^2,      x_sigma = (1 - sigma) x0 + sigma noise

One policy forward runs over the 2B pictures of B pairs, one reference forward without gradient over the identical tensor: noise and sigma are drawn once per
pair, the prompt is the same and never dropped. Errors are float32. What is made of the four errors of a pair is the business of the selected loss.

Source: Wallace et al. 2023 (arXiv 2311.12908), carried over to velocities; ERNIE-Image report (arXiv 2605.25347).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ernie_align.identity import component_identity
from ernie_align.method_config import DpoConfig
from ernie_align.pair_batch import PairBatch, PairReader, both, elements_of
from ernie_align.preference import Preference
from ernie_align.reference import AdapterOff, build_reference
from ernie_align.reference_cache import ErrorCache
from ernie_align.tuning import Tuning
from ernie_core.api import ConfigError, Metrics, Network, Part, Turn, to_plain
from ernie_core.flow.losses import PairError, mse
from ernie_core.flow.matching import FlowMatching, target_of
from ernie_core.model.fingerprint import sha256_module
from ernie_core.rng import StepRng

if TYPE_CHECKING:
    from ernie_core.api import MethodContext

DECILES = 10


class Dpo:
    """See ``ernie_core.train.method.Method`` for the meaning of each method."""

    def __init__(self, config: DpoConfig, context: MethodContext, *, density: Callable[[Tensor], Tensor], loss: Preference) -> None:
        self._config, self._context, self._loss = config, context, loss
        self._matching = FlowMatching(context, density=density, shift=config.shift)
        self._tuning = Tuning(context, self._matching, config.adapter, method="dpo")
        self._policy = self._tuning.policy
        self._reference = build_reference(config, context, self._policy)
        self._reader = PairReader(self._tuning, styles=config.styles, draws_per_pair=config.draws_per_pair, seed=context.seed)
        self._initial = sha256_module(self._policy.transformer) if config.reference.mode == "cached" else ""
        self._cache: ErrorCache | None = None

    def networks(self) -> Sequence[Network]:
        return [*self._tuning.networks(), *(self._reference.networks() if self._reference is not None else ())]

    def deployed(self) -> Mapping[str, str]:
        return self._tuning.deployed()

    def turn(self, step: int) -> Turn:
        return Turn("dpo", self._policy.trains)

    def prepare(self, part: Part, rng: StepRng) -> PairBatch:
        return self._reader.read(part, rng)

    def loss(self, batch: PairBatch, turn: Turn, rng: StepRng) -> tuple[Tensor, Metrics]:
        noise_BCHW, sigma_B = self._reader.noise(batch, rng)
        policy = self._errors(self._policy.transformer, batch, noise_BCHW, sigma_B)
        reference = self.reference_errors(batch, noise_BCHW, sigma_B)
        loss_B = self._loss(policy, reference)
        return loss_B.sum(), self._metrics(loss_B, policy, reference)

    def after_step(self, turn: Turn, step: int) -> None:
        pass

    @torch.no_grad()
    def validate(self, batch: PairBatch, rng: StepRng) -> Metrics:
        """The flow loss on the chosen pictures; margin, implicit accuracy and the distance of the two velocities at sigma = (d + .5) / 10, on both pictures.

        Noise is the same at every call. Without a network of the reference (cached errors, all weights trained) the flow loss alone.
        """
        B = len(batch)
        x0_BCHW, text = batch.latents_2BCHW[:B], batch.text.rows(range(B))
        metrics = self._matching.validate(self._policy.transformer, x0_BCHW, text, batch.indices, rng)
        if self._reference is None:
            return metrics
        noise_BCHW = self._matching.noise(rng.at("validation-noise"), batch.indices, x0_BCHW.shape[1:])
        sigmas = [torch.full((B,), (d + 0.5) / DECILES) for d in range(DECILES)]
        with self._reference.network() as network:
            before = [self._velocity(network, batch, noise_BCHW, sigma_B) for sigma_B in sigmas]
        target = target_of(batch.latents_2BCHW, both(noise_BCHW))
        for d, (sigma_B, reference) in enumerate(zip(sigmas, before, strict=True)):
            velocity = self._velocity(self._policy.transformer, batch, noise_BCHW, sigma_B)
            win_B, lose_B = (mse(reference, target, sigma_B) - mse(velocity, target, sigma_B)).chunk(2)
            margin_B = win_B - lose_B
            metrics.add_values("dpo/margin", margin_B)
            metrics.add_values("dpo/implicit_accuracy", (margin_B > 0).float())
            metrics.add_values(f"dpo/drift-sigma-{d}", mse(velocity, reference, sigma_B))
        return metrics

    def velocity_fn(self, network: str, prompts: Sequence[str], *, guidance_scale: float) -> Callable[[Tensor, float], Tensor]:
        return self._tuning.velocity_fn(network, prompts, guidance_scale=guidance_scale)

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass

    def describe(self) -> Sequence[str]:
        """What the coefficients amount to at each resolution, and what the policy is compared with. Opens the cache, if there is one."""
        lines: list[str] = []
        sizes = sorted({stage.size_px for stage in self._context.stages})
        for size_px in sizes:
            told = self._loss.describe(elements_of(self._context.codec, size_px))
            lines += [f"{size_px} px: {line}" if len(sizes) > 1 else line for line in told]
        if self._config.reference.mode == "cached":
            cache = self._opened()
            lines.append(f"reference: {len(cache):,} cached errors in {cache.folder}")
            if self._reference is None:
                lines.append("validation: the flow loss only, as no network of the reference is held")
        elif self._reference is not None:
            lines.append(self._reference.describe())
        return lines

    # ---- the reference ----

    @torch.no_grad()
    def reference_errors(self, batch: PairBatch, noise_BCHW: Tensor, sigma_B: Tensor) -> PairError:
        """Live or cached.

        Raises:
            ConfigError, DataError: see ``ErrorCache``.
        """
        if self._config.reference.mode == "cached":
            return PairError(*self._opened().errors(batch.keys, batch.latents_2BCHW.device), batch.elements)
        if self._reference is None:
            raise RuntimeError("neither a live reference nor cached errors")
        with self._reference.network() as network:
            return self._errors(network, batch, noise_BCHW, sigma_B)

    @torch.no_grad()
    def errors_to_cache(self, part: Part, rng: StepRng, draws: Sequence[int]) -> tuple[PairBatch, PairError]:
        """Errors of the initial weights on given draws of pairs. Only before training."""
        batch = self._reader.read(part, rng, draws=draws)
        noise_BCHW, sigma_B = self._reader.noise(batch, rng)
        network = AdapterOff(self._policy).network() if self._policy.bank is not None else None
        if network is None:
            return batch, self._errors(self._policy.transformer, batch, noise_BCHW, sigma_B)
        with network as base:
            return batch, self._errors(base, batch, noise_BCHW, sigma_B)

    def identity(self) -> dict[str, Any]:
        """All that decides about a reference's error beside the pair and the number of its draw."""
        config, transformer = self._config, self._policy.transformer
        return {
            "transformer": self._initial,
            "model": to_plain(transformer.config),
            "ops": transformer.ops.name,
            "codec": component_identity(self._context.codec),
            "encoder": component_identity(self._context.encoder),
            "compute": str(self._context.dtype),
            "seed": self._context.seed,
            "density": to_plain(config.density),
            "shift": to_plain(config.shift),
            "styles": to_plain(config.styles),
            "draws_per_pair": config.draws_per_pair,
        }

    def _opened(self) -> ErrorCache:
        if self._cache is None:
            if self._config.reference.cache is None:
                raise RuntimeError("the config's own check admits no cached reference without a folder")
            self._cache = ErrorCache.open(self._config.reference.cache, self.identity())
        return self._cache

    # ---- errors ----

    def _velocity(self, network: nn.Module, batch: PairBatch, noise_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        return self._matching.predict(network, batch.latents_2BCHW, both(noise_BCHW), both(sigma_B), batch.text)

    def _errors(self, network: nn.Module, batch: PairBatch, noise_BCHW: Tensor, sigma_B: Tensor) -> PairError:
        velocity = self._velocity(network, batch, noise_BCHW, sigma_B)
        win_B, lose_B = mse(velocity, target_of(batch.latents_2BCHW, both(noise_BCHW)), both(sigma_B)).chunk(2)
        return PairError(win_B, lose_B, batch.elements)

    def _metrics(self, loss_B: Tensor, policy: PairError, reference: PairError) -> Metrics:
        metrics, terms = Metrics(), self._loss.terms(policy, reference)
        margin_B = terms["margin"]
        metrics.add_values("loss", loss_B)
        metrics.add_values("dpo/margin_squared", margin_B.square())
        metrics.add_values("dpo/implicit_accuracy", (margin_B > 0).float())
        for side, errors in (("policy", policy), ("reference", reference)):
            metrics.add_values(f"dpo/{side}_win", errors.win_B)
            metrics.add_values(f"dpo/{side}_lose", errors.lose_B)
        for name, values_B in terms.items():
            metrics.add_values(f"dpo/{name}", values_B)
        strength = self._loss.beta_eff(policy.elements)
        if strength is not None:
            metrics.add("dpo/beta_eff", strength * len(loss_B), len(loss_B))
        return metrics


def build(config: DpoConfig, context: MethodContext) -> Dpo:
    density = context.component("densities", config.density)
    loss = context.component("losses", config.loss)
    missing = [name for name in ("beta_eff", "terms", "describe") if not callable(getattr(loss, name, None))]
    if missing:
        raise ConfigError(
            f"the loss `{config.loss.use}` cannot say what it does: it lacks {', '.join(missing)}; see ernie_align.preference.Preference"
        )
    return Dpo(config, context, density=density, loss=loss)
