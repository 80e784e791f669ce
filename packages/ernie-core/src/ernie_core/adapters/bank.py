"""Several adapters over one base model. The base's weights, names and state dict stay as they are: adapters hang on forward hooks.

peft is not used: the blocks keep q, k and v (and gate and up) as one fused matrix, which peft would give one common pair of factors, while the
formats of diffusers and ComfyUI have a pair for each; and blocks hand their op set to their linear maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ernie_core.adapters.config import AdapterConfig
from ernie_core.errors import ConfigError
from ernie_core.model.fusion import FusedLinear
from ernie_core.rng import Rng


@dataclass(frozen=True)
class Target:
    """A linear map an adapter may sit on. ``name`` is the reference's; ``module`` the path of the module that computes it, ``rows`` its part of that
    module's output."""

    name: str
    module: str
    rows: slice
    in_features: int
    out_features: int


class LowRank(nn.Module):
    """``B A x``. A starts uniform on +-1 / sqrt(in_features), B at zero: a new adapter changes nothing, bit for bit."""

    def __init__(self, target: Target, rank: int, *, seed: int) -> None:
        super().__init__()
        self.lora_A = nn.Linear(target.in_features, rank, bias=False, device="meta")
        self.lora_B = nn.Linear(rank, target.out_features, bias=False, device="meta")
        bound = target.in_features**-0.5
        drawn = Rng(seed).at(f"adapter/{target.name}", 0).generator(0).uniform(-bound, bound, (rank, target.in_features))
        self.lora_A.weight = nn.Parameter(torch.from_numpy(drawn).float())
        self.lora_B.weight = nn.Parameter(torch.zeros(target.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.lora_B(self.lora_A(x))


class Adapter(nn.Module):
    """All factors of one adapter. State-dict keys are ``<linear map>.lora_A.weight`` and ``.lora_B.weight`` with the reference's names.

    It is a network like any other: a method trains it as ``Network(name, adapter)`` while the base stays frozen. Its own ``forward`` is not called.
    """

    def __init__(self, targets: Mapping[str, Target], config: AdapterConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.targets = dict(targets)
        for target in targets.values():
            parent: nn.Module = self
            *path, last = target.name.split(".")
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(last, LowRank(target, config.rank, seed=seed))

    def low_rank(self, name: str) -> LowRank:
        return cast(LowRank, self.get_submodule(name))


class AdapterBank:
    """The adapters of one model, and which of them count now.

    ``active`` maps names to strengths. It is read in each forward pass, and by the recomputation of activations in backward: keep it the same until
    backward is done, e.g. by ``with bank.using("student"):`` around both.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.linears = linear_maps(model)
        self.adapters: dict[str, Adapter] = {}
        self.active: Mapping[str, float] = {}
        self._hooked: set[str] = set()

    def add(self, name: str, config: AdapterConfig, *, seed: int = 0) -> Adapter:
        """A new adapter on the base's device and in its type; it is not active yet.

        Raises:
            ConfigError: the name is taken, or a target is no linear map of the model.
        """
        if name in self.adapters:
            raise ConfigError(f"there is an adapter called `{name}` already; adapters: {', '.join(sorted(self.adapters))}")
        chosen = select_targets(self.linears, config.targets)
        adapter = Adapter(chosen, config, seed=seed)
        reference = next(self.model.parameters())
        self.adapters[name] = adapter.to(device=reference.device, dtype=reference.dtype)
        for path in sorted({target.module for target in chosen.values()} - self._hooked):
            self._hooked.add(path)
            mine = [target for target in self.linears.values() if target.module == path]
            self.model.get_submodule(path).register_forward_hook(partial(self._adapted, mine))
        return self.adapters[name]

    @contextmanager
    def using(self, *names: str, **strengths: float) -> Iterator[None]:
        """Make these adapters count, and no others, each at strength 1 or the one given; none at all with no names.

        Raises:
            ConfigError: there is no such adapter.
        """
        wanted = {**dict.fromkeys(names, 1.0), **strengths}
        if unknown := sorted(wanted.keys() - self.adapters.keys()):
            raise ConfigError(f"there is no adapter called `{unknown[0]}`; adapters: {', '.join(sorted(self.adapters)) or 'none'}")
        before, self.active = self.active, wanted
        try:
            yield
        finally:
            self.active = before

    def _adapted(self, targets: list[Target], module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for name, strength in self.active.items():
            adapter = self.adapters[name]
            parts = [adapter.low_rank(t.name)(inputs[0]) if t.name in adapter.targets else None for t in targets]
            scale = adapter.config.scale * strength
            if len(targets) == 1:
                output = output if parts[0] is None else torch.add(output, parts[0], alpha=scale)
            elif any(part is not None for part in parts):
                zeros = inputs[0].new_zeros(1)
                full = [zeros.expand(*output.shape[:-1], t.out_features) if p is None else p for t, p in zip(targets, parts, strict=True)]
                output = torch.add(output, torch.cat(full, dim=-1), alpha=scale)
        return output


def linear_maps(model: nn.Module) -> dict[str, Target]:
    """Every linear map of a model under the reference's name; parts of a fused matrix one by one."""
    found: dict[str, Target] = {}
    for path, module in model.named_modules():
        if isinstance(module, FusedLinear):
            parent, first = path.rpartition(".")[0], 0
            for part, rows in module.parts:
                name = f"{parent}.{part}" if parent else part
                found[name] = Target(name, path, slice(first, first + rows), module.in_features, rows)
                first += rows
        elif isinstance(module, nn.Linear):
            found[path] = Target(path, path, slice(0, module.out_features), module.in_features, module.out_features)
    return found


def select_targets(linears: Mapping[str, Target], wanted: tuple[str, ...]) -> dict[str, Target]:
    """The linear maps whose names are or end in one of ``wanted``.

    Raises:
        ConfigError: one of them names nothing.
    """
    if wanted == ("all",):
        return dict(linears)
    for ending in wanted:
        if not any(_ends_in(name, ending) for name in linears):
            kinds = sorted({name.rpartition("layers.")[2].partition(".")[2] or name for name in linears})
            raise ConfigError(f"adapter targets: no linear map is called `{ending}`; there are {', '.join(kinds)}")
    return {name: target for name, target in linears.items() if any(_ends_in(name, ending) for ending in wanted)}


def _ends_in(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
