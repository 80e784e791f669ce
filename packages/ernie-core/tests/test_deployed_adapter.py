"""A run that trains an adapter: sampling and export merge it into the base it was trained on, and refuse any other base."""

import pytest
import torch

from ernie_core.adapters.algebra import merged as merge
from ernie_core.config.load import from_plain
from ernie_core.errors import WeightsError
from ernie_core.model.load import load_transformer
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.train.start import train
from ernie_core.weights.deployed import deployed_adapter, deployed_weights

SHORT = merged(TINY_RUN, {"data": {"use": "toy-pictures"}, "run": {"steps": 4}, "samples": {"every_steps": 0}})


def trained(tables, out, host):
    with one_thread():
        train(from_plain(tables, host), host=host, out=out)
    return out


@pytest.fixture
def base(tmp_path, toy_host):
    return trained(SHORT, tmp_path / "base", toy_host)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_what_is_sampled_is_the_base_with_the_adapter_added(base, tmp_path, toy_host, compute):
    tables = merged(SHORT, {"model": {"init": str(base)}, "method": {"use": "toy-adapter"}, "precision": {"compute": compute}})
    for size in ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size"):
        tables["model"].pop(size, None)
    run = trained(tables, tmp_path / "run", toy_host)
    checkpoint = open_checkpoint(run)
    assert not (checkpoint.directory / "transformer.safetensors").exists(), "the base is not written again"
    found = deployed_weights(checkpoint, raw=True, host=toy_host)
    before = load_transformer(base, dtype=torch.float32).state_dict()
    held = {key: value.to(getattr(torch, compute)).float() for key, value in before.items()}
    adapter = deployed_adapter(checkpoint, raw=True, host=toy_host)
    assert all(torch.equal(found[key], value) for key, value in merge(held, adapter).items())
    assert any(not torch.equal(found[key], held[key]) for key in held)
    averaged = deployed_weights(checkpoint, raw=False, host=toy_host)
    assert any(not torch.equal(averaged[key], found[key]) for key in found)
    pipeline = load_pipeline(run, host=toy_host, raw=True)
    assert all(torch.equal(value, found[key]) for key, value in pipeline.transformer.state_dict().items())


def test_another_base_is_refused_by_name(base, tmp_path, toy_host):
    tables = merged(SHORT, {"model": {"init": str(base)}, "method": {"use": "toy-adapter"}})
    for size in ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size"):
        tables["model"].pop(size, None)
    run = trained(tables, tmp_path / "run", toy_host)
    other = trained(merged(SHORT, {"run": {"seed": 9}}), tmp_path / "other", toy_host)
    base.rename(tmp_path / "moved")
    with pytest.raises(WeightsError, match=r"holds an adapter; the model it was trained on \(.*base\) is not usable: .*found nothing"):
        load_pipeline(run, host=toy_host)
    other.rename(base)
    with pytest.raises(WeightsError, match=r"the adapter was trained on other weights than base has now\. Restore .*base"):
        load_pipeline(run, host=toy_host)


def test_a_run_that_trained_all_weights_has_no_adapter(base, toy_host):
    with pytest.raises(WeightsError, match=r"this run trained all weights; there is no adapter to write"):
        deployed_adapter(open_checkpoint(base), raw=False, host=toy_host)
