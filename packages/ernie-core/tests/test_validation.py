"""What a run shows of itself: validation in portions no larger than training's, and picture grids in the sampler's precision and a size that fits."""

from types import SimpleNamespace

import pytest
import torch

from ernie_core.config.load import from_plain
from ernie_core.errors import ConfigError
from ernie_core.records import Stage
from ernie_core.testing.runs import TINY_RUN, merged
from ernie_core.train.method import Metrics
from ernie_core.train.pretrain import Pretrain
from ernie_core.train.start import train
from ernie_core.train.validation import validation_metrics

TOY_RUN = merged(TINY_RUN, {"data": {"use": "toy-pictures"}, "run": {"steps": 2}, "validation": {"every_steps": 0}})


class Portions:
    """Stands for the method and the data source: remembers which places were asked for at once."""

    def __init__(self):
        self.seen = []

    def batch(self, step, *, global_batch, stage):
        return list(range(global_batch))

    def fetch(self, refs):
        return refs

    def prepare(self, part, rng):
        assert list(part.records) == list(part.indices)
        self.seen.append(tuple(part.indices))
        return part

    def validate(self, batch, rng):
        return Metrics({"loss": (float(len(batch)), float(len(batch)))})


@pytest.mark.parametrize(("micro", "sizes"), [(None, [2, 2, 2]), (3, [3, 3])])
def test_a_rank_validates_as_many_pictures_at_a_time_as_it_trains_on(toy_host, micro, sizes):
    plain = merged(TOY_RUN, {"validation": {"samples": 12}, "run": {"micro_batch_size": micro}})
    portions, stage = Portions(), Stage(size_px=16, steps=6, batch_size=4)

    def second_of_two(stage):
        return range(stage.batch_size // 2, stage.batch_size)

    group = SimpleNamespace(rank=1, world_size=2)
    metrics = validation_metrics(portions, portions, stage, from_plain(plain, toy_host), group, share=second_of_two)
    assert [len(places) for places in portions.seen] == sizes
    assert sum(portions.seen, ()) == tuple(range(6, 12))
    assert metrics.sums["loss"] == (6.0, 6.0)


@pytest.mark.parametrize(("latent_dtype", "expected"), [("model", torch.bfloat16), ("float32", torch.float32)])
def test_grids_are_sampled_in_the_configs_latent_dtype(toy_host, tmp_path, monkeypatch, latent_dtype, expected):
    states, original = [], Pretrain.velocity_fn

    def watched(self, *arguments, **options):
        velocity_fn = original(self, *arguments, **options)
        return lambda x, sigma: (states.append(x.dtype), velocity_fn(x, sigma))[1]

    monkeypatch.setattr(Pretrain, "velocity_fn", watched)
    precision = {"compute": "bfloat16", "latent_dtype": latent_dtype}
    config = from_plain(merged(TOY_RUN, {"precision": precision, "samples": {"every_steps": 2, "steps": 3}}), toy_host)
    train(config, host=toy_host, out=tmp_path / "run")
    assert states == [expected] * 3


@pytest.mark.parametrize("size_px", [2, 17])
def test_a_grid_size_that_the_codec_cannot_cut_is_refused_before_training(toy_host, tmp_path, size_px):
    config = from_plain(merged(TOY_RUN, {"samples": {"size_px": size_px}}), toy_host)
    with pytest.raises(
        ConfigError, match=f"samples.size_px: picture size {size_px}x{size_px}: width and height must be multiples of 4 pixels"
    ):
        train(config, host=toy_host, out=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
