"""What a codec or a prompt encoder is, in one line that changes when it would give other values."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from ernie_core.api import Config, Identified, to_plain
from ernie_core.model.fingerprint import sha256_module


def component_identity(component: Any) -> str:
    """Its own ``identity()``; else its class, its config and the hash of its weights, where it has them."""
    if isinstance(component, Identified):
        return component.identity()
    words = [type(component).__qualname__]
    config = vars(component).get("config")
    if isinstance(config, Config):
        words.append(json.dumps(to_plain(config), sort_keys=True))
    if isinstance(component, nn.Module):
        words.append(sha256_module(component))
    return " ".join(words)
