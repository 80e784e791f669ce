"""The engine that keeps a whole replica of every network on each rank: ``single`` over one rank, ``ddp`` over many.

Masters are float32. With ``compute = float32`` a master *is* the module's parameter; with bfloat16 the module holds a rounded working copy, and each
gradient is added to its master's in float32 as soon as backward has it, so that accumulation over micro-steps does not round.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ernie_core.config.run import OptimizerTable
from ernie_core.errors import ConfigError
from ernie_core.parallel.engine import Group, Outcome
from ernie_core.parallel.reducer import BucketReducer
from ernie_core.train.method import Network, Turn

GROUP_STEP = "group-step"


@dataclass
class _Trained:
    """One trained network: working parameters, their masters (the same objects in float32), and the optimiser over the masters."""

    module: nn.Module
    names: list[str]
    working: list[nn.Parameter]
    masters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    table: OptimizerTable


class ReplicatedEngine:
    """See ``ernie_core.parallel.engine.Engine`` for the meaning of each method."""

    def __init__(self, device: torch.device, group: Group) -> None:
        self.device, self.group = device, group
        self._trained: dict[str, _Trained] = {}
        self._reducer = BucketReducer(group) if group.world_size > 1 else None  # type: ignore[arg-type]
        self._reducing = False
        self._loss = torch.zeros((), device=device)  # of the step, over its micro-batches

    def prepare(self, networks: Sequence[Network], optimizers: Mapping[str, OptimizerTable], *, ops: Any, compute: torch.dtype) -> None:
        for network in networks:
            network.module.to(self.device)
            if not network.trained:
                network.module.to(compute).requires_grad_(False).eval()
                continue
            if network.optimizer not in optimizers:
                raise ConfigError(
                    f"network `{network.name}` is trained by optimizer `{network.optimizer}`: add a table [optimizers.{network.optimizer}]"
                )
            network.module.float()  # an encoder may have been built in the compute type; masters never are
            table = optimizers[network.optimizer]
            named = [(n, p) for n, p in network.module.named_parameters() if p.requires_grad]
            working = [p for _, p in named]
            masters = working if compute == torch.float32 else [nn.Parameter(p.detach().clone()) for p in working]
            for master in masters:
                self.group.broadcast_(master.data)
            groups = [
                {"params": [m for m in masters if m.ndim >= 2]},
                {"params": [m for m in masters if m.ndim < 2], "weight_decay": 0.0},  # gains and biases are not decayed
            ]
            optimizer = ops.adamw(
                [g for g in groups if g["params"]],
                learning_rate=table.learning_rate,
                betas=table.betas,
                eps=table.eps,
                weight_decay=table.weight_decay,
            )
            trained = _Trained(network.module, [n for n, _ in named], working, masters, optimizer, table)
            self._trained[network.name] = trained
            if compute != torch.float32:
                network.module.to(compute)  # buffers and frozen parameters too, as where weights are loaded for sampling
                self._refresh(trained)  # from the masters, which are rank 0's
            for parameter, master in zip(working, masters, strict=True):
                parameter.register_post_accumulate_grad_hook(self._collector(master))

    def _collector(self, master: nn.Parameter) -> Any:
        def collect(parameter: Tensor) -> None:
            if master is not parameter:
                if master.grad is None:
                    master.grad = parameter.grad.float()
                else:
                    master.grad.add_(parameter.grad)
                parameter.grad = None
            if self._reducing:
                self._reducer.ready(master)  # type: ignore[union-attr]

        return collect

    @contextmanager
    def micro_step(self, turn: Turn, *, last: bool) -> Iterator[None]:
        for name, trained in self._trained.items():
            learns = name in turn.trains
            trained.module.train(learns)
            for parameter in trained.working:
                parameter.requires_grad_(learns)
        self._reducing = last and self._reducer is not None
        if self._reducing:
            self._reducer.start(turn.trains, [m for name in turn.trains for m in self._trained[name].masters])  # type: ignore[union-attr]
        yield
        if self._reducing:
            self._reducer.finish()  # type: ignore[union-attr]
        self._reducing = False

    def backward(self, loss: Tensor) -> None:
        self._loss += loss.detach().sum()
        loss.backward()

    def step(self, turn: Turn, *, learning_rate_factor: float, refuse_above: Mapping[str, float]) -> Outcome:
        grads = {name: [m.grad for m in self._trained[name].masters if m.grad is not None] for name in turn.trains}
        norms_N = [
            torch.nn.utils.get_total_norm(grads[name]) if grads[name] else torch.zeros((), device=self.device) for name in turn.trains
        ]
        self.group.sum_(self._loss)  # one rank's NaN is every rank's, as it is for gradients
        *norm_values, loss = torch.stack([*norms_N, self._loss]).tolist()  # the one synchronisation of a step
        norms = dict(zip(turn.trains, norm_values, strict=True))
        reason = self._why_refuse(norms, refuse_above)
        if not reason and not math.isfinite(loss):
            reason = f"the loss is not finite ({loss}), though every gradient of network `{'`, `'.join(turn.trains)}` is"
        if reason:
            self.discard_gradients()
            return Outcome(False, norms, reason)
        for name, norm in norms.items():
            trained = self._trained[name]
            limit = trained.table.max_grad_norm
            if limit is not None and norm > limit and grads[name]:
                torch._foreach_mul_(grads[name], limit / norm)
            for group in trained.optimizer.param_groups:
                group["lr"] = trained.table.learning_rate * learning_rate_factor
            trained.optimizer.step()
            self._refresh(trained)
        self.discard_gradients()
        return Outcome(True, norms)

    def _why_refuse(self, norms: Mapping[str, float], refuse_above: Mapping[str, float]) -> str:
        for name, norm in norms.items():
            if not math.isfinite(norm):
                trained = self._trained[name]
                bad = [
                    n
                    for n, m in zip(trained.names, trained.masters, strict=True)
                    if m.grad is not None and not bool(m.grad.isfinite().all())
                ]
                where = f"parameter `{bad[0]}`" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "") if bad else "the norm overflows"
                return f"network `{name}`: the gradient is not finite ({where})"
            if norm > refuse_above.get(name, float("inf")):
                return f"network `{name}`: the gradient norm {norm:.4g} is a spike (limit {refuse_above[name]:.4g})"
        return ""

    def discard_gradients(self) -> None:
        self._loss.zero_()
        for trained in self._trained.values():
            for parameter in (*trained.working, *trained.masters):
                parameter.grad = None

    def _refresh(self, trained: _Trained) -> None:
        if trained.working is not trained.masters:
            with torch.no_grad():
                torch._foreach_copy_(trained.working, trained.masters)

    # ---- state ----

    def masters(self, network: str) -> Iterator[tuple[str, Tensor]]:
        trained = self._trained[network]
        return ((n, m.data) for n, m in zip(trained.names, trained.masters, strict=True))

    def gather_state(self, network: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if self.group.rank:  # every rank holds the same: copies on rank 0 are enough
            return {}, {}
        trained = self._trained[network]
        moments: dict[str, Tensor] = {}
        for name, master in zip(trained.names, trained.masters, strict=True):
            for moment, value in trained.optimizer.state.get(master, {}).items():
                moments[f"{moment}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
        for i, group in enumerate(trained.optimizer.param_groups):
            if "step" in group:  # Apex's FusedAdam counts once per group, torch's once per parameter
                moments[f"{GROUP_STEP}/{i}"] = torch.as_tensor(group["step"])
        return self.gather_other(network, dict(self.masters(network))), moments

    def gather_other(self, network: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.group.rank:
            return {}
        with _data_replaced(self._trained[network], values):
            state = self._trained[network].module.state_dict()
            # float32 throughout: what is not trained may be held in the compute type
            types = {key: torch.float32 if value.is_floating_point() else value.dtype for key, value in state.items()}
            return {key: value.detach().to("cpu", types[key], copy=True).contiguous() for key, value in state.items()}

    def load_state(self, network: str, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        trained = self._trained[network]
        with _data_replaced(trained, dict(self.masters(network))):  # loading writes into the masters
            trained.module.load_state_dict(dict(weights))
        self._refresh(trained)
        of = dict(zip(trained.names, trained.masters, strict=True))
        packed = trained.optimizer.state_dict()
        places = {id(m): i for i, m in enumerate(m for group in trained.optimizer.param_groups for m in group["params"])}
        packed["state"] = {}
        for key, value in optimizer.items():
            moment, _, name = key.partition("/")
            if moment == GROUP_STEP:
                packed["param_groups"][int(name)]["step"] = int(value)
            else:
                packed["state"].setdefault(places[id(of[name])], {})[moment] = value.clone()
        trained.optimizer.load_state_dict(packed)  # which knows on which device each kind of optimiser wants its values

    def load_other(self, network: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Per-parameter values from a state dict, such as a saved EMA: the inverse of ``gather_other``."""
        trained = self._trained[network]
        values = {n: m.clone() for n, m in self.masters(network)}
        with _data_replaced(trained, values):
            trained.module.load_state_dict(dict(weights))
        return values

    @contextmanager
    def weights_replaced(self, network: str, values: Mapping[str, Tensor]) -> Iterator[None]:
        trained = self._trained[network]
        dtype = trained.working[0].dtype
        with _data_replaced(trained, {n: v.to(dtype) for n, v in values.items()}):
            yield


@contextmanager
def _data_replaced(trained: _Trained, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The module's parameters hold ``values`` inside. Works for any module, whatever its state-dict hooks do to names and shapes."""
    kept = [p.data for p in trained.working]
    try:
        for name, parameter in zip(trained.names, trained.working, strict=True):
            parameter.data = values[name]
        yield
    finally:
        for parameter, data in zip(trained.working, kept, strict=True):
            parameter.data = data
