"""Which block each layer gets: ``[[model.blocks]]`` ranges, the built-in block elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ernie_core.config.run import BlockRange
from ernie_core.errors import ConfigError, Problem
from ernie_core.model.config import DiTConfig
from ernie_core.plugins.hookspecs import BlockContext

if TYPE_CHECKING:
    from ernie_core.plugins.host import PluginHost

MakeBlock = Callable[[int], nn.Module | None]
"""``layer -> block``; None stands for the built-in block."""


def block_factory(ranges: Sequence[BlockRange], config: DiTConfig, host: PluginHost | None) -> MakeBlock | None:
    """``layer -> block`` for ``ErnieDiT``, or None if there are no ranges. Without a host, the installed plugins are discovered.

    Raises:
        ConfigError: a range is empty, leaves the model, or overlaps another.
        MissingComponent: no installed plugin offers the block.
    """
    chosen: dict[int, BlockRange] = {}
    problems = []
    for number, part in enumerate(ranges):
        where = f"model.blocks[{number}]"
        if not part.first <= part.last < config.num_layers:
            problems.append(Problem(where, f"layers {part.first} to {part.last}, but the model has layers 0 to {config.num_layers - 1}"))
            continue
        taken = [layer for layer in range(part.first, part.last + 1) if layer in chosen]
        if taken:
            problems.append(Problem(where, f"layer {taken[0]} is in two ranges, `{chosen[taken[0]].block.use}` and `{part.block.use}`"))
        chosen.update(dict.fromkeys(range(part.first, part.last + 1), part))
    if problems:
        raise ConfigError(problems)
    if not chosen:
        return None
    if host is None:
        from ernie_core.plugins.host import PluginHost

        host = PluginHost.discover()
    finder = host

    def make_block(layer: int) -> nn.Module | None:
        if layer not in chosen:
            return None
        context = BlockContext(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            ffn_hidden_size=config.ffn_hidden_size,
            eps=config.eps,
            layer=layer,
            num_layers=config.num_layers,
        )
        block = finder.build("dit_blocks", chosen[layer].block, context)
        if any(buffer.is_meta for buffer in block.buffers()):
            with torch.device("cpu"):
                _take_buffers(block, finder.build("dit_blocks", chosen[layer].block, context))
        return block

    return make_block


def _take_buffers(declared: nn.Module, built: nn.Module) -> None:
    """Give a block on the meta device real buffers: unlike parameters, not all of them are in weight files."""
    for name, buffer in built.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(declared.get_submodule(owner), leaf, buffer)
