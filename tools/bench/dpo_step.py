#!/usr/bin/env python
"""What one step of method ``dpo`` costs beyond its network passes, and what it holds beyond fine-tuning.

    python tools/bench/dpo_step.py                                             # CPU: 192/6, 8 pairs, 64 image + 16 text tokens, rank 16
    python tools/bench/dpo_step.py --device cuda --dtype bfloat16 --size 2048/16/12 --pairs 8 --grid 32x32 --text 128 --checkpointing full

Time: ``loss`` and backward of the method, adapter off as reference, against the bare passes of the same adapter-wrapped model at the same shapes: forward and
backward over the chosen and over the rejected pictures, and a forward without gradient over each with the adapter off. Both sides run in each round, in
alternating order; the ratio of a round is the method's time over the passes', the interval the 95 % Student interval of the mean logarithm. Neither side
steps its optimiser or encodes pictures; ``--batched`` gives the bare passes the batch of 2B as well, which isolates what is not a network pass.

Memory: bytes that autograd saves (``saved_tensors_hooks``, each storage once, parameters apart), plus parameters, gradients, and optimiser states, against
method ``sft`` with the same adapter on the same 2B pictures.
Needs torch, ernie-core and ernie-align.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import torch
from torch import Tensor
from workshop import Workshop, add_model_options

from ernie_align.dpo import Dpo
from ernie_align.pair_batch import PairBatch, both
from ernie_align.sft import Batch
from ernie_core.api import Network
from ernie_core.flow.losses import mse
from ernie_core.flow.matching import target_of
from ernie_core.parallel.replicated import ReplicatedEngine


class Bench(Workshop):
    """Two methods over models with the same weights, each in an engine of its own, and the same random pictures for both."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        adapter = {"rank": options.rank}
        self.dpo, self.dpo_engine = self.method("dpo", {"adapter": adapter, "loss": {"use": options.loss}})
        self.sft, self.sft_engine = self.method("sft", {"adapter": adapter})
        self.batch = self._batch()

    @torch.no_grad()
    def _batch(self) -> PairBatch:
        pairs = self.options.batch
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2 * pairs, self.codec.channels, *self.options.grid, generator=generator).to(self.device, self.dtype)
        text = self.dpo._matching.encode(self.prompts()).rows([*range(pairs), *range(pairs)])
        return PairBatch(latents, text, tuple(range(pairs)), pairs, self.codec.channels * math.prod(self.options.grid))

    # ---- time ----

    def method_step(self) -> None:
        turn = self.dpo.turn(0)
        with self.dpo_engine.micro_step(turn, last=True):
            loss, metrics = self.dpo.loss(self.batch, turn, self.rng)
            self.dpo_engine.backward(loss / len(self.batch))
        metrics.means()  # as at every logged step: waits for the device
        self.dpo_engine.discard_gradients()

    def bare_passes(self) -> None:
        """The same network work and nothing else: noise and noise levels are drawn beforehand."""
        turn, policy = self.dpo.turn(0), self.dpo._policy
        with self.dpo_engine.micro_step(turn, last=True):
            for x0, noise, sigma, text, target in self.sides:
                error_B = mse(self.dpo._matching.predict(policy.transformer, x0, noise, sigma, text), target, sigma)
                self.dpo_engine.backward(error_B.sum())
            for x0, noise, sigma, text, _ in self.sides:
                with torch.no_grad(), policy.base() as base:
                    self.dpo._matching.predict(base, x0, noise, sigma, text)
        self.wait()
        self.dpo_engine.discard_gradients()

    def draw_sides(self, *, batched: bool) -> None:
        B = len(self.batch)
        noise, sigma = self.dpo._reader.noise(self.batch, self.rng)
        rows = [range(2 * B)] if batched else [range(B), range(B, 2 * B)]
        self.sides: list[tuple[Any, ...]] = []
        for chosen in rows:
            x0 = self.batch.latents_2BCHW[chosen.start : chosen.stop]
            own_noise, own_sigma = (both(noise), both(sigma)) if batched else (noise, sigma)
            self.sides.append((x0, own_noise, own_sigma, self.batch.text.rows(chosen), target_of(x0, own_noise)))

    # ---- memory ----

    def memory(self, method: Any, engine: ReplicatedEngine, batch: Any) -> dict[str, int]:
        """Bytes that autograd saves for one micro-batch, and of states after a step."""
        storages: dict[int, int] = {}
        modules = {id(network.module): network.module for network in method.networks()}
        own = {p.untyped_storage().data_ptr() for module in modules.values() for p in module.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()  # saved tensors live until backward: an address is one storage
            return tensor

        turn = method.turn(0)
        with engine.micro_step(turn, last=True):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss, _ = method.loss(batch, turn, self.rng)
            saved = sum(storages.values())
            engine.backward(loss)
        gradients = sum(m.grad.numel() * m.grad.element_size() for name in turn.trains for m in engine._trained[name].masters)
        engine.step(turn, learning_rate_factor=0.0, refuse_above={})
        return {"saved": saved, "states": gradients + self._states(method.networks(), engine)}

    def _states(self, networks: list[Network], engine: ReplicatedEngine) -> int:
        tensors = {id(p): p for network in networks for p in network.module.parameters()}
        for trained in engine._trained.values():
            tensors |= {id(m): m for m in trained.masters}
            tensors |= {id(v): v for state in trained.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    def sft_batch(self) -> Batch:
        """The same 2B pictures, each with its prompt."""
        count = 2 * len(self.batch)
        return Batch(self.batch.latents_2BCHW, self.batch.text, torch.ones(count), tuple(range(count)), count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser, batch="pairs")
    parser.add_argument("--loss", default="anchored-dpo")
    options = parser.parse_args()
    bench = Bench(options)
    if not isinstance(bench.dpo, Dpo):
        raise TypeError("the method dpo is another plugin's")
    found: dict[str, Any] = {}
    for name, batched in (("against passes of B", False), ("against passes of 2B", True)):
        bench.draw_sides(batched=batched)
        found[name] = bench.paired(bench.method_step, bench.bare_passes)
        row = found[name]
        print(
            f"{name}: {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]; step {row['method_s']:.4f} s, passes {row['passes_s']:.4f} s"
        )
    memory = {
        "dpo": bench.memory(bench.dpo, bench.dpo_engine, bench.batch),
        "sft": bench.memory(bench.sft, bench.sft_engine, bench.sft_batch()),
    }
    ratio = sum(memory["dpo"].values()) / sum(memory["sft"].values())
    for name, row in memory.items():
        print(f"{name}: saved {row['saved'] / 2**20:.1f} MiB, states {row['states'] / 2**20:.1f} MiB")
    print(f"memory: {ratio:.3f} of fine-tuning on the same {2 * options.batch} pictures")
    bench.write({"time": found, "memory": memory, "memory_ratio": ratio})
    return 0


if __name__ == "__main__":
    sys.exit(main())
