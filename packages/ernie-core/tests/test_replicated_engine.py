"""The replicated engine's state goes out and comes back whole, whatever its optimiser keeps and where."""

import pytest
import torch
from torch import nn

from ernie_core.config.run import OptimizerTable
from ernie_core.errors import ConfigError
from ernie_core.ops.reference import ReferenceOps
from ernie_core.parallel.group import OneRank
from ernie_core.parallel.replicated import ReplicatedEngine
from ernie_core.train.method import Network, Turn

TURN = Turn("all", ("net",))


class GroupCounting(torch.optim.Optimizer):
    """Counts steps in its groups, as NVIDIA Apex's FusedAdam does, and its update depends on the count."""

    def __init__(self, groups, *, lr):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state.setdefault("exp_avg", torch.zeros_like(parameter)).lerp_(parameter.grad, 0.1)
                    parameter.data.sub_(state["exp_avg"], alpha=group["lr"] / group["step"])


class CountingOps(ReferenceOps):
    def adamw(self, param_groups, *, learning_rate, betas, eps, weight_decay):
        return GroupCounting([dict(g) for g in param_groups], lr=learning_rate)


def engine(ops, compute=torch.float32, seed=0):
    torch.manual_seed(seed)
    made = ReplicatedEngine(torch.device("cpu"), OneRank())
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    made.prepare([Network("net", module)], {"default": OptimizerTable(learning_rate=0.1, max_grad_norm=None)}, ops=ops, compute=compute)
    return made, module


def step(made, module, k):
    x = torch.linspace(-1, 1, 12).view(4, 3) + k
    with made.micro_step(TURN, last=True):
        made.backward(module(x.to(next(module.parameters()).dtype)).float().square().mean())
    return made.step(TURN, learning_rate_factor=1.0, refuse_above={})


@pytest.mark.parametrize("ops", [ReferenceOps("test"), CountingOps("test")], ids=["torch", "counts-in-groups"])
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_going_on_from_gathered_state_is_going_on(ops, compute):
    first, module = engine(ops, compute)
    for k in range(3):
        step(first, module, k)
    weights, optimizer = first.gather_state("net")
    second, other = engine(ops, compute, seed=1)
    second.load_state("net", weights, optimizer)
    for k in range(3, 6):
        assert step(first, module, k).grad_norms == step(second, other, k).grad_norms
    for (_, a), (_, b) in zip(first.masters("net"), second.masters("net"), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_a_network_that_names_an_unknown_optimizer_is_told_which_table_to_add():
    made = ReplicatedEngine(torch.device("cpu"), OneRank())
    with pytest.raises(ConfigError, match=r"add a table \[optimizers.fake\]"):
        made.prepare(
            [Network("net", nn.Linear(1, 1), optimizer="fake")],
            {"default": OptimizerTable()},
            ops=ReferenceOps("test"),
            compute=torch.float32,
        )


def test_accumulation_in_bfloat16_does_not_round_the_sum():
    made, module = engine(ReferenceOps("test"), torch.bfloat16)
    for k, last in ((0, False), (1, True)):
        with made.micro_step(TURN, last=last):
            made.backward(sum(p.float().sum() * (1.0 if k == 0 else 2.0**-9) for p in module.parameters()))
    assert {m.grad.unique().item() for m in made._trained["net"].masters} == {1 + 2.0**-9}  # bfloat16 would say 1


def test_frozen_networks_get_no_gradient_and_are_in_the_compute_type():
    made = ReplicatedEngine(torch.device("cpu"), OneRank())
    frozen = nn.Linear(2, 2)
    made.prepare([Network("frozen", frozen, trained=False)], {}, ops=ReferenceOps("test"), compute=torch.bfloat16)
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in frozen.parameters())


class WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.frozen = nn.Linear(3, 4), nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("scale_D", torch.linspace(0.5, 1.5, 4))
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x):
        return self.frozen(self.first(x) * self.scale_D)


def test_in_bfloat16_buffers_and_frozen_parameters_of_a_trained_network_are_in_the_compute_type():
    """Otherwise float32 buffers would lift activations to float32, which the next layer refuses. What is saved of them is float32 all the same."""
    made, module = ReplicatedEngine(torch.device("cpu"), OneRank()), WithBuffer()
    made.prepare([Network("net", module)], {"default": OptimizerTable()}, ops=ReferenceOps("test"), compute=torch.bfloat16)
    assert step(made, module, 0).applied
    weights, optimizer = made.gather_state("net")
    assert {name: value.dtype for name, value in weights.items() if value.dtype != torch.float32} == {"count": torch.int64}
    made.load_state("net", weights, optimizer)
    assert torch.equal(module.scale_D, torch.linspace(0.5, 1.5, 4).bfloat16())


def test_only_rank_0_copies_its_state_for_a_checkpoint():
    """Every rank holds the same: copies on all would fill a machine's memory once per GPU."""
    made, module = engine(ReferenceOps("test"))
    step(made, module, 0)
    weights, optimizer = made.gather_state("net")
    assert len(weights) == 4
    assert len(optimizer) == 12
    made.group.rank = 1
    assert made.gather_state("net") == ({}, {})
    assert made.gather_other("net", dict(made.masters("net"))) == {}
