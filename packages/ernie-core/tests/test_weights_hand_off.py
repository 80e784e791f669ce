"""A model goes on with the prompt encoder it was trained with, and with nothing else."""

import shutil

import pytest
import torch

from ernie_core.config.load import from_plain
from ernie_core.errors import ConfigError, WeightsError
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_core.train.assemble import assemble, build_engine
from ernie_core.train.checkpoint import glance_at_state, is_own_checkpoint, open_checkpoint
from ernie_core.train.start import train
from ernie_core.weights.encoder import check_same_encoder, fill_encoder
from ernie_core.weights.hand_off import hand_off_problems

SHORT = merged(TINY_RUN, {"data": {"use": "toy-pictures"}, "run": {"steps": 3}, "samples": {"every_steps": 0}})


def run(tables, out, host):
    with one_thread():
        train(from_plain(tables, host), host=host, out=out)
    return out


def after(init, *changes):
    tables = merged(SHORT, {"model": {"init": str(init)}}, *changes)
    sizes = ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size")
    return {**tables, "model": {key: value for key, value in tables["model"].items() if key not in sizes}}


@pytest.fixture
def base(tmp_path, toy_host):
    return run(SHORT, tmp_path / "base", toy_host)


def built(tables, host):
    config = from_plain(tables, host)
    return assemble(config, host, build_engine(config, host), draws=0, note=lambda *_: None)


def same(encoder, weights):
    return all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())


def test_training_goes_on_with_the_averaged_encoder_whatever_the_seed(base, toy_host):
    encoder = built(after(base, {"run": {"seed": 8}}), toy_host).encoder
    assert same(encoder, open_checkpoint(base).weights("encoder"))
    assert not same(encoder, open_checkpoint(base).weights("encoder", raw=True))


def test_an_encoder_that_was_not_trained_with_the_model_is_built_as_ever(base, tmp_path, toy_host):
    adapter = run(after(base, {"method": {"use": "toy-adapter"}}), tmp_path / "adapter", toy_host)
    fresh = built(SHORT, toy_host).encoder
    assert same(built(after(adapter), toy_host).encoder, fresh.state_dict())


@pytest.mark.parametrize("options", [{"byte_width": 8}, {"max_tokens": 7}])
def test_other_options_of_the_encoder_are_refused(base, toy_host, options):
    encoder = {**TINY_RUN["encoder"], **options}
    with pytest.raises(ConfigError, match=r"was trained together with .*: copy its \[encoder\]"):
        built(after(base, {"encoder": encoder}), toy_host)


def test_a_seed_made_encoder_needs_its_seed(base, toy_host):
    checkpoint = open_checkpoint(base)
    checkpoint.state["networks"]["encoder"] = {"trained": False, "sha256": "0"}
    encoder = built(SHORT, toy_host).encoder
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    fill_encoder(encoder, checkpoint, raw=False, seed=0)
    assert same(encoder, before)
    with pytest.raises(WeightsError, match=r"was made from seed 0 and never trained, here the seed is 5\. Set run\.seed = 0"):
        fill_encoder(encoder, checkpoint, raw=False, seed=5)


def test_an_encoder_that_is_not_the_one_the_run_froze_is_refused(base, tmp_path, toy_host):
    checkpoint = open_checkpoint(run(after(base), tmp_path / "next", toy_host))
    checkpoint.state["networks"]["encoder"] = {"trained": False, "sha256": "0"}
    with pytest.raises(WeightsError, match=r"was trained with another prompt encoder than base has now\. Restore .*base as it was"):
        fill_encoder(built(SHORT, toy_host).encoder, checkpoint, raw=False, seed=0)
    shutil.rmtree(base)
    with pytest.raises(WeightsError, match=r"was trained by the run at .*base, which is not there any more"):
        fill_encoder(built(SHORT, toy_host).encoder, checkpoint, raw=False, seed=0)


def test_two_models_share_an_encoder_or_do_not(base, toy_host):
    check_same_encoder(built(after(base), toy_host).encoder, base)
    check_same_encoder(load_pipeline(base, host=toy_host).encoder, base)
    with pytest.raises(WeightsError, match="trained together with another prompt encoder"):
        check_same_encoder(built(SHORT, toy_host).encoder, base)


def test_problems_are_found_before_anything_is_built(base, toy_host, tmp_path):
    other = from_plain(after(base, {"codec": {"use": "pixel", "patch": 4, "scale": 2.0}}), toy_host)
    (problem,) = hand_off_problems(other, ["pretrain"])
    assert problem.where == "codec"
    assert hand_off_problems(other, ["dpo"]) == []
    assert hand_off_problems(from_plain(after(base), toy_host), ["pretrain"]) == []
    assert hand_off_problems(from_plain(SHORT, toy_host), ["pretrain"]) == []
    assert hand_off_problems(from_plain(after(tmp_path / "nowhere"), toy_host), ["pretrain"]) == []


def test_a_glance_reads_what_would_be_opened(base, tmp_path):
    assert glance_at_state(base) == open_checkpoint(base).state
    assert glance_at_state(open_checkpoint(base).directory) == open_checkpoint(base).state
    assert is_own_checkpoint(base)
    assert not is_own_checkpoint(tmp_path)
    (open_checkpoint(base).directory / "state.json").write_text("{")
    assert glance_at_state(base) is None
    assert glance_at_state(tmp_path) is None
