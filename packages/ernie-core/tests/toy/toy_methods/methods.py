"""Throw-away methods. They borrow pre-training's reading of batches and its velocity error, and differ in who learns and when."""

import os

import torch
from torch import nn

from ernie_core.adapters.config import AdapterConfig
from ernie_core.adapters.policy import Policy
from ernie_core.api import EmaConfig, FixedSampling, Metrics, Network, Selection, Turn
from ernie_core.flow.path import interpolate, model_time, velocity_target
from ernie_core.model.layout import SequenceLayout
from ernie_core.train.entries import PretrainConfig
from ernie_core.train.pretrain import build as build_pretrain


class _Toy:
    def __init__(self, config, context):
        self.config = config
        options = PretrainConfig(density=Selection("uniform"))
        self.inner = build_pretrain(options, context)
        self.applied = 0

    def deployed(self):
        return {"transformer": self.networks()[0].name}

    def prepare(self, part, rng):
        return self.inner.prepare(part, rng)

    def after_step(self, turn, step):
        self.applied += 1

    def validate(self, batch, rng):
        return self.inner.validate(batch, rng)

    def velocity_fn(self, network, prompts, *, guidance_scale):
        return self.inner.velocity_fn("transformer", prompts, guidance_scale=guidance_scale)

    def state_dict(self):
        return {"applied": self.applied}

    def load_state_dict(self, state):
        self.applied = state["applied"]

    def poison(self, loss, rng):
        here = self.config.nan_rank in (-1, int(os.environ.get("RANK", "0")))
        return loss * float(self.config.poison) if rng.step in self.config.nan_steps and here else loss

    def error_B(self, module, batch, rng, stream="noise"):
        x0 = batch.latents_BCHW
        noise = torch.stack([torch.from_numpy(rng.at(stream).normal(i, x0.shape[1:])) for i in batch.indices])
        sigma_B = torch.tensor([float(rng.at(f"{stream}-sigma").uniform(i)) for i in batch.indices])
        x_t = interpolate(x0, noise, sigma_B).to(x0.dtype)
        text = batch.text or self.inner.encoder.encode(batch.prompts)
        layout = SequenceLayout.plan(tuple(x0.shape[-2:]), text.lens)
        v = module(x_t, model_time(sigma_B, torch.float32), text.text_BTE.to(x0.dtype), None, layout)
        return (v.float() - velocity_target(x0.float(), noise)).square().flatten(1).mean(1), v


class Reference(_Toy):
    """The policy's error less a tenth of its distance from a frozen copy of itself."""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.reference = context.make_transformer()
        for module in (self.inner.transformer, self.reference):  # a fresh model is exactly 0: give both the same non-trivial output
            with torch.no_grad():
                for i, p in enumerate(module.final_linear.parameters()):
                    p.copy_(torch.linspace(-0.02, 0.02, p.numel()).view_as(p) * (i + 1))

    def networks(self):
        return [
            Network("policy", self.inner.transformer, ema=EmaConfig(decay=0.9)),
            Network("encoder", self.inner.encoder),
            Network("reference", self.reference, trained=False),
        ]

    def turn(self, step):
        return Turn("policy", ("policy", "encoder"))

    def loss(self, batch, turn, rng):
        error_B, v = self.error_B(self.inner.transformer, batch, rng)
        with torch.no_grad():
            _, v_reference = self.error_B(self.reference, batch, rng)
        away_B = (v - v_reference).float().square().flatten(1).mean(1)
        metrics = Metrics()
        metrics.add_values("loss", error_B)
        metrics.add_values("away", away_B)
        return self.poison((error_B - 0.1 * away_B).sum(), rng), metrics


class Alternating(_Toy):
    """Five turns of the fake score, which learns the student's pictures, then one of the student."""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.fake = context.make_transformer()

    def networks(self):
        return [
            Network("student", self.inner.transformer, ema=EmaConfig(decay=0.9)),
            Network("fake", self.fake, optimizer="fake"),
            Network("encoder", self.inner.encoder),
        ]

    def turn(self, step):
        return Turn("student", ("student", "encoder")) if step % 6 == 5 else Turn("fake", ("fake",))

    def loss(self, batch, turn, rng):
        metrics = Metrics()
        if turn.name == "fake":
            loss_B, _ = self.error_B(self.fake, batch, rng)
        else:
            error_B, v = self.error_B(self.inner.transformer, batch, rng)
            with torch.no_grad():
                _, v_fake = self.error_B(self.fake, batch, rng)
            loss_B = error_B + 0.1 * (v - v_fake).float().square().flatten(1).mean(1)
        metrics.add_values("loss", loss_B)
        metrics.add_values(f"loss-{turn.name}", loss_B)
        return self.poison(loss_B.sum(), rng), metrics


class Encoder(_Toy):
    """Pre-training whose prompt encoder gains a trained scale and its own optimiser."""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.scale = nn.Module()
        self.scale.register_parameter("gain", nn.Parameter(torch.ones(())))

    def networks(self):
        return [
            Network("transformer", self.inner.transformer, ema=EmaConfig(decay=0.9)),
            Network("encoder", self.inner.encoder, ema=EmaConfig(decay=0.5), optimizer="encoder"),
            Network("scale", self.scale),
        ]

    def turn(self, step):
        return Turn("all", ("transformer", "encoder", "scale"))

    def loss(self, batch, turn, rng):
        error_B, v = self.error_B(self.inner.transformer, batch, rng)
        loss_B = error_B + 0.01 * (self.scale.gain * v.float()).square().flatten(1).mean(1)
        metrics = Metrics()
        metrics.add_values("loss", loss_B)
        return self.poison(loss_B.sum(), rng), metrics


def build_reference(config, context):
    return Reference(config, context)


def build_alternating(config, context):
    return Alternating(config, context)


def build_encoder(config, context):
    return Encoder(config, context)


class OverBase(_Toy):
    """Pre-training's error of an adapter whose base stays as it was. The base is fresh and gives 0, so the adapter sits on the last map too."""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.policy = Policy(context, AdapterConfig(rank=2, alpha=3.0, targets=("all",)))
        self.inner.transformer = self.policy.transformer  # validation and samples look at the one that learns

    def networks(self):
        return [*self.policy.networks(), Network("encoder", self.inner.encoder, trained=False)]

    def deployed(self):
        return self.policy.deployed()

    def turn(self, step):
        return Turn("adapter", self.policy.trains)

    def loss(self, batch, turn, rng):
        with self.policy.tuned() as transformer:
            error_B, _ = self.error_B(transformer, batch, rng)
        metrics = Metrics()
        metrics.add_values("loss", error_B)
        return self.poison(error_B.sum(), rng), metrics


def build_adapter(config, context):
    return OverBase(config, context)


class FewSteps:
    """Pre-training, and a word on how its model is to be sampled."""

    def __init__(self, config, context):
        self._config, self._inner = config, build_pretrain(PretrainConfig(), context)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def sampling(self):
        return FixedSampling(self._config.steps, self._config.guidance_scale, self._config.sampler)


def build_few_steps(config, context):
    return FewSteps(config, context)
