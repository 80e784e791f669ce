"""Fine-tuning and preference training of a released pipeline's kind: FLUX.2 autoencoder with posterior noise, language model, weights in diffusers' layout."""

import pytest

from ernie_align.cache_command import cache_reference
from ernie_core.api import from_plain
from ernie_core.testing.resume import one_thread
from ernie_core.testing.runs import TINY_RUN, logged, merged
from ernie_core.testing.tiny import tiny_pipeline
from ernie_core.train.start import train


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


def tables(released, data, method):
    parts = {"codec": {"use": "flux2", "path": str(released)}, "encoder": {"use": "ministral3", "path": str(released)}}
    stages = [{"size_px": 32, "steps": 2, "batch_size": 2}]
    quick = {"samples": {"every_steps": 0}, "validation": {"every_steps": 0}, "run": {"micro_batch_size": 1}, "stages": stages}
    plain = merged(TINY_RUN, parts, quick, {"data": {"use": data}, "method": method})
    return {**plain, "model": {"init": str(released)}}


def run(plain, out, host):
    with one_thread():
        train(from_plain(plain, host), host=host, out=out)
    return out


def test_preference_training_starts_at_a_margin_of_zero_and_moves(released, memory_host, tmp_path):
    found = run(tables(released, "memory-pairs", {"use": "dpo", "adapter": {"rank": 2}}), tmp_path / "run", memory_host)
    squared = logged(found, "dpo/margin_squared")
    assert squared[1] == 0.0 < squared[2]
    assert logged(found, "dpo/beta_eff")[1] == pytest.approx(0.05 * 16 * 8 * 8)


def test_cached_errors_hold_with_posterior_noise(released, memory_host, tmp_path):
    """A pair's latents are the same whenever it comes."""
    folder, keyed = tmp_path / "errors", {"use": "dpo", "adapter": {"rank": 2}, "draws_per_pair": 2}
    cached = tables(released, "memory-pairs", {**keyed, "reference": {"mode": "cached", "cache": str(folder)}})
    with one_thread():
        cache_reference(from_plain(cached, memory_host), host=memory_host, out=folder)
    live = run(tables(released, "memory-pairs", keyed), tmp_path / "live", memory_host)
    stored = run(cached, tmp_path / "stored", memory_host)
    for name in ("dpo/reference_win", "dpo/reference_lose", "dpo/margin", "loss"):
        assert logged(stored, name) == logged(live, name), name


def test_fine_tuning_an_adapter(released, memory_host, tmp_path):
    method = {"use": "sft", "adapter": {"rank": 2}, "anchor": 0.1}
    found = run(tables(released, "memory-pictures", method), tmp_path / "run", memory_host)
    away = logged(found, "sft/anchor")
    assert away[1] == 0.0 < away[2]
