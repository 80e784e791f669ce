"""The weights that users sample from and export: trained ones as they are, or a frozen base with its trained adapter merged into a copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from ernie_core.errors import ErnieError, WeightsError
from ernie_core.model.load import check_shapes

if TYPE_CHECKING:
    from torch import Tensor

    from ernie_core.adapters.bank import Adapter, AdapterBank
    from ernie_core.plugins.host import PluginHost
    from ernie_core.train.checkpoint import Checkpoint

COMPUTE = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def deployed_weights(checkpoint: Checkpoint, *, raw: bool, host: PluginHost | None) -> dict[str, Tensor]:
    """Float32 weights of the deployed transformer by the reference's names.

    Args:
        raw: the trained weights instead of their moving average.

    Raises:
        WeightsError: the base of an adapter is not where the run found it, or has other weights now.
    """
    name = checkpoint.state["deployed"]["transformer"]
    if checkpoint.state["networks"][name]["trained"]:
        return checkpoint.weights(name, raw=raw)
    from ernie_core.adapters.algebra import merged

    base, adapter = _base_and_adapter(checkpoint, raw=raw, host=host)
    return merged(base, adapter) if adapter is not None else base


def deployed_adapter(checkpoint: Checkpoint, *, raw: bool, host: PluginHost | None) -> Adapter:
    """The trained adapter alone.

    Raises:
        WeightsError: the run trained all weights, or see ``deployed_weights``.
    """
    adapter = _base_and_adapter(checkpoint, raw=raw, host=host)[1] if "adapter" in checkpoint.state["deployed"] else None
    if adapter is None:
        raise WeightsError(f"{checkpoint.directory}: this run trained all weights; there is no adapter to write. Export the model instead.")
    return adapter


def load_adapters(bank: AdapterBank, paths: Mapping[str, str | Path]) -> dict[str, Adapter]:
    """Add the adapters that runs have trained to a bank, each under its name. Paths that are no run of an adapter are left out.

    Only the factors are read: the base is the bank's, if each of them was trained on it.

    Raises:
        WeightsError: an adapter was trained on another base, or its factors are not what its config says; nothing of the base is changed.
        RunFolderError: a run without a whole checkpoint.
    """
    from ernie_core.adapters.config import AdapterConfig
    from ernie_core.model.fingerprint import sha256_state
    from ernie_core.train.checkpoint import is_own_checkpoint, open_checkpoint

    loaded: dict[str, Adapter] = {}
    hashes: dict[str, str] = {}  # of the base, by the type that a run held it in
    for name, path in paths.items():
        checkpoint = open_checkpoint(path) if is_own_checkpoint(path) else None
        if checkpoint is None or "adapter" not in checkpoint.state["deployed"]:
            continue
        deployed, networks = checkpoint.state["deployed"], checkpoint.state["networks"]
        compute = checkpoint.state["config"].get("precision", {}).get("compute", "float32")
        if compute not in hashes:
            held = {key: t.to(COMPUTE[compute]) if t.is_floating_point() else t for key, t in bank.model.state_dict().items()}
            hashes[compute] = sha256_state(held)
        if hashes[compute] != networks[deployed["transformer"]]["sha256"]:
            raise WeightsError(
                f"{path}: its adapter was trained on other weights than the model has that it is added to. Train it from the same model.init, or merge it "
                "into a model of its own (`ernie weights lora merge`)"
            )
        adapter = bank.add(name, msgspec.convert(networks[deployed["adapter"]]["config"], AdapterConfig))
        weights = checkpoint.weights(deployed["adapter"], raw=False)
        expected = {key: tuple(t.shape) for key, t in adapter.state_dict().items()}
        check_shapes({key: tuple(t.shape) for key, t in weights.items()}, expected, where=f"{checkpoint.directory} ({deployed['adapter']})")
        adapter.load_state_dict(weights)
        loaded[name] = adapter
    return loaded


def _base_and_adapter(checkpoint: Checkpoint, *, raw: bool, host: PluginHost | None) -> tuple[dict[str, Tensor], Adapter | None]:
    from ernie_core.adapters.bank import AdapterBank
    from ernie_core.adapters.config import AdapterConfig

    model = _frozen_base(checkpoint, host)
    network = checkpoint.state["deployed"].get("adapter")
    adapter = None
    if network is not None:
        config = msgspec.convert(checkpoint.state["networks"][network]["config"], AdapterConfig)
        adapter = AdapterBank(model).add(network, config)
        adapter.load_state_dict(checkpoint.weights(network, raw=raw))
    return dict(model.state_dict()), adapter


def _frozen_base(checkpoint: Checkpoint, host: PluginHost | None) -> Any:
    from ernie_core.config.load import from_plain
    from ernie_core.config.run import ModelTable
    from ernie_core.model.factory import make_transformer
    from ernie_core.model.fingerprint import sha256_module
    from ernie_core.ops.reference import ReferenceOps
    from ernie_core.plugins.host import PluginHost

    network = checkpoint.state["networks"][checkpoint.state["deployed"]["transformer"]]
    config = checkpoint.state["config"]
    host = host or PluginHost.discover()
    table = from_plain(config["model"], host, struct=ModelTable, where=str(checkpoint.directory))
    sizes = network["config"]
    try:
        model = make_transformer(
            table, channels=sizes["in_channels"], text_width=sizes["text_in_dim"], host=host, ops=ReferenceOps(), seed=config["run"]["seed"]
        )
    except ErnieError as error:
        raise WeightsError(
            f"{checkpoint.directory}: holds an adapter; the model it was trained on ({table.init or 'made from the seed'}) is not usable: {error}"
        ) from error
    held = COMPUTE[config.get("precision", {}).get("compute", "float32")]
    if held != torch.float32:
        model.to(held)  # as the run held it
    if sha256_module(model) != network["sha256"]:
        raise WeightsError(
            f"{checkpoint.directory}: the adapter was trained on other weights than {Path(table.init).name if table.init else 'this seed'} has now. "
            f"Restore {table.init or 'the config'}."
        )
    return model.float()
