"""Real training runs on a build: resumed to the bit, on sound bytes only, and never on another data set."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from ernie_core import io
from ernie_core.api import DataError, DataSourceContext, PluginHost, RunFolderError, Selection, Stage, from_plain
from ernie_core.testing import tiny
from ernie_core.testing.runs import TINY_RUN, digest, logged, merged
from ernie_core.train.checkpoint import open_checkpoint
from ernie_core.train.start import train
from ernie_data.engine.build import build_dataset
from ernie_data.loading.entries import CuratedConfig
from ernie_data.recipe import FolderInput, IndexOptions, Recipe, RunOptions
from ernie_data.sources import curated
from ernie_data.sources.curated import CuratedSource, build
from ernie_data.stages.entries import DecodeConfig, SizeConfig

COUNT = 60
INDEX = IndexOptions(category="format", score="aspect", size_px=(16, 24), multiple_px=4, bins=4)
HOST = PluginHost.discover()


def recipe(raw, index=INDEX):
    stages = (Selection("decode", DecodeConfig()), Selection("size", SizeConfig(size_px=32, multiple_px=4)))
    return Recipe(
        sources=(Selection("folder", FolderInput(path=str(raw))),), stages=stages, unit_rows=16, index=index, run=RunOptions(workers=1)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("training")
    raw = base / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = raw / f"{i:03d}.{('png', 'bmp', 'webp')[i % 3]}"
        Image.fromarray(rng.integers(0, 256, (20 + 8 * (i % 4), 20 + 8 * (i % 3), 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"number {i}")
    build_dataset(recipe(raw), base / "out")
    return raw, base / "out"


@pytest.fixture
def out(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "out")
    return tmp_path / "out"


def config(path, *changes, **data):
    plain = merged(
        TINY_RUN, {"data": {"use": "curated", "path": str(path), **data}, "samples": {"every_steps": 0}, "validation": {"every_steps": 0}}
    )
    return from_plain(merged(plain, *changes), HOST)


def ledger(run):
    path = run / "ledger.jsonl"
    return [json.loads(line) for line in io.read_lines(path)] if path.exists() else []


@contextmanager
def watched():
    """What every step is given: step -> [(key, sha256 of the pixels)], as the sources fetch it."""
    seen: dict[int, list[tuple[str, str]]] = {}
    fetch = CuratedSource.fetch

    def fetched(self, refs):
        records = fetch(self, refs)
        for ref, record in zip(refs, records):
            found = (record.key, curated.hashlib.sha256(record.pixels.tobytes()).hexdigest())
            assert seen.setdefault(ref.step, {}).setdefault(ref.slot, found) == found, f"step {ref.step} was given something else before"
        return records

    with mock.patch.object(CuratedSource, "fetch", fetched):
        yield seen


class Stopped(Exception):
    pass


def stop_at(step):
    def on_step(done, total):
        if done == step:
            raise Stopped

    return on_step


def test_a_run_that_is_stopped_anywhere_sees_and_learns_what_an_undisturbed_one_does(made, tmp_path):
    """Twelve steps in two stages; stopped after 3, 7 and 10, checkpoints every 4: steps are done again, with the same samples and losses."""
    with watched() as whole:
        train(config(made[1]), host=HOST, out=tmp_path / "whole")
    assert {len(slots) for slots in whole.values()} == {4}
    assert len(whole) == 12
    with watched() as parts:
        for step in (3, 7, 10):
            with pytest.raises(Stopped):
                train(config(made[1]), host=HOST, out=tmp_path / "parts", on_step=stop_at(step))
        train(config(made[1]), host=HOST, out=tmp_path / "parts")
    assert parts == whole
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_the_draws_planned_at_the_start_stay_when_a_run_is_made_longer(made, tmp_path):
    train(config(made[1], {"run": {"steps": 6}}), host=HOST, out=tmp_path / "run")
    assert open_checkpoint(tmp_path / "run").state["draws"] == 24
    with watched() as longer:
        train(config(made[1], {"run": {"steps": 8}}), host=HOST, out=tmp_path / "run")
    assert open_checkpoint(tmp_path / "run").state["draws"] == 24
    context = DataSourceContext(0, 4, draws=24)
    refs = build(CuratedConfig(path=str(made[1])), context).batch(7, global_batch=4, stage=Stage(size_px=24, steps=6, batch_size=4))
    assert [longer[7][slot][0] for slot in range(4)] == [ref.key for ref in refs]


def test_another_data_set_under_the_same_path_is_refused_and_the_old_one_goes_on(out, made, tmp_path):
    train(config(out, {"run": {"steps": 4}}), host=HOST, out=tmp_path / "run")
    before = json.loads((out / "dataset.json").read_text())["index"]["rows"]
    build_dataset(recipe(made[0], msgspec.structs.replace(INDEX, score="megapixels")), out)
    with pytest.raises(RunFolderError, match=rf"made from other data: was curated {before} .*, now curated \w+ \w+ \w+\. Restore the data"):
        train(config(out), host=HOST, out=tmp_path / "run")
    build_dataset(recipe(made[0], msgspec.structs.replace(INDEX, size_px=(16, 24, 32))), out)
    assert train(config(out), host=HOST, out=tmp_path / "run").step == 12, "an index for another size changes nothing of this run"


def test_l3_a_run_on_a_damaged_build_learns_from_sound_bytes_only(out, made, tmp_path):
    """A flipped byte in every second picture: all that reaches the method is what the sound build holds, and every draw of a damaged one is noted."""
    source = build(CuratedConfig(path=str(out)), DataSourceContext(0, 4))
    records = source.opened(24).index.records(np.arange(COUNT))
    for record in records[::2]:
        path = source.opened(24).shards.path(int(record["shard"]))
        data = bytearray(path.read_bytes())
        data[int(record["offset"]) + int(record["size"]) // 2] ^= 1
        path.write_bytes(data)
    damaged = {source.resolve(24, [row])[1][0].key for row in range(0, COUNT, 2)}
    used = []
    prepare = tiny_method().prepare

    def watching(self, part, rng):
        used.extend(part.records)
        return prepare(self, part, rng)

    with mock.patch.object(tiny_method(), "prepare", watching), watched() as seen:
        train(config(out, max_bad_share=1.0), host=HOST, out=tmp_path / "run")
    assert len(used) == 48
    sound = build(CuratedConfig(path=str(made[1])), DataSourceContext(0, 4, draws=48))
    for record in used:
        name = record.source.split(": ")[1]
        assert name not in damaged
    notes = [line for line in ledger(tmp_path / "run") if line["event"] == "bad-sample"]
    drawn = bad = 0
    for step in seen:
        size = 16 if step < 6 else 24
        for ref in sound.batch(step, global_batch=4, stage=Stage(size_px=size, steps=6, batch_size=4)):
            drawn += 1
            hit = sound.resolve(size, [ref.row])[1][0].key in damaged
            bad += hit
            noted = [n for n in notes if (n["step"], n["slot"], n["attempt"]) == (step + 1, ref.slot, 0)]
            assert len(noted) == hit
            assert (seen[step][ref.slot][0] != ref.key) >= hit
    assert 10 < bad < drawn == 48
    assert all("sha256 differs from the index" in note["why"] and note["rank"] == 0 for note in notes)
    # A second run, stopped and resumed, replaces the same samples by the same others.
    with watched() as again:
        with pytest.raises(Stopped):
            train(config(out, max_bad_share=1.0), host=HOST, out=tmp_path / "again", on_step=stop_at(6))
        train(config(out, max_bad_share=1.0), host=HOST, out=tmp_path / "again")
    assert again == seen
    assert digest(tmp_path / "again") == digest(tmp_path / "run")


def tiny_method():
    from ernie_core.train.pretrain import Pretrain

    return Pretrain


def test_a_run_that_stops_for_bad_samples_goes_on_when_the_build_is_repaired(out, made, tmp_path):
    source = build(CuratedConfig(path=str(out)), DataSourceContext(0, 4, draws=48))
    ref = source.batch(5, global_batch=4, stage=Stage(size_px=16, steps=6, batch_size=4))[1]
    earlier = {r.row for s in range(5) for r in source.batch(s, global_batch=4, stage=Stage(size_px=16, steps=6, batch_size=4))}
    record = source.opened(16).index.records(np.array([ref.row]))[0]
    path = source.opened(16).shards.path(int(record["shard"]))
    data = bytearray(path.read_bytes())
    data[int(record["offset"]) + 3] ^= 1
    path.write_bytes(data)
    assert ref.row not in earlier
    strict = config(out, max_bad_share=0.0)
    with pytest.raises(DataError, match=r"1 of the last \d+ records could not be used; 0 of 100000 may.*run the same command again"):
        train(strict, host=HOST, out=tmp_path / "run")
    assert open_checkpoint(tmp_path / "run").step == 5, "the steps before it are kept"
    build_dataset(recipe(made[0]), out, verify=True)
    train(strict, host=HOST, out=tmp_path / "run")
    train(config(made[1], max_bad_share=0.0), host=HOST, out=tmp_path / "sound")
    assert logged(tmp_path / "run") == logged(tmp_path / "sound")


# ---- caches ----


def test_latents_and_embeddings_of_frozen_networks_come_from_the_cache_to_the_bit(made, tmp_path):
    """A pipeline's own VAE and language model, tiny. The second run encodes nothing; the cache is no part of what a run is."""
    from ernie_core.latent.flux2 import Flux2Codec
    from ernie_core.text.ministral3 import Ministral3Encoder

    tiny.tiny_pipeline().save_pretrained(str(tmp_path / "pipe"), safe_serialization=True)
    tables = {
        "codec": {"use": "flux2", "path": str(tmp_path / "pipe")},
        "encoder": {"use": "ministral3", "path": str(tmp_path / "pipe")},
        "stages": [{"size_px": 24, "steps": 5, "batch_size": 4}],
    }
    cached = {"cache": {"use": "disk", "path": str(tmp_path / "cache")}}
    work = {"codec": 0, "encoder": 0}
    posterior, hidden = Flux2Codec.posterior, Ministral3Encoder._hidden

    def counted_posterior(self, pixels):
        work["codec"] += len(pixels)
        return posterior(self, pixels)

    def counted_hidden(self, ids):
        work["encoder"] += len(ids)
        return hidden(self, ids)

    def go(name, *changes):
        torch.set_num_threads(1)
        work.update(codec=0, encoder=0)
        train(config(made[1], tables, *changes), host=HOST, out=tmp_path / name)
        return dict(work)

    with mock.patch.object(Flux2Codec, "posterior", counted_posterior), mock.patch.object(Ministral3Encoder, "_hidden", counted_hidden):
        plain = go("plain")
        filling = go("filling", cached)
        full = go("full", cached)
        unrelated = {"optimizer": {"learning_rate": 3e-3}, "run": {"micro_batch_size": 4}}
        unrelated |= {"codec": {**tables["codec"], "eps": 1e-4, "posterior": "mode"}, "encoder": {**tables["encoder"], "batch_size": 3}}
        other = go("other", cached, unrelated)
        tiny_pipe = tiny.tiny_pipeline()
        tiny_pipe.vae = tiny.tiny_vae(seed=9)
        shutil.rmtree(tmp_path / "pipe")
        tiny_pipe.save_pretrained(str(tmp_path / "pipe"), safe_serialization=True)
        changed = go("changed", cached)
    assert plain["codec"] == 20
    assert 0 < filling["codec"] <= 20
    assert full == other == {"codec": 0, "encoder": 0}
    assert changed["codec"] == filling["codec"], "another VAE, other keys"
    assert changed["encoder"] == 0, "the language model is the same"
    for name in ("filling", "full"):
        assert logged(tmp_path / name) == pytest.approx(logged(tmp_path / "plain"), abs=1e-6)
    assert digest(tmp_path / "full") == digest(tmp_path / "filling")
    entries = [p for p in Path(tmp_path / "cache").rglob("*") if p.is_file()]
    assert len(entries) >= filling["codec"] + filling["encoder"]
