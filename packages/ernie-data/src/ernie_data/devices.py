"""Where a stage's model runs. Needs torch."""

from __future__ import annotations

import torch

from ernie_core.api import ConfigError


def usable_device(name: str) -> torch.device:
    """``auto``: the first CUDA device if there is one, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"`device`: {name!r} is not there, found {torch.cuda.device_count()} CUDA devices")
    return device
