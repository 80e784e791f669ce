"""The weights that users sample from and export: trained ones as they are, or a frozen base with its trained adapter merged into a copy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from ernie_core.errors import ErnieError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from ernie_core.adapters.bank import Adapter
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
