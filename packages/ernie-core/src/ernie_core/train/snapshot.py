"""What a checkpoint holds of a run, in memory: taken from the engine, the averages and the method, and put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ernie_core.errors import RunFolderError
from ernie_core.model.fingerprint import sha256_module
from ernie_core.sampling.fixed import to_stored
from ernie_core.train.checkpoint import Checkpoint
from ernie_core.train.ema import Ema, Follower
from ernie_core.train.method import FixesSampling, Method, Network

if TYPE_CHECKING:
    from torch import Tensor

    from ernie_core.parallel.engine import Engine

Tensors = dict[str, dict[str, "Tensor"]]


def take_snapshot(
    networks: Sequence[Network], engine: Engine, emas: Mapping[str, Ema], method: Method, *, first: bool = True
) -> tuple[Tensors, dict[str, Any]]:
    """Tensors by file name, and the JSON part of a checkpoint's state. All ranks call it; rank 0's result is written.

    Args:
        emas: the averages of trained networks, and the followers, by network.
        first: this is rank 0; frozen weights, which are the same everywhere, are hashed there alone.
    """
    tensors: Tensors = {}
    described: dict[str, Any] = {}
    for network in networks:
        config = getattr(network.module, "config", None)
        described[network.name] = {
            "trained": network.trained,
            "class": type(network.module).__name__,
            "config": msgspec.to_builtins(config) if isinstance(config, msgspec.Struct) else None,
        }
        if network.follows:
            follower = emas[network.name]
            tensors[f"{network.name}.safetensors"] = engine.gather_other(network.follows, follower.values)
            described[network.name] |= {"follows": network.follows, "ema_updates": follower.updates}
            continue
        if not network.trained:
            described[network.name]["sha256"] = sha256_module(network.module) if first else None
            continue
        weights, optimizer = engine.gather_state(network.name)
        tensors[f"{network.name}.safetensors"] = weights
        tensors[f"optimizer.{network.name}.safetensors"] = optimizer
        if network.name in emas:
            ema = emas[network.name]
            tensors[f"ema.{network.name}.safetensors"] = engine.gather_other(network.name, ema.values)
            described[network.name]["ema_updates"] = ema.updates
    state: dict[str, Any] = {"networks": described, "deployed": dict(method.deployed()), "method": dict(method.state_dict())}
    if isinstance(method, FixesSampling):
        state["sampling"] = to_stored(method.sampling())
    return tensors, state


def load_snapshot(checkpoint: Checkpoint, networks: Sequence[Network], engine: Engine, emas: Mapping[str, Ema], method: Method) -> None:
    """The inverse of ``take_snapshot``.

    Raises:
        RunFolderError: the networks are others, or a frozen network's weights are no longer those the run started with.
    """
    described = checkpoint.state["networks"]
    if set(described) != {network.name for network in networks}:
        raise RunFolderError(
            f"{checkpoint.directory}: holds networks {sorted(described)}, this run has {sorted(n.name for n in networks)}. Use another run folder."
        )
    for network in networks:
        follower = emas.get(network.name)
        if isinstance(follower, Follower):
            follower.values = engine.load_other(network.follows, checkpoint.tensors(f"{network.name}.safetensors"))
            follower.updates = int(described[network.name]["ema_updates"])
            follower.take_effect()
            continue
        if not network.trained:
            found, expected = sha256_module(network.module), described[network.name].get("sha256")
            if found != expected:
                raise RunFolderError(
                    f"{checkpoint.directory}: the frozen network `{network.name}` has other weights than when the run started "
                    f"(expected {str(expected)[:12]}..., found {found[:12]}...). Restore the files it is loaded from."
                )
            continue
        engine.load_state(
            network.name, checkpoint.tensors(f"{network.name}.safetensors"), checkpoint.tensors(f"optimizer.{network.name}.safetensors")
        )
        if network.name in emas:
            emas[network.name].values = engine.load_other(network.name, checkpoint.tensors(f"ema.{network.name}.safetensors"))
            emas[network.name].updates = int(described[network.name]["ema_updates"])
    method.load_state_dict(checkpoint.state["method"])
