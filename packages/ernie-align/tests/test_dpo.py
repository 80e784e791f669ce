"""Preference training: what is exactly zero, what must not move, what is refused, and what it says of itself."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ernie_align.cache_command import cache_reference
from ernie_align.cli import main
from ernie_align.dpo import build
from ernie_align.method_config import DpoConfig
from ernie_align.pair_batch import PairReader, both
from ernie_align.reference_cache import ErrorCache
from ernie_core import io
from ernie_core.api import App, ConfigError, DataError, Part, PluginHost, RecordRef, Stage, WeightsError, from_plain
from ernie_core.flow.losses import PairError
from ernie_core.rng import Rng
from ernie_core.testing.resume import ResumeContract, one_thread
from ernie_core.testing.runs import TINY_RUN, logged, merged, write_config
from ernie_core.train.assemble import assemble, build_engine
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.train.start import train

PAIRS = {"data": {"use": "memory-pairs"}}
SIZES = ("hidden_size", "num_attention_heads", "num_layers", "ffn_hidden_size")
ADAPTER = {"rank": 2, "targets": ["all"]}  # a new model gives 0: only the last map can learn at first
COPY = {"adapter": False, "reference": {"mode": "copy"}}
MODES = {
    "adapter-off": {"adapter": ADAPTER},
    "copy": COPY,
    "copy-beside-an-adapter": {"adapter": ADAPTER, "reference": {"mode": "copy", "offload": True}},
    "following": {"adapter": False, "reference": {"mode": "copy", "ema": 0.9}},
    "following-adapter": {"adapter": ADAPTER, "reference": {"mode": "copy", "ema": 0.9}},
}


def dpo(**options):
    return merged(TINY_RUN, PAIRS, {"method": {"use": "dpo", **options}})


def run(tables, out, host, report=lambda line: None):
    with one_thread():
        train(from_plain(tables, host), host=host, out=out, report=report)
    return out


def after(init, *changes):
    """A short run that starts from another."""
    tables = merged(TINY_RUN, PAIRS, {"run": {"steps": 4}, "samples": {"every_steps": 0}, "model": {"init": str(init)}}, *changes)
    return {**tables, "model": {k: v for k, v in tables["model"].items() if k not in SIZES}}


@pytest.fixture
def tuned(memory_host, tmp_path):
    """Something to start from whose output is not 0."""
    tables = merged(TINY_RUN, {"data": {"use": "memory-pictures"}, "run": {"steps": 4}, "samples": {"every_steps": 0}})
    return run(tables, tmp_path / "tuned", memory_host)


class OnPairs(ResumeContract):
    entry = "dpo"
    tables = PAIRS

    @pytest.fixture(autouse=True)
    def _memory(self, memory_host: PluginHost) -> None:
        self.memory_host = memory_host

    def host(self) -> PluginHost:
        return self.memory_host


class TestAdapterOff(OnPairs):
    options = MODES["adapter-off"]


class TestCopy(OnPairs):
    options = MODES["copy"]
    test_micro_batches_give_the_same_gradients_as_one_batch = None  # the adapter's is the same code
    test_a_refused_step_changes_nothing_but_the_counters = None


class TestCopyBesideAnAdapter(OnPairs):
    options = {**MODES["copy-beside-an-adapter"], "draws_per_pair": 2}
    test_a_refused_step_changes_nothing_but_the_counters = None


class TestFollowing(OnPairs):
    options = MODES["following"]
    test_micro_batches_give_the_same_gradients_as_one_batch = None


class TestFollowingAdapter(OnPairs):
    options = {**MODES["following-adapter"], "loss": {"use": "linear-dpo"}}
    test_micro_batches_give_the_same_gradients_as_one_batch = None
    test_a_step_changes_what_its_turn_trains_and_nothing_else = None


class TestCached(OnPairs):
    test_micro_batches_give_the_same_gradients_as_one_batch = None
    test_a_refused_step_changes_nothing_but_the_counters = None

    @pytest.fixture(autouse=True)
    def _cached(self, memory_host: PluginHost, tmp_path_factory) -> None:
        folder = tmp_path_factory.mktemp("cached") / "errors"
        self.options = cached_options(folder)
        write_cache(self.plain(self.short()), memory_host, folder)


def cached_options(folder, **options):
    return {"adapter": False, "draws_per_pair": 2, "reference": {"mode": "cached", "cache": str(folder)}, **options}


def write_cache(tables, host, folder):
    with one_thread():
        return cache_reference(from_plain(tables, host), host=host, out=folder)


def assembled(tables, host):
    config = from_plain(tables, host)
    parts = assemble(config, host, build_engine(config, host), draws=0, note=lambda *_: None)
    return parts, config


def one_batch(parts, config, *, step=0, size=4):
    stage = Stage(size_px=16, steps=1, batch_size=size)
    records = parts.source.fetch(parts.source.batch(step, global_batch=size, stage=stage))
    rng = Rng(config.run.seed).step(step)
    return parts.method.prepare(Part(records, tuple(range(size)), stage), rng), rng


# ---- what is exact ----


@pytest.mark.parametrize("mode", MODES)
def test_the_margin_is_bitwise_zero_at_the_first_step_and_not_after(tuned, memory_host, tmp_path, mode):
    found = run(after(tuned, {"method": {"use": "dpo", **MODES[mode]}}), tmp_path / "run", memory_host)
    assert logged(found, "dpo/margin_squared")[1] == 0.0
    assert logged(found, "dpo/implicit_accuracy")[1] == 0.0, "an equal pair is not won"
    assert all(logged(found, "dpo/margin_squared")[step] > 0 for step in (2, 3, 4))
    win, lose = logged(found, "dpo/policy_win")[1], logged(found, "dpo/policy_lose")[1]
    assert logged(found, "loss")[1] == pytest.approx(np.log(2) + 0.35 * win + 0.15 * lose, rel=1e-6)


def test_the_margin_is_bitwise_zero_with_recomputed_activations_and_in_bfloat16(tuned, memory_host, tmp_path):
    tables = after(tuned, {"method": {"use": "dpo", "adapter": ADAPTER}, "model": {"checkpointing": "full"}, "run": {"steps": 2}})
    found = run(merged(tables, {"precision": {"compute": "bfloat16"}}), tmp_path / "run", memory_host)
    assert logged(found, "dpo/margin_squared")[1] == 0.0


def test_recomputed_activations_give_the_same_gradient(tuned, memory_host, tmp_path):
    """Backward runs after the loss has returned: the adapter must still be on then."""
    norms = []
    for kind in ("none", "full"):
        tables = after(tuned, {"method": {"use": "dpo", "adapter": ADAPTER}, "model": {"checkpointing": kind}})
        norms.append(logged(run(tables, tmp_path / kind, memory_host), "grad_norm/adapter"))
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_the_frozen_reference_keeps_its_hash_and_the_following_one_moves(tuned, memory_host, tmp_path):
    checkpoints = {"checkpoint": {"every_steps": 1, "keep": 5}}
    hashes = {}
    for mode in ("copy", "copy-beside-an-adapter", "following", "following-adapter"):
        found = run(after(tuned, {"method": {"use": "dpo", **MODES[mode]}}, checkpoints), tmp_path / mode, memory_host)
        states = [open_checkpoint(found, step=step) for step in (1, 4)]
        facts = [state.state["networks"]["reference"] for state in states]
        assert not any(fact["trained"] for fact in facts)
        if mode.startswith("copy"):
            hashes[mode] = {fact["sha256"] for fact in facts}
            assert not (states[0].directory / "reference.safetensors").exists()
        else:
            first, last = (state.tensors("reference.safetensors") for state in states)
            assert any(not torch.equal(first[key], last[key]) for key in first), "it follows"
            assert "sha256" not in facts[0]
            assert facts[1]["ema_updates"] == 4
    assert hashes["copy"] == hashes["copy-beside-an-adapter"]
    assert len(hashes["copy"]) == 1


def test_a_following_reference_is_the_average_of_the_policys_weights(tuned, memory_host, tmp_path):
    options = {"adapter": False, "reference": {"mode": "copy", "ema": 0.75}}
    tables = after(tuned, {"method": {"use": "dpo", **options}, "checkpoint": {"every_steps": 1, "keep": 5}, "run": {"steps": 2}})
    found = run(tables, tmp_path / "run", memory_host)
    start = open_checkpoint(tuned).weights("transformer")
    one, two = (open_checkpoint(found, step=step) for step in (1, 2))
    for key, value in two.tensors("reference.safetensors").items():
        mean = 0.75 * (0.75 * start[key] + 0.25 * one.tensors("transformer.safetensors")[key])
        torch.testing.assert_close(value, mean + 0.25 * two.tensors("transformer.safetensors")[key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", [{}, {"draws_per_pair": 3}])
def test_both_pictures_of_a_pair_share_noise_and_noise_level(memory_host, options):
    parts, config = assembled(dpo(adapter=ADAPTER, **options), memory_host)
    seen = []
    original = parts.method._matching.predict
    parts.method._matching.predict = lambda net, *given: seen.append(given) or original(net, *given)
    batch, rng = one_batch(parts, config)
    parts.method.loss(batch, parts.method.turn(0), rng)
    (x0, noise, sigma, text), reference = seen
    assert len(x0) == 8
    for values in (noise, sigma):
        assert torch.equal(values[:4], values[4:])
    assert len(set(batch.keys)) in (0, len({tuple(row.reshape(-1)[:2].tolist()) for row in noise[:4]})), "other pairs, other noise"
    assert text.lens[:4] == text.lens[4:]
    assert torch.equal(text.text_BTE[:4], text.text_BTE[4:])
    assert all(torch.equal(a, b) for a, b in zip((x0, noise, sigma), reference[:3], strict=True))


def test_both_pictures_of_a_pair_share_the_codecs_posterior_noise(memory_host):
    parts, config = assembled(dpo(adapter=ADAPTER), memory_host)
    seen = []
    original = parts.method._matching.latents
    parts.method._matching.latents = lambda part, rng: seen.append(part) or original(part, rng)
    one_batch(parts, config)
    (part,) = seen
    assert list(part.indices) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_strength_is_the_same_in_every_aspect_bucket_of_a_stage(memory_host):
    parts, config = assembled(dpo(adapter=ADAPTER), memory_host)
    stage, rng = Stage(size_px=16, steps=1, batch_size=2), Rng(config.run.seed).step(0)
    for size_px in ((16, 16), (24, 12), (8, 28)):
        records = parts.source.fetch([RecordRef(f"row-{row}", row, size_px) for row in (1, 2)])
        batch = parts.method.prepare(Part(records, (0, 1), stage), rng)
        _, metrics = parts.method.loss(batch, parts.method.turn(0), rng)
        assert batch.latents_2BCHW.shape[-2:] == (size_px[1] // 4, size_px[0] // 4)
        assert metrics.means()["dpo/beta_eff"] == pytest.approx(0.05 * 48 * 4 * 4)


def test_swapping_the_pictures_flips_the_margin(tuned, memory_host):
    parts, config = assembled(after(tuned, {"method": {"use": "dpo", **COPY}}), memory_host)
    method = parts.method
    with torch.no_grad():
        for parameter in method._policy.transformer.parameters():
            parameter.mul_(1.01)
    batch, rng = one_batch(parts, config)
    noise, sigma = method._reader.noise(batch, rng)
    policy, reference = method._errors(method._policy.transformer, batch, noise, sigma), method.reference_errors(batch, noise, sigma)
    swapped = [PairError(errors.lose_B, errors.win_B, errors.elements) for errors in (policy, reference)]
    margins = [method._loss.terms(*pair)["margin"] for pair in ((policy, reference), swapped)]
    assert torch.equal(margins[0], -margins[1])
    assert (margins[0] != 0).all()


def test_draws_keyed_by_pairs_do_not_depend_on_the_step_or_the_place(memory_host):
    parts, _ = assembled(dpo(adapter=ADAPTER, draws_per_pair=4), memory_host)
    reader, stage = parts.method._reader, Stage(size_px=16, steps=1, batch_size=4)
    assert isinstance(reader, PairReader)
    records = parts.source.fetch(parts.source.batch(0, global_batch=4, stage=stage))
    forwards = reader.read(Part(records, (0, 1, 2, 3), stage), Rng(0).step(0), draws=(0, 1, 2, 3))
    backwards = reader.read(Part(records[::-1], (4, 5, 6, 7), stage), Rng(0).step(9), draws=(3, 2, 1, 0))
    (noise, sigma), (noise_back, sigma_back) = reader.noise(forwards, Rng(0).step(0)), reader.noise(backwards, Rng(0).step(9))
    assert torch.equal(noise, noise_back.flip(0))
    assert torch.equal(sigma, sigma_back.flip(0))
    assert forwards.keys == backwards.keys[::-1]
    alone = [records[0]] * 4
    levels = reader.noise(reader.read(Part(alone, (0, 1, 2, 3), stage), Rng(0).step(0), draws=(0, 1, 2, 3)), Rng(0).step(0))[1]
    quarters = torch.special.ndtr(torch.logit(levels.double())) * 4
    assert sorted(quarters.floor().int().tolist()) == [0, 1, 2, 3], "the draws of one pair are stratified"
    assert both(levels).shape == (8,)


# ---- cached errors ----


def test_a_cached_reference_gives_the_numbers_of_a_live_one(tuned, memory_host, tmp_path):
    """Bitwise where batches have one shape: pairs one by one. Together with others, padding and the order of sums move the last bits."""
    folder, keyed = tmp_path / "errors", {"use": "dpo", "adapter": False, "draws_per_pair": 2}
    cached = after(tuned, {"method": {**keyed, "reference": {"mode": "cached", "cache": str(folder)}}, "run": {"micro_batch_size": 1}})
    assert write_cache(cached, memory_host, folder) > 4
    live = after(tuned, {"method": {**keyed, "reference": {"mode": "copy"}}, "run": {"micro_batch_size": 1}})
    names = ("loss", "dpo/margin", "dpo/reference_win", "dpo/reference_lose", "grad_norm/transformer")
    first, second = (run(tables, tmp_path / name, memory_host) for name, tables in (("cached", cached), ("live", live)))
    for name in names:
        assert logged(first, name) == logged(second, name), name
    assert logged(first, "dpo/margin_squared")[1] == 0.0
    third = run(merged(cached, {"run": {"micro_batch_size": 4}}), tmp_path / "together", memory_host)
    assert logged(third, "dpo/reference_win") == pytest.approx(logged(second, "dpo/reference_win"), rel=1e-5)


def test_an_adapter_with_cached_errors_still_measures_drift(tuned, memory_host, tmp_path):
    folder = tmp_path / "errors"
    options = cached_options(folder, adapter=ADAPTER)
    tables = after(tuned, {"method": {"use": "dpo", **options}, "validation": {"every_steps": 4}})
    write_cache(tables, memory_host, folder)
    lines = []
    found = run(tables, tmp_path / "run", memory_host, report=lines.append)
    assert logged(found, "validation/dpo/drift-sigma-9")[4] > 0
    assert any("cached errors in" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": {"seed": 1}}, "seed: cached 0, here 1"),
        ({"precision": {"compute": "bfloat16"}}, "compute: cached"),
        ({"method": {"density": {"use": "uniform"}}}, "density: cached"),
        ({"method": {"draws_per_pair": 3}}, "draws_per_pair: cached 2, here 3"),
        ({"method": {"styles": {"long": 1.0}}}, "styles: cached"),
        ({"method": {"shift": {"rule": "none", "floor": 2.0}}}, "shift: cached"),
        ({"encoder": {"use": "bytes", "width": 32, "byte_width": 8}}, "encoder: cached"),
        ({"codec": {"use": "pixel", "patch": 4, "scale": 2.0}}, "codec: cached"),
        ({"model": {"eps": 1e-5}}, "model: cached"),
        ({"model": {"rope_layout": "standard"}}, "model: cached"),
        ({"ops": {"use": "reference"}}, "ops: cached .*, here .*reference"),
        ({"data": {"use": "memory-pairs", "tint": 5}}, "its pictures or its prompt are others"),
        ({"run": {"steps": 40}}, "was not cached"),
    ],
)
def test_errors_of_another_run_are_refused(memory_host, tmp_path, change, message):
    folder = tmp_path / "errors"
    tables = merged(dpo(**cached_options(folder)), {"run": {"steps": 1}})
    write_cache(tables, memory_host, folder)
    changed = merged(tables, change)
    if "method" in change:
        changed["method"] = {**tables["method"], **change["method"]}
    with pytest.raises((ConfigError, DataError), match=message):
        run(changed, tmp_path / "run", memory_host)


def test_errors_of_another_reference_and_damaged_ones_are_refused(tuned, memory_host, tmp_path):
    folder = tmp_path / "errors"
    tables = after(tuned, {"method": {"use": "dpo", **cached_options(folder)}})
    with pytest.raises(ConfigError, match="no such folder; write it with `ernie align cache-reference"):
        run(tables, tmp_path / "run", memory_host)
    write_cache(tables, memory_host, folder)
    with pytest.raises(ConfigError, match="already exists"):
        write_cache(tables, memory_host, folder)
    fresh = merged(dpo(**cached_options(folder)), {"run": {"steps": 4}})
    with pytest.raises(ConfigError, match=r"transformer: cached .*\n.*Write it anew|encoder: cached"):
        run(fresh, tmp_path / "run", memory_host)
    data = bytearray((folder / "errors.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "errors.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match=r"reference.cache: .*errors.safetensors"):
        run(tables, tmp_path / "run", memory_host)
    io.remove_folder(folder)
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"reference\.cache: .*no manifest.json\. Write it anew"):
        ErrorCache.open(folder, {})
    folder.rmdir()
    with io.commit_folder(folder) as writer:
        writer.add_bytes("letter.txt", b"something else")
    with pytest.raises(ConfigError, match=r"holds no identity\.json; expected a folder that `ernie align cache-reference` wrote"):
        ErrorCache.open(folder, {})


def test_errors_are_cached_by_one_process(memory_host, tmp_path, monkeypatch):
    monkeypatch.setattr("ernie_align.cache_command.build_engine", lambda config, host: SimpleNamespace(group=SimpleNamespace(world_size=2)))
    with pytest.raises(ConfigError, match="cache-reference runs in one process: start it without torchrun"):
        write_cache(dpo(**cached_options(tmp_path / "errors")), memory_host, tmp_path / "errors")


def test_the_command_writes_what_the_run_reads(memory_host, tmp_path, capsys):
    folder = tmp_path / "errors"
    config = write_config(tmp_path / "run.toml", merged(dpo(**cached_options(folder)), {"run": {"steps": 2}}))
    app = App(disable=["data"])
    with one_thread():
        assert main(["cache-reference", str(config), "--out", str(folder)], app) == 0
    assert "errors of the reference" in capsys.readouterr().out
    found = run(merged(dpo(**cached_options(folder)), {"run": {"steps": 2}}), tmp_path / "run", memory_host)
    assert logged(found, "dpo/reference_win")[1] > 0
    with pytest.raises(ConfigError, match="expected a config with"):
        write_cache(dpo(adapter=ADAPTER), memory_host, tmp_path / "other")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"pair `row-\d+`: the chosen picture is 16 x 16, the rejected one 16 x 12; expected the same size"),
        ("identical", r"pair `row-\d+`: chosen and rejected picture are equal"),
        ("prompt", r"pair `row-\d+` has no prompt"),
        ("plain-record", r"record `row-\d+` is no preference pair: method dpo needs a data source of pairs"),
    ],
)
def test_pairs_that_cannot_be_learnt_from_are_refused(memory_host, fault, message):
    parts, config = assembled(merged(dpo(adapter=ADAPTER), {"data": {"use": "memory-pairs", "fault": fault}}), memory_host)
    with pytest.raises(DataError, match=message):
        for step in range(4):
            one_batch(parts, config, step=step)


@pytest.mark.parametrize("side", ["pixels", "lose_pixels"])
def test_pictures_that_may_hold_nan_are_refused(memory_host, side):
    parts, _ = assembled(dpo(adapter=ADAPTER), memory_host)
    (record,) = parts.source.fetch([RecordRef("row-1", 1, (16, 16))])
    odd = replace(record, **{side: np.full((16, 16, 3), np.nan, np.float32)})
    name = {"pixels": "chosen", "lose_pixels": "rejected"}[side]
    with pytest.raises(DataError, match=f"pair `row-1`: the {name} picture is float32, expected uint8"):
        parts.method.prepare(Part([odd], (0,), Stage(size_px=16, steps=1, batch_size=1)), Rng(0).step(0))


def test_a_loss_that_cannot_say_what_it_does_is_refused():
    context = SimpleNamespace(component=lambda registry, selection: lambda policy, reference: None)
    with pytest.raises(ConfigError, match="the loss `anchored-dpo` cannot say what it does: it lacks beta_eff, terms, describe"):
        build(DpoConfig(), context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": {"use": "mse"}}, 'expected a loss of kind "pair", but "mse" is one of kind "flow"'),
        ({"adapter": False}, 'mode = "adapter-off" needs an adapter'),
        ({"reference": {"offload": True}}, 'reference.offload has no meaning with mode = "adapter-off"'),
        ({"reference": {"mode": "cached", "cache": "x"}}, "needs draws_per_pair"),
        ({"reference": {"mode": "cached"}, "draws_per_pair": 1}, 'mode = "cached" needs `cache`'),
        ({"reference": {"mode": "copy", "init": "x", "ema": 0.5}}, "remove `init` or `ema`"),
        ({"reference": {"mode": "copy", "offload": True, "ema": 0.5}}, "there is nothing to offload"),
    ],
)
def test_options_that_make_no_sense_are_refused(memory_host, options, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(dpo(**options), memory_host)


def test_an_adapter_that_does_not_fit_is_refused(tuned, memory_host, tmp_path):
    with pytest.raises(ConfigError, match="no linear map is called `to_x`"):
        assembled(dpo(adapter={"rank": 2, "targets": ["to_x"]}), memory_host)
    options = {"use": "dpo", "adapter": ADAPTER}
    found = run(after(tuned, {"method": options}), tmp_path / "first", memory_host)
    tuned.rename(tmp_path / "moved")
    with pytest.raises(
        WeightsError, match=r"its prompt encoder was trained by the run at .*tuned, which is not there any more\. Restore it"
    ):
        run(after(found, {"method": options}), tmp_path / "second", memory_host)


def test_a_reference_of_another_architecture_or_encoder_is_refused(tuned, memory_host, tmp_path):
    pictures = {"data": {"use": "memory-pictures"}, "run": {"steps": 1}, "samples": {"every_steps": 0}}
    deeper = run(merged(TINY_RUN, pictures, {"model": {"num_layers": 2}}), tmp_path / "deeper", memory_host)
    other = run(merged(TINY_RUN, pictures, {"run": {"seed": 3}}), tmp_path / "other", memory_host)
    options = {"adapter": False, "reference": {"mode": "copy", "init": str(deeper)}}
    with pytest.raises(ConfigError, match=r"different architectures: .*num_layers 1 and 2"):
        assembled(after(tuned, {"method": {"use": "dpo", **options}}), memory_host)
    options["reference"]["init"] = str(other)
    with pytest.raises(WeightsError, match="trained together with another prompt encoder"):
        assembled(after(tuned, {"method": {"use": "dpo", **options}}), memory_host)


def test_the_reference_may_come_from_an_earlier_round(tuned, memory_host, tmp_path):
    first = run(after(tuned, {"method": {"use": "dpo", "adapter": ADAPTER}}), tmp_path / "first", memory_host)
    options = {"adapter": ADAPTER, "reference": {"mode": "copy", "init": str(tuned)}}
    second = run(after(first, {"method": {"use": "dpo", **options}}), tmp_path / "second", memory_host)
    assert logged(second, "dpo/margin_squared")[1] > 0


# ---- hand-off ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"codec": {"use": "pixel", "patch": 4, "scale": 2.0}},
            r"codec: .*\"scale\": 2.0.* was trained with .*\"scale\": 1.0.*: copy its \[codec\]",
        ),
        ({"encoder": {"use": "bytes", "width": 32, "byte_width": 8}}, r"encoder: .*was trained with .*\"byte_width\": 16"),
    ],
)
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_another_codec_or_encoder_than_the_initial_models_is_refused(tuned, memory_host, tmp_path, method, change, message):
    with pytest.raises(ConfigError, match=message):
        run(after(tuned, {"method": {"use": method}}, change), tmp_path / "run", memory_host)


def test_a_reference_that_was_trained_with_another_codec_is_refused(tuned, memory_host, tmp_path):
    """It has the shapes of ours and would give velocities of other latents."""
    pictures = {"data": {"use": "memory-pictures"}, "run": {"steps": 1}, "samples": {"every_steps": 0}}
    other = run(merged(TINY_RUN, pictures, {"codec": {"use": "pixel", "patch": 4, "scale": 2.0}}), tmp_path / "other", memory_host)
    options = {"adapter": ADAPTER, "reference": {"mode": "copy", "init": str(other)}}
    with pytest.raises(ConfigError, match=r"codec: .*but method\.reference\.init = .*other was trained with .*\"scale\": 2\.0"):
        run(after(tuned, {"method": {"use": "dpo", **options}}), tmp_path / "run", memory_host)


def test_a_released_pipeline_needs_its_own_codec_and_encoder(memory_host, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "ErnieImagePipeline"}))
    problems = memory_host.check_config(from_plain(after(tmp_path, {"method": {"use": "dpo"}}), memory_host))
    assert [problem.where for problem in problems] == ["codec", "encoder"]
    assert 'which was trained with "flux2"' in problems[0].message
    released = {"codec": {"use": "flux2", "path": "x"}, "encoder": {"use": "ministral3", "path": "x"}}
    assert memory_host.check_config(from_plain(after(tmp_path, {"method": {"use": "dpo"}}, released), memory_host)) == []


# ---- what it says ----


def test_it_says_what_its_coefficients_amount_to(memory_host, tmp_path):
    lines = []
    tables = merged(dpo(adapter=ADAPTER), {"run": {"steps": 1}})
    run(tables, tmp_path / "run", memory_host, report=lines.append)
    assert "16 px: beta_eff 38.4 in units of the anchors' errors" in lines
    assert any(line.startswith("24 px: M* ") for line in lines)
    assert "reference: the policy with its adapter off" in lines
    mean = {"use": "anchored-dpo", "dpo_reduction": "mean"}
    lines.clear()
    run(merged(tables, {"method": {"use": "dpo", "adapter": ADAPTER, "loss": mean}}), tmp_path / "mean", memory_host, report=lines.append)
    assert any("warning: beta_eff 0.05 is not above anchor_lose 0.15" in line for line in lines)


def test_metrics_are_those_of_the_losss_own_terms(tuned, memory_host, tmp_path):
    found = run(after(tuned, {"method": {"use": "dpo", "adapter": ADAPTER}}), tmp_path / "run", memory_host)
    for step in (1, 4):
        values = {name: logged(found, f"dpo/{name}")[step] for name in ("beta_eff", "saturation", "loser_coefficient", "margin")}
        sides = [logged(found, f"dpo/{side}")[step] for side in ("policy_lose", "reference_lose", "policy_win", "reference_win")]
        assert values["margin"] == pytest.approx((sides[0] - sides[1]) - (sides[2] - sides[3]), abs=1e-6)
        assert values["loser_coefficient"] == pytest.approx(0.15 - values["beta_eff"] * values["saturation"], rel=1e-5)
        assert values["beta_eff"] == pytest.approx(0.05 * 48 * 16)


def test_validation_looks_at_deciles_with_fixed_noise(tuned, memory_host, tmp_path):
    tables = after(tuned, {"method": {"use": "dpo", "adapter": ADAPTER}, "validation": {"every_steps": 2}, "ema": False})
    found = run(tables, tmp_path / "run", memory_host)
    drift = [logged(found, f"validation/dpo/drift-sigma-{d}") for d in range(10)]
    assert all(d[4] > d[2] > 0 for d in drift)
    assert 0 <= logged(found, "validation/dpo/implicit_accuracy")[4] <= 1
    assert logged(found, "validation/dpo/margin")[4] != 0
    assert logged(found, "validation/loss")[4] > 0


def test_validation_measures_the_margin_that_training_does(tuned, memory_host):
    """Of a policy that differs from its reference: the mean over deciles of the loss's own terms, in size and in sign."""
    parts, config = assembled(after(tuned, {"method": {"use": "dpo", **COPY}}), memory_host)
    method = parts.method
    with torch.no_grad():
        for parameter in method._policy.transformer.parameters():
            parameter.mul_(1.05)
    batch, rng = one_batch(parts, config)
    found = method.validate(batch, rng).means()
    noise = method._matching.noise(rng.at("validation-noise"), batch.indices, batch.latents_2BCHW.shape[1:])
    margins, drifts = [], []
    with torch.no_grad():
        for d in range(10):
            sigma = torch.full((4,), (d + 0.5) / 10)
            policy, reference = (
                method._errors(method._policy.transformer, batch, noise, sigma),
                method.reference_errors(batch, noise, sigma),
            )
            margins.append(method._loss.terms(policy, reference)["margin"])
            with method._reference.network() as network:
                pair = [method._velocity(net, batch, noise, sigma) for net in (method._policy.transformer, network)]
            drifts.append((pair[0] - pair[1]).square().mean())
    margin = torch.stack(margins)
    assert margin.mean().abs() > 1e-4
    assert found["dpo/margin"] == pytest.approx(margin.mean().item(), rel=1e-4)
    assert found["dpo/implicit_accuracy"] == pytest.approx((margin > 0).float().mean().item())
    assert [found[f"dpo/drift-sigma-{d}"] for d in range(10)] == pytest.approx([drift.item() for drift in drifts], rel=1e-4)
