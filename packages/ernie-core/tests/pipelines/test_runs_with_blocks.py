"""Runs whose model has a plugin's block: sampling from them, and going on from their weights."""

import numpy as np
import pytest
import torch

from ernie_core.errors import ConfigError
from ernie_core.model import load_transformer
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.train.checkpoint import open_checkpoint

SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 48}
RANGES = [{"first": 1, "last": 1, "block": {"use": "toy-linear"}}]


@pytest.fixture(scope="module")
def run(make_run):
    return make_run(model={**SMALL, "blocks": RANGES})


def test_buffers_come_back_stored_or_computed(run, host):
    model = load_transformer(run, host=host)
    kept, computed = model.layers[1].kept_D, model.layers[1].computed_D
    assert torch.equal(kept, open_checkpoint(run).weights("transformer")["layers.1.kept_D"])
    assert torch.equal(computed, torch.linspace(-0.1, 0.1, 32))
    half = load_transformer(run, host=host, dtype=torch.bfloat16)
    assert {t.dtype for t in (*half.parameters(), *half.buffers())} == {torch.bfloat16}


def test_a_run_with_a_plugins_block_makes_pictures(run, host):
    pictures = load_pipeline(run, host=host).sample(["a", "b c d"], seed=0, steps=2, guidance_scale=2.0, size_px=(48, 16))
    assert pictures.shape == (2, 16, 48, 3)
    assert pictures.dtype == np.uint8


def test_going_on_from_its_weights_needs_its_blocks_in_the_new_config_too(run, make_run, host):
    """Else the new run would train and then hold checkpoints that nothing can load."""
    with pytest.raises(
        ConfigError, match=r"model\.blocks: missing, but in .* layers 1 are other blocks \(LinearBlock\): copy \[\[model\.blocks\]\]"
    ):
        make_run(model={"init": str(run)})
    again = make_run(model={"init": str(run), "blocks": RANGES})
    assert type(load_transformer(again, host=host).layers[1]).__name__ == "LinearBlock"


def test_settings_that_initial_weights_would_ignore_are_refused(small_run, make_run):
    with pytest.raises(ConfigError) as caught:
        make_run(model={"init": str(small_run), "rope_layout": "standard", "eps": 1e-5, "rope_theta": 256.0})
    assert [str(problem) for problem in caught.value.problems] == [
        "model.rope_layout: 'standard', but `init` brings weights made for 'ernie': remove it",
        "model.eps: 1e-05, but `init` brings weights made for 1e-06: remove it",
    ]
