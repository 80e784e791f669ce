"""Builds a transformer from a run's ``[model]`` table: new with seeded weights, or from weights on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import torch

from ernie_core.config.run import ModelTable
from ernie_core.errors import ConfigError, Problem
from ernie_core.model.block import SharedAdaLNBlock
from ernie_core.model.block_ranges import block_factory
from ernie_core.model.config import DiTConfig
from ernie_core.model.dit import ErnieDiT
from ernie_core.model.load import load_transformer
from ernie_core.ops.opset import OpSet

if TYPE_CHECKING:
    from ernie_core.plugins.host import PluginHost


def make_transformer(table: ModelTable, *, channels: int, text_width: int, host: PluginHost, ops: OpSet, seed: int) -> ErnieDiT:
    """The run's transformer in float32 on the CPU, the same at every call.

    Args:
        channels: of the codec's latents.
        text_width: of the prompt encoder.

    Raises:
        ConfigError: the weights were made for another codec, encoder or kind of block than the table says, or the sizes do not fit each other.
        WeightsError: the weights of ``init`` are missing or do not fit.
    """
    if table.init is not None:
        model = load_transformer(table.init, dtype=torch.float32, ops=ops, host=host, blocks=table.blocks)
        problems = _contradictions(table, model)
        if problems:
            raise ConfigError(problems)
        found = (model.config.in_channels, model.config.text_in_dim)
        if found != (channels, text_width):
            raise ConfigError(
                f"model.init = {table.init}: made for {found[0]} latent channels and text width {found[1]}, "
                f"but the codec has {channels} channels and the encoder width {text_width}"
            )
    else:
        config = dit_config(table, channels=channels, text_width=text_width)
        model = ErnieDiT(config, ops=ops, make_block=block_factory(table.blocks, config, host), seed=seed)
    model.checkpointing = table.checkpointing
    return model


def _contradictions(table: ModelTable, model: ErnieDiT) -> list[Problem]:
    """What the table leaves out or says otherwise than the weights it starts from."""
    problems = []
    defaults = {field.name: field.default for field in msgspec.structs.fields(ModelTable)}
    for name in ("rope_theta", "rope_axes_dim", "rope_layout", "eps"):
        asked, found = getattr(table, name), getattr(model.config, name)
        if asked not in (defaults[name], found):
            problems.append(Problem(f"model.{name}", f"{asked!r}, but `init` brings weights made for {found!r}: remove it"))
    foreign = [layer for layer, block in enumerate(model.layers) if type(block) is not SharedAdaLNBlock]
    if foreign and not table.blocks:
        kinds = ", ".join(sorted({type(model.layers[layer]).__name__ for layer in foreign}))
        problems.append(
            Problem(
                "model.blocks",
                f"missing, but in {table.init} layers {', '.join(map(str, foreign))} are other blocks ({kinds}): copy [[model.blocks]] from its config",
            )
        )
    return problems


def dit_config(table: ModelTable, *, channels: int, text_width: int) -> DiTConfig:
    """Sizes of a new model.

    Raises:
        ConfigError: sizes are missing or do not fit each other.
    """
    hidden, heads = table.hidden_size, table.num_attention_heads
    if hidden is None or heads is None or table.num_layers is None or table.ffn_hidden_size is None:
        raise ConfigError([Problem("model", "expected `init`, or hidden_size, num_attention_heads, num_layers and ffn_hidden_size")])
    try:
        return DiTConfig(
            hidden_size=hidden,
            num_attention_heads=heads,
            num_layers=table.num_layers,
            ffn_hidden_size=table.ffn_hidden_size,
            in_channels=channels,
            out_channels=channels,
            text_in_dim=text_width,
            rope_theta=table.rope_theta,
            rope_axes_dim=table.rope_axes_dim or default_axes(hidden // heads),
            eps=table.eps,
            rope_layout=table.rope_layout,
        )
    except ValueError as error:
        raise ConfigError([Problem("model", str(error))]) from error


def default_axes(head_dim: int) -> tuple[int, int, int]:
    """1/4, 3/8 and 3/8 of the head size, as released (32, 48, 48 of 128); rounded to even numbers where it does not divide."""
    spatial = head_dim * 3 // 8 // 2 * 2
    return head_dim - 2 * spatial, spatial, spatial
