"""Fine-tuning: it goes on bitwise after every step, holds to what it started from, and weighs domains so that the mean over the mixture is 1."""

import pytest
import torch

from ernie_align.method_config import SftConfig
from ernie_align.sft import Sft
from ernie_core.api import ConfigError, DataError, Part, PluginHost, Stage, from_plain
from ernie_core.rng import Rng
from ernie_core.sampling.pipeline import load_pipeline
from ernie_core.testing.resume import ResumeContract, one_thread
from ernie_core.testing.runs import TINY_RUN, logged, merged
from ernie_core.train.assemble import assemble, build_engine
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.train.start import train

PICTURES = {"data": {"use": "memory-pictures"}}
SIZES = ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size")
ADAPTER = {"rank": 2, "targets": ["all"]}  # a new model gives 0: only the last map can learn at first


def run(tables, out, host):
    with one_thread():
        train(from_plain(tables, host), host=host, out=out)
    return out


def after(init, *changes):
    """A short run that starts from another."""
    tables = merged(TINY_RUN, PICTURES, {"run": {"steps": 3}, "samples": {"every_steps": 0}, "model": {"init": str(init)}}, *changes)
    return {**tables, "model": {k: v for k, v in tables["model"].items() if k not in SIZES}}


@pytest.fixture
def pretrained(memory_host, tmp_path):
    return run(merged(TINY_RUN, PICTURES, {"run": {"steps": 4}, "samples": {"every_steps": 0}}), tmp_path / "pretrained", memory_host)


class OnPictures(ResumeContract):
    entry = "sft"
    tables = PICTURES

    @pytest.fixture(autouse=True)
    def _memory(self, memory_host: PluginHost) -> None:
        self.memory_host = memory_host

    def host(self) -> PluginHost:
        return self.memory_host


class TestFull(OnPictures):
    options = {"anchor": 0.5, "styles": {"plain": 3.0, "long": 1.0}, "domain_weights": {"photo": 1.0, "poster": 3.0}}


class TestAdapter(OnPictures):
    options = {"adapter": ADAPTER, "anchor": 0.5}


def assembled(tables, host):
    config = from_plain(tables, host)
    parts = assemble(config, host, build_engine(config, host), draws=0, note=lambda *_: None)
    return parts, config


def one_batch(parts, config, method, *, step=0):
    stage = config.stages[0]
    records = parts.source.fetch(parts.source.batch(step, global_batch=stage.batch_size, stage=stage))
    rng = Rng(config.run.seed).step(step)
    return method.prepare(Part(records, tuple(range(len(records))), stage), rng), rng


@pytest.mark.parametrize("adapter", [{"adapter": ADAPTER}, {}])
def test_the_anchor_is_exactly_zero_at_the_first_step_and_counts_its_weight_after(pretrained, memory_host, tmp_path, adapter):
    tables = after(pretrained, {"method": {"use": "sft", "anchor": 0.5, **adapter}})
    found = run(tables, tmp_path / "run", memory_host)
    away, flow, loss = (logged(found, name) for name in ("sft/anchor", "sft/flow", "loss"))
    assert away[1] == 0.0
    assert all(away[step] > 0 for step in (2, 3))
    assert all(loss[step] == pytest.approx(flow[step] + 0.5 * away[step]) for step in loss)


def test_the_encoder_that_was_trained_with_the_model_is_used_frozen_and_deployed(pretrained, memory_host, tmp_path):
    """Through a chain of stages: fine-tuning all weights, then an adapter over that."""
    before = load_pipeline(pretrained, host=memory_host).encoder.state_dict()
    full = run(after(pretrained, {"method": {"use": "sft"}}), tmp_path / "full", memory_host)
    second = run(after(full, {"method": {"use": "sft", "adapter": ADAPTER}, "run": {"seed": 5}}), tmp_path / "second", memory_host)
    for found in (full, second):
        facts = open_checkpoint(found).state["networks"]["encoder"]
        assert not facts["trained"]
        used = load_pipeline(found, host=memory_host).encoder.state_dict()
        assert all(torch.equal(used[key], value) for key, value in before.items())
    parts, _ = assembled(after(pretrained, {"method": {"use": "sft"}}), memory_host)
    assert all(torch.equal(parts.encoder.state_dict()[key], value) for key, value in before.items())


