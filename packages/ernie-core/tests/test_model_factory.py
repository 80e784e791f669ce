"""Sizes and blocks from config tables."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ernie_core.config.base import Selection
from ernie_core.config.run import BlockRange, ModelTable
from ernie_core.errors import ConfigError
from ernie_core.model.block_ranges import block_factory
from ernie_core.model.config import RELEASE
from ernie_core.model.entries import SharedAdaLNConfig
from ernie_core.model.factory import default_axes, dit_config, make_transformer
from ernie_core.ops.reference import ReferenceOps
from ernie_core.plugins.host import PluginHost

TABLE = ModelTable(hidden_size=32, num_attention_heads=2, num_layers=3, ffn_hidden_size=48, checkpointing="full")


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return PluginHost.discover(plugins=False)


@pytest.mark.parametrize("head_dim", [2, 4, 8, 16, 20, 24, 32, 48, 64, 96, 128])
def test_default_axes_fill_the_head_with_even_numbers(head_dim):
    axes = default_axes(head_dim)
    assert sum(axes) == head_dim
    assert all(d >= 0 and d % 2 == 0 for d in axes)


def test_default_axes_are_the_released_ones():
    assert default_axes(RELEASE.head_dim) == RELEASE.rope_axes_dim


def test_a_new_transformer_is_the_same_at_every_call(host):
    one, two = (make_transformer(TABLE, channels=4, text_width=12, host=host, ops=ReferenceOps(), seed=3) for _ in range(2))
    assert one.checkpointing == "full"
    assert one.config.in_channels == one.config.out_channels == 4
    assert one.config.text_in_dim == 12
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_sizes_that_do_not_fit_are_a_config_error():
    table = ModelTable(hidden_size=33, num_attention_heads=2, num_layers=1, ffn_hidden_size=8)
    with pytest.raises(ConfigError, match="hidden_size = 33 is not divisible by num_attention_heads = 2"):
        dit_config(table, channels=4, text_width=8)


def test_weights_for_another_codec_or_encoder(host, tmp_path):
    import json

    from safetensors.torch import save_file

    model = make_transformer(TABLE, channels=4, text_width=12, host=host, ops=ReferenceOps(), seed=0)
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_diffusers()))
    save_file({n: t.contiguous() for n, t in model.state_dict().items()}, tmp_path / "diffusion_pytorch_model.safetensors")
    table = ModelTable(init=str(tmp_path))
    again = make_transformer(table, channels=4, text_width=12, host=host, ops=ReferenceOps(), seed=1)
    assert torch.equal(again.layers[0].mlp.gate_up.weight, model.layers[0].mlp.gate_up.weight)
    with pytest.raises(
        ConfigError, match="made for 4 latent channels and text width 12, but the codec has 8 channels and the encoder width 12"
    ):
        make_transformer(table, channels=8, text_width=12, host=host, ops=ReferenceOps(), seed=1)


def block_range(first: int, last: int) -> BlockRange:
    return BlockRange(first=first, last=last, block=Selection("ernie-shared-adaln", SharedAdaLNConfig()))


def test_every_problem_of_block_ranges_is_listed():
    config = dit_config(TABLE, channels=4, text_width=12)
    with pytest.raises(ConfigError) as caught:
        block_factory([block_range(0, 1), block_range(1, 2), block_range(2, 3), block_range(2, 1)], config, None)
    assert [str(p) for p in caught.value.problems] == [
        "model.blocks[1]: layer 1 is in two ranges, `ernie-shared-adaln` and `ernie-shared-adaln`",
        "model.blocks[2]: layers 2 to 3, but the model has layers 0 to 2",
        "model.blocks[3]: layers 2 to 1, but the model has layers 0 to 2",
    ]


def test_blocks_are_built_by_the_host_for_their_layers_only(host):
    config = dit_config(TABLE, channels=4, text_width=12)
    make_block = block_factory([block_range(1, 1)], config, host)
    assert make_block is not None
    assert [isinstance(make_block(layer), nn.Module) for layer in range(3)] == [False, True, False]
    assert block_factory([], config, host) is None
