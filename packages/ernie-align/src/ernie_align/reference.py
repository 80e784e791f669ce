"""What the policy is compared with: the network that gives the reference's velocities, and when it is where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from ernie_align.method_config import DpoConfig
from ernie_core.adapters.policy import Policy
from ernie_core.api import EmaConfig, Network
from ernie_core.model.architecture import check_same_architecture
from ernie_core.model.load import load_transformer
from ernie_core.weights.encoder import check_same_encoder

if TYPE_CHECKING:
    from ernie_core.api import MethodContext

REFERENCE = "reference"


class Reference(Protocol):
    def networks(self) -> list[Network]:
        """Beside the policy's."""
        ...

    def network(self) -> AbstractContextManager[nn.Module]:
        """The network, ready to compute inside the context. Carries no gradient: call it under ``torch.no_grad()``."""
        ...

    def describe(self) -> str: ...


class AdapterOff:
    """The policy without its adapter."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def networks(self) -> list[Network]:
        return []

    def network(self) -> AbstractContextManager[nn.Module]:
        return self._policy.base()

    def describe(self) -> str:
        return "reference: the policy with its adapter off"


class Copy:
    """A frozen second network."""

    def __init__(self, module: nn.Module, *, device: torch.device, offload: bool, source: str) -> None:
        self._module, self._device, self._offload, self._source = module, device, offload, source

    def networks(self) -> list[Network]:
        return [Network(REFERENCE, self._module, trained=False)]

    @contextmanager
    def network(self) -> Iterator[nn.Module]:
        try:
            yield self._module.to(self._device)
        finally:
            if self._offload:
                self._module.to("cpu")

    def describe(self) -> str:
        return f"reference: a frozen copy of {self._source}" + (", on the CPU between uses" if self._offload else "")


class Following(Copy):
    """A second network that is the policy's moving average."""

    def __init__(self, module: nn.Module, policy: Policy, decay: float, *, device: torch.device, offload: bool) -> None:
        super().__init__(module, device=device, offload=offload, source="the policy")
        (self._leader,), self._decay = policy.trains, decay

    def networks(self) -> list[Network]:
        return [Network(REFERENCE, self._module, trained=False, follows=self._leader, ema=EmaConfig(decay=self._decay))]

    def describe(self) -> str:
        return f"reference: follows the policy as its moving average, decay {self._decay:g}"


class FollowingAdapter:
    """A second adapter over the policy's base that is the moving average of the first."""

    def __init__(self, policy: Policy, config: DpoConfig, decay: float, *, seed: int) -> None:
        if policy.bank is None or config.adapter is None:
            raise ValueError("a policy without an adapter: use Following")
        self._bank, self._decay = policy.bank, decay
        (self._leader,), self._transformer = policy.trains, policy.transformer
        self._adapter = self._bank.add(REFERENCE, config.adapter, seed=seed)

    def networks(self) -> list[Network]:
        return [Network(REFERENCE, self._adapter, trained=False, follows=self._leader, ema=EmaConfig(decay=self._decay))]

    @contextmanager
    def network(self) -> Iterator[nn.Module]:
        with self._bank.using(REFERENCE):
            yield self._transformer

    def describe(self) -> str:
        return f"reference: the base with the moving average of the adapter, decay {self._decay:g}"


def build_reference(config: DpoConfig, context: MethodContext, policy: Policy) -> Reference | None:
    """The live reference; None if there is none beside cached errors.

    Raises:
        ConfigError: the reference is of another architecture than the policy.
        WeightsError: ``reference.init`` is not usable, or reads text with another encoder.
    """
    options = config.reference
    if options.mode == "adapter-off" or (options.mode == "cached" and policy.bank is not None):
        return AdapterOff(policy)
    if options.mode == "cached":
        return None
    if options.ema is not None and policy.bank is not None:
        return FollowingAdapter(policy, config, options.ema, seed=context.seed)
    if options.ema is not None:
        return Following(context.make_transformer(), policy, options.ema, device=context.device, offload=options.offload)
    if options.init is None:
        return Copy(context.make_transformer(), device=context.device, offload=options.offload, source="the initial weights")
    ops: Any = policy.transformer.ops
    module = load_transformer(options.init, dtype=torch.float32, ops=ops)
    check_same_architecture(policy.transformer, module, where=f"reference.init = {options.init}", names=("policy", "reference"))
    check_same_encoder(context.encoder, options.init)
    return Copy(module, device=context.device, offload=options.offload, source=options.init)
