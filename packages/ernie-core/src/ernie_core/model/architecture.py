"""Whether two transformers are of one architecture, so that the velocities of one mean something beside those of the other."""

from __future__ import annotations

from typing import Any

from torch import nn

from ernie_core.errors import ConfigError


def check_same_architecture(model: nn.Module, other: nn.Module, *, where: str, names: tuple[str, str]) -> None:
    """
    Args:
        where: the option that named ``other``, for the error.
        names: what the two are, such as ("policy", "reference").

    Raises:
        ConfigError: sizes or blocks differ.
    """
    ours, theirs = architecture(model), architecture(other)
    differing = [
        f"{name} {ours.get(name)} and {theirs.get(name)}" for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)
    ]
    if differing:
        raise ConfigError(f"{where}: {names[0]} and {names[1]} are of different architectures: {', '.join(differing)}")


def architecture(module: Any) -> dict[str, object]:
    """Sizes by name, and the class of every block."""
    config = module.config
    sizes = {name: getattr(config, name) for name in config.__struct_fields__}
    return sizes | {"blocks": [type(layer).__name__ for layer in module.layers]}
