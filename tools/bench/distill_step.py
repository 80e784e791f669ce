#!/usr/bin/env python
"""What a period of method ``mt-dmd`` costs beyond its network passes, and what each further teacher holds.

    python tools/bench/distill_step.py                                         # CPU: 192/6, 8 prompts, 64 image + 16 text tokens, rank 16, two teachers
    python tools/bench/distill_step.py --device cuda --dtype bfloat16 --size 2048/16/12 --prompts 8 --grid 32x32 --text 128 --checkpointing full

A period is five turns of the fake score and one of the student. Time: ``loss`` and backward of its six turns, against the bare passes of the same
adapter-wrapped model at the same shapes, as many of each kind as the turns need (spec, section 4.4): per turn the rollout to its step without gradient and the
step itself, a forward and backward of who learns, and in the student's turn each active teacher with the prompt for matching, the fake score, and each active
teacher with and without the prompt for guidance. Both sides run in each round, in alternating order. Neither steps an optimiser or encodes prompts.

Memory: parameters of all networks for one to four teachers, against the bytes of an adapter.
Needs torch, ernie-core and ernie-distill.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from workshop import Workshop, add_model_options

from ernie_core.adapters.config import AdapterConfig
from ernie_core.api import GateContext
from ernie_core.rng import StepRng
from ernie_core.sampling.guidance import guided_velocity
from ernie_core.text.embeddings import concatenate
from ernie_distill.denoise import denoise, velocity
from ernie_distill.method import MtDmd
from ernie_distill.method_config import GENERALIST
from ernie_distill.prompt_batch import PromptBatch
from ernie_distill.roles import Roles
from ernie_distill.teachers import Committee, Teacher, network_name
from ernie_distill.turns import FAKE, STUDENT

FAKE_STEPS = 5
PERIOD = FAKE_STEPS + 1


class Bench(Workshop):
    """A method with a committee of random adapters, all of which count for every sample."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.mt_dmd = self.distillation(options.teachers)
        self.own_engine = self.engine(self.mt_dmd)
        count = options.batch
        prompts, shape = tuple(self.prompts()), (self.codec.channels, *options.grid)
        self.batch = PromptBatch(prompts, ("",) * count, self.mt_dmd._matching.frozen_text(prompts), shape, tuple(range(count)), count)
        self.rngs = [StepRng(0, step) for step in range(PERIOD)]
        self.noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        self.sigma_B = torch.full((count,), 0.5)
        self.empty = self.mt_dmd._matching.frozen_text([""]).rows([0] * count)

    def distillation(self, teachers: int) -> MtDmd:
        """With ``teachers`` - 1 experts whose factors are random."""
        names = [GENERALIST, *(f"expert-{k}" for k in range(1, teachers))]
        share = dict.fromkeys(names, 1.0 / teachers)
        plain = {
            "adapter": {"rank": self.options.rank},
            "fake_warmup_steps": 0,
            "fake_steps": FAKE_STEPS,
            "active_teachers": teachers,
            "gate": {"use": "constant", "match": share, "guidance": share},
        }
        config, context = self.config("mt-dmd", plain), self.context()
        roles = Roles(config, context)
        committee = [Teacher(GENERALIST, (), None, {})]
        for name in names[1:]:
            adapter = roles.bank.add(network_name(name), AdapterConfig(rank=self.options.rank), seed=len(committee))
            with torch.no_grad():
                for number, parameter in enumerate(adapter.parameters()):
                    parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(number))
            committee.append(Teacher(name, (), adapter, {network_name(name): 1.0}))
        gate = context.component("gates", config.gate, GateContext(tuple(names), ((),) * teachers))
        return MtDmd(config, context, roles=roles, committee=Committee(committee, roles, dtype=self.dtype), gate=gate, reward=None)

    # ---- time ----

    def period(self) -> None:
        for step, rng in enumerate(self.rngs):
            turn = self.mt_dmd.turn(step)
            with self.own_engine.micro_step(turn, last=True):
                loss, metrics = self.mt_dmd.loss(self.batch, turn, rng)
                self.own_engine.backward(loss / len(self.batch))
            metrics.means()  # as at every logged step: waits for the device
            self.own_engine.discard_gradients()

    def passes(self) -> None:
        """The same network work and nothing else."""
        roles, committee, text = self.mt_dmd._roles, self.mt_dmd._committee, self.batch.text
        x, both = self.noise, concatenate(self.empty, text)
        for step, rng in enumerate(self.rngs):
            turn = self.mt_dmd.turn(step)
            at = rng.at("rollout-step").integer(0, self.mt_dmd._config.steps)  # the step that the turn is about to draw
            with self.own_engine.micro_step(turn, last=True):
                learns_at_its_step = turn.name == STUDENT
                with roles.borrowed(STUDENT) as student, torch.no_grad():
                    sampled = guided_velocity(student, text, None, 1.0)
                    for _ in range(at if learns_at_its_step else at + 1):
                        sampled(x.to(self.dtype), 0.5)
                network = roles.become(turn.name)
                if learns_at_its_step:
                    v = guided_velocity(network, text, None, 1.0)(x.to(self.dtype), 0.5)
                else:
                    v = velocity(network, x.to(self.dtype), self.sigma_B, text)
                if learns_at_its_step:
                    with torch.no_grad():
                        for k in range(len(committee)):
                            committee.predict(k, x, self.sigma_B, text)
                            committee.predict(k, torch.cat([x, x]), torch.cat([self.sigma_B, self.sigma_B]), both)
                        with roles.borrowed(FAKE) as fake:
                            denoise(fake, x, self.sigma_B, text, self.dtype)
                self.own_engine.backward(v.float().square().mean())
            self.wait()
            self.own_engine.discard_gradients()

    # ---- memory ----

    def parameter_bytes(self, teachers: int) -> tuple[int, int]:
        """Of all networks of a committee of this size, and of one expert's adapter (0 without experts)."""
        networks = {n.name: n.module for n in self.distillation(teachers).networks()}
        tensors = {id(p): p for module in networks.values() for p in module.parameters()}
        expert = networks.get(network_name("expert-1"))
        return size_of(tensors.values()), 0 if expert is None else size_of(expert.parameters())


def size_of(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser, batch="prompts")
    parser.add_argument("--teachers", type=int, default=2)
    options = parser.parse_args()
    bench = Bench(options)
    row = bench.paired(bench.period, bench.passes)
    print(
        f"period: {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}] of its passes; {row['method_s']:.4f} s, passes {row['passes_s']:.4f} s"
    )
    alone, _ = bench.parameter_bytes(1)
    memory = {}
    for teachers in (2, 3, 4):
        held, adapter = bench.parameter_bytes(teachers)
        memory[teachers] = {"bytes": held, "beyond_one_teacher": held - alone, "adapters": (held - alone) / adapter}
        print(f"{teachers} teachers: {held - alone:,} bytes beyond one, {(held - alone) / adapter:g} adapters")
    bench.write({"time": row, "memory": memory})
    return 0


if __name__ == "__main__":
    sys.exit(main())
