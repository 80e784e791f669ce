"""The prompt encoder that belongs to a checkpoint: one that was trained together with the model comes with it, through every later stage that freezes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_core.errors import ErnieError, WeightsError
from ernie_core.model.load import check_shapes
from ernie_core.train.checkpoint import is_own_checkpoint, open_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from ernie_core.train.checkpoint import Checkpoint


def fill_encoder(encoder: Any, checkpoint: Checkpoint, *, raw: bool, seed: int) -> None:
    """Give a freshly built prompt encoder the weights that the checkpoint's model reads text with. One that was never trained stays as it is.

    Args:
        raw: the trained weights instead of their moving average.
        seed: that the encoder was built with.

    Raises:
        WeightsError: the trained weights are not where the run found them, are others now, or do not fit this encoder.
    """
    network = checkpoint.state["deployed"].get("encoder")
    if network is None:
        return
    weights = encoder_weights(checkpoint, raw=raw)
    if weights is None:
        made = int(checkpoint.state["config"]["run"]["seed"])
        if made != seed:
            raise WeightsError(
                f"{checkpoint.directory}: its prompt encoder was made from seed {made} and never trained, here the seed is {seed}. Set run.seed = {made}, or "
                "start from a checkpoint whose encoder was trained."
            )
        return
    expected = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    check_shapes({name: tuple(t.shape) for name, t in weights.items()}, expected, where=f"{checkpoint.directory} ({network})")
    encoder.load_state_dict(weights)


def check_same_encoder(encoder: Any, path: str | Path) -> None:
    """Make sure that the model at ``path`` reads text with this encoder.

    Raises:
        WeightsError: it was trained together with another one.
    """
    weights = encoder_weights(open_checkpoint(path), raw=False) if is_own_checkpoint(path) else None
    if weights is None:
        return
    here = encoder.state_dict()
    if here.keys() != weights.keys() or any(not here[name].cpu().equal(value.to(here[name].dtype)) for name, value in weights.items()):
        raise WeightsError(
            f"{path}: was trained together with another prompt encoder than the one this run uses; its velocities for our text mean nothing"
        )


def encoder_weights(checkpoint: Checkpoint, *, raw: bool) -> dict[str, Tensor] | None:
    """Float32 weights of the encoder that was trained with the model, in this run or in the one it started from; None if none was trained.

    Raises:
        WeightsError: see ``fill_encoder``.
    """
    network = checkpoint.state["deployed"].get("encoder")
    if network is None:
        return None
    facts = checkpoint.state["networks"][network]
    if facts["trained"]:
        return checkpoint.weights(network, raw=raw)
    init = checkpoint.state["config"]["model"].get("init")
    if init is None or not Path(init).is_dir() or not is_own_checkpoint(init):
        if init is not None and not Path(init).exists():
            raise WeightsError(
                f"{checkpoint.directory}: its prompt encoder was trained by the run at {init}, which is not there any more. Restore it."
            )
        return None
    try:
        weights = encoder_weights(open_checkpoint(init), raw=False)
    except ErnieError as error:
        raise WeightsError(
            f"{checkpoint.directory}: its prompt encoder was trained by the run at {init}, which is not usable: {error}"
        ) from error
    if weights is not None and _hash_as_held(weights, checkpoint) != facts["sha256"]:
        raise WeightsError(
            f"{checkpoint.directory}: was trained with another prompt encoder than {Path(init).name} has now. Restore {init} as it was."
        )
    return weights


def _hash_as_held(weights: dict[str, Tensor], checkpoint: Checkpoint) -> str:
    import torch

    from ernie_core.model.fingerprint import sha256_state

    held = getattr(torch, checkpoint.state["config"]["precision"]["compute"])
    return sha256_state({name: value.to(held) if value.is_floating_point() else value for name, value in weights.items()})