def test_styles_are_drawn_by_their_weights(memory_host):
    parts, config = assembled(
        merged(TINY_RUN, PICTURES, {"method": {"use": "sft", "styles": {"long": 1.0}, "caption_dropout": 0.5}}), memory_host
    )
    seen = []
    parts.method._tuning.text = lambda prompts: seen.extend(prompts)
    for step in range(8):
        one_batch(parts, config, parts.method, step=step)
    dropped = seen.count("")
    assert 0 < dropped < len(seen)
    assert all(prompt.startswith("a picture") for prompt in seen if prompt)


def test_domain_factors_have_mean_one_over_the_mixture():
    even = SftConfig(domain_weights={"photo": 1.0, "poster": 3.0}).loss_factors()
    assert even == {"photo": 0.5, "poster": 1.5}
    shares = {"photo": 9.0, "poster": 1.0}
    uneven = SftConfig(domain_weights={"photo": 1.0, "poster": 3.0}, domain_shares=shares).loss_factors()
    assert sum(shares[name] * factor for name, factor in uneven.items()) / 10 == pytest.approx(1)
    assert uneven["poster"] == pytest.approx(3 * uneven["photo"])


def test_domain_factors_multiply_each_samples_loss(memory_host):
    tables = merged(TINY_RUN, PICTURES, {"method": {"use": "sft", "domain_weights": {"photo": 1.0, "poster": 3.0}}})
    plain, config = assembled(merged(TINY_RUN, PICTURES, {"method": {"use": "sft"}}), memory_host)
    weighed, _ = assembled(tables, memory_host)
    losses = []
    for parts in (plain, weighed):
        stage, rng = config.stages[0], Rng(0).step(0)
        refs = parts.source.batch(0, global_batch=8, stage=Stage(size_px=16, steps=1, batch_size=8))
        by_row = {}
        for place, record in enumerate(parts.source.fetch(refs)):
            batch = parts.method.prepare(Part([record], (place,), stage), rng)
            by_row[place, record.category] = float(parts.method.loss(batch, parts.method.turn(0), rng)[0].detach())
        losses.append(by_row)
    assert {category for _, category in losses[0]} == {"photo", "poster"}
    for (place, category), value in losses[0].items():
        assert losses[1][place, category] == pytest.approx({"photo": 0.5, "poster": 1.5}[category] * value)


def test_a_category_without_a_weight_is_refused(memory_host):
    tables = merged(TINY_RUN, {"data": {"use": "memory-pictures", "odd": "logo"}})
    parts, config = assembled(merged(tables, {"method": {"use": "sft", "domain_weights": {"photo": 1.0, "poster": 3.0}}}), memory_host)
    with pytest.raises(DataError, match=r"record `row-\d+` is of category `logo`, but method.domain_weights knows only photo, poster"):
        for step in range(4):
            one_batch(parts, config, parts.method, step=step)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain_weights": {"photo": 0.0}}, "domain_weights: no weight is above 0"),
        ({"styles": {"long": 0.0}}, "styles: no weight is above 0"),
        ({"domain_weights": {"photo": 1.0}, "domain_shares": {"poster": 1.0}}, "the same domains expected"),
        ({"loss": {"use": "anchored-dpo"}}, 'expected a loss of kind "flow", but "anchored-dpo" is one of kind "pair"'),
    ],
)
def test_options_that_make_no_sense_are_refused(memory_host, options, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(merged(TINY_RUN, PICTURES, {"method": {"use": "sft", **options}}), memory_host)


def test_it_samples_from_the_deployed_network_only(memory_host):
    parts, _ = assembled(merged(TINY_RUN, PICTURES, {"method": {"use": "sft"}}), memory_host)
    assert isinstance(parts.method, Sft)
    with pytest.raises(ConfigError, match="samples from `transformer`, not from `base`"):
        parts.method.velocity_fn("base", ["red"], guidance_scale=1.0)
