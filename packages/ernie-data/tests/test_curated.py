"""The data source `curated`: a pure function of (seed, step) on any number of ranks, every byte verified, replacements that a restart finds again."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from PIL import Image

from ernie_core.api import (
    ConfigError,
    DataError,
    DataSourceContext,
    Identified,
    RecordRef,
    Selection,
    Stage,
)
from ernie_core.testing.data import DataSourceContract
from ernie_data.engine.build import build_dataset
from ernie_data.loading.entries import CuratedConfig
from ernie_data.loading.rows import PLACE
from ernie_data.recipe import FolderInput, IndexOptions, Recipe, RunOptions
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sources import curated
from ernie_data.sources.curated import CuratedRef, CuratedSource, build, law_over
from ernie_data.sources.curated_bad import BadSamples
from ernie_data.stages.entries import DecodeConfig, SizeConfig

COUNT = 120
STAGE = Stage(size_px=24, steps=50, batch_size=16)
INDEX = IndexOptions(category="format", score="aspect", size_px=(16, 24, 64), multiple_px=4, bins=4)


def recipe(raw, index=INDEX):
    stages = (Selection("decode", DecodeConfig()), Selection("size", SizeConfig(size_px=32, multiple_px=4)))
    return Recipe(
        sources=(Selection("folder", FolderInput(path=str(raw))),), stages=stages, unit_rows=16, index=index, run=RunOptions(workers=1)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(pictures, build): 120 pictures of three formats and several shapes, two caption styles each."""
    base = tmp_path_factory.mktemp("curated")
    raw = base / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for i in range(COUNT):
        name = f"{i:03d}.{('png', 'bmp', 'webp')[i % 3]}"
        Image.fromarray(rng.integers(0, 256, (20 + 8 * (i % 4), 20 + 8 * (i % 3), 3), dtype=np.uint8)).save(raw / name)
        lines.append(msgspec.json.encode({"file_name": name, "text_keywords": f"k{i}", "text_request": f"a request for {i}"}))
    (raw / "metadata.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    build_dataset(recipe(raw), base / "out")
    return raw, base / "out"


@pytest.fixture
def out(made, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(made[1], tmp_path / "out")
    return tmp_path / "out"


def source(path, *, stages=(STAGE,), draws=0, seed=0, note=None, **options) -> CuratedSource:
    heard = {} if note is None else {"note": note}
    return build(CuratedConfig(path=str(path), **options), DataSourceContext(seed, 4, stages=stages, draws=draws, **heard))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def flip_pictures(path, size_px, rows):
    """One byte inside the picture of each row."""
    opened = source(path).opened(size_px)
    rng = np.random.default_rng(1)
    for record in opened.index.records(np.asarray(rows)):
        flip(opened.shards.path(int(record["shard"])), int(record["offset"]) + int(rng.integers(record["size"])))


def ref_of(size_px, row, bucket, *, step=0, slot=0):
    return CuratedRef(f"{size_px}px/{row}", row, bucket, step, slot, size_px)


def bucket_of(opened, row):
    tables = opened.index.tables
    pair = int(np.searchsorted(tables.pairs_P["first_row"], row, side="right")) - 1
    return tables.buckets[int(tables.pairs_P["bucket"][pair])]


class TestCuratedIsADataSource(DataSourceContract):
    entry = "curated"
    size_multiple_px = 4

    @pytest.fixture(autouse=True)
    def _made(self, made):
        self.path = made[1]

    def make(self, *, seed: int = 0):
        return source(self.path, stages=(self.stage,), seed=seed)


# ---- what is drawn ----


def test_records_are_the_pictures_and_captions_of_the_build(made):
    raw, path = made
    some = source(path)
    refs = some.batch(3, global_batch=16, stage=STAGE)
    for ref, record in zip(refs, some.fetch(refs), strict=True):
        name = record.source.rpartition("/")[2]
        with Image.open(raw / name) as picture:
            assert record.category == picture.format
            assert record.scores == {"aspect": round(picture.width / picture.height, 6)}
            if picture.size == record.bucket:
                assert np.array_equal(record.pixels, np.asarray(picture.convert("RGB")))
        number = int(name[:3])
        assert record.captions == {"keywords": f"k{number}", "request": f"a request for {number}"}
        assert record.pixels_id.startswith(f"{some.resolve(24, [ref.row])[1][0].sha256} {record.bucket[0]}x{record.bucket[1]} ")
    assert {tuple(r.captions) for r in source(path, styles=("request",)).fetch(refs)} == {("request",)}


def test_categories_narrow_the_draws_as_if_there_were_no_others(made):
    _, path = made
    narrowed = source(path, categories=("BMP", "WEBP"), draws=400, sampling=SamplingConfig(max_repeats=8))
    refs = [ref for step in range(50) for ref in narrowed.batch(step, global_batch=16, stage=STAGE)]
    drawn = [facts.category for facts in narrowed.resolve(24, [ref.row for ref in refs])[1]]
    assert set(drawn) == {"BMP", "WEBP"}
    law = law_over(("BMP", "WEBP"), narrowed.opened(24).index, SamplingConfig(draws=400, max_repeats=8), where="here")
    assert law.class_K.sum() == pytest.approx(1)
    assert law.row_KJ.max() <= 8 / 400
    with pytest.raises(ConfigError, match=r"max_repeats = 8 over 4000 draws needs at least 500 pictures, and 40 can be drawn"):
        source(path, categories=("BMP",), draws=4000, sampling=SamplingConfig(max_repeats=8))


def test_a_category_without_pictures_is_refused_with_those_that_have(made):
    with pytest.raises(ConfigError, match=r"at 24 px has no pictures of 'GIF'; it has .*PNG \(40\)"):
        source(made[1], categories=("PNG", "GIF"))


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_union_over_ranks_is_the_single_stream(made, ranks):
    whole = source(made[1])
    ranked = [source(made[1]) for _ in range(ranks)]
    for step in (0, 7, 1023, 1024, 10**9):
        expected = whole.batch(step, global_batch=16, stage=STAGE)
        shares = [range(r * 16 // ranks, (r + 1) * 16 // ranks) for r in range(ranks)]
        parts = [rank.batch(step, global_batch=16, stage=STAGE)[share.start : share.stop] for rank, share in zip(ranked, shares)]
        assert [ref for part in parts for ref in part] == expected
        records = [record for rank, part in zip(ranked, parts) for record in rank.fetch(part)]
        for record, same in zip(records, whole.fetch(expected), strict=True):
            assert np.array_equal(record.pixels, same.pixels)


def test_a_batch_reads_nothing_and_any_step_is_found_at_once(made, monkeypatch):
    some = source(made[1])
    some.batch(0, global_batch=16, stage=STAGE)
    asked = []
    draw = some.opened(24).sampler._draw_portion
    monkeypatch.setattr(some.opened(24).sampler, "_draw_portion", lambda bucket, u: asked.append(len(u)) or draw(bucket, u))
    monkeypatch.setattr("os.pread", lambda *a: pytest.fail("a batch must not read"))
    some.batch(10**12, global_batch=16, stage=STAGE)
    assert asked == [16], "the draws of one step, not of those before"


def test_draws_follow_the_law_and_its_caps_over_the_run(made):
    """Each cap of 4 epochs over the run's draws, known from the run, holds in expectation: no picture comes much more often."""
    draws = 2 * COUNT
    some = source(made[1], draws=draws)
    law = some.opened(24).sampler.row_KJ
    assert law.max() * draws <= 4 * (1 + 1e-9)
    assert source(made[1], draws=draws, sampling=SamplingConfig(draws=10, max_repeats=1.0)).opened(24).sampler.row_KJ.max() * 10 <= 1 + 1e-9
    with pytest.raises(ConfigError, match=r"max_repeats"):
        source(made[1], draws=1000 * COUNT)


def test_each_stage_draws_from_its_own_index(made):
    stages = (STAGE, Stage(size_px=16, steps=5, batch_size=4))
    some = source(made[1], stages=stages)
    for stage in stages:
        width, height = some.batch(9, global_batch=4, stage=stage)[0].size_px
        assert abs(width * height / stage.size_px**2 - 1) <= 0.05
    assert isinstance(some, Identified)
    assert len(some.identity().split()) == 4
    assert some.identity() != source(made[1]).identity()


def test_what_does_not_fit_together_is_known_before_the_first_step(made, tmp_path):
    with pytest.raises(ConfigError, match=r"stage size_px = 512: .* has indexes for 16, 24, 64 px only\. Add 512 to `size_px`"):
        source(made[1], stages=(STAGE, Stage(size_px=512, steps=1, batch_size=1)))
    with pytest.raises(ConfigError, match=r"data\.styles: .* no captions of style poem; it has keywords \(120\), request \(120\)"):
        source(made[1], styles=("poem",))
    with pytest.raises(ConfigError, match=r"no multiples of the codec's 16 px\. Set index\.multiple_px = 16"):
        build(CuratedConfig(path=str(made[1])), DataSourceContext(0, 16, stages=(STAGE,)))
    with pytest.raises(DataError, match=r"expected the output folder of a finished"):
        source(tmp_path)


def test_a_damaged_index_is_refused_before_the_first_step(out):
    (tables,) = {path for path in (out / "index").glob("*/bins.bin") if path.parent.name == source(out).built.sizes[24].name}
    flip(tables, 3)
    with pytest.raises(DataError, match=r"bins\.bin: sha256 differs from the manifest"):
        source(out)


# ---- records that cannot be used ----


def test_l3_one_flipped_byte_in_each_of_a_hundred_pictures_is_found_in_all(out, made):
    """And the replacement is a sound picture of the same bucket, the same in another process and in any thread."""
    notes, lock = [], threading.Lock()

    def note(event, step, facts):
        with lock:
            notes.append((event, step, facts))

    rows = sorted(np.random.default_rng(5).permutation(COUNT)[:100].tolist())
    flip_pictures(out, 24, rows)
    loose = {"max_bad_share": 1.0, "max_bad_in_a_row": 10_000}
    some, again, sound = source(out, note=note, **loose), source(out, **loose), source(made[1])
    opened = some.opened(24)
    assert {bucket_of(opened, row) for row in range(COUNT) if row not in rows} == {bucket_of(opened, row) for row in rows} != {(24, 24)}
    steps = {}  # a replacement is of the bucket of its step, so a row is asked for at a step of its bucket
    for step in range(3000):
        steps.setdefault(opened.index.tables.buckets[opened.sampler.bucket(step)], step)
    refs = [ref_of(24, row, bucket_of(opened, row), step=steps[bucket_of(opened, row)], slot=row) for row in rows]
    for ref in refs:
        with pytest.raises(DataError, match=r"sha256 differs from the index .* was not used; run `ernie data build --verify`"):
            some._read(opened, ref.row, ref)
    with ThreadPoolExecutor(4) as threads:
        records = [r for (r,) in threads.map(lambda ref: some.fetch([ref]), refs)]
    for ref, record, other in zip(refs, records, again.fetch(refs), strict=True):
        replacement = int(record.key.partition("/")[2])
        assert replacement not in rows
        assert record.bucket == bucket_of(opened, replacement) == ref.size_px
        assert record.key == other.key
        (expected,) = sound.fetch([ref_of(24, replacement, ref.size_px)])
        assert np.array_equal(record.pixels, expected.pixels)
    assert {event for event, _, _ in notes} == {"bad-sample"}
    assert {facts["row"] for _, _, facts in notes if facts["attempt"] == 0} == set(rows)


@pytest.mark.parametrize("name", ["records.bin", "rows.bin", "places.bin"])
def test_a_flipped_byte_beside_the_pictures_never_gives_another_caption_or_picture(out, made, name):
    """For every byte of a record, in turn."""
    sound = source(made[1])
    bucket = bucket_of(sound.opened(24), 5)
    expected = sound.fetch([ref_of(24, 5, bucket)])[0]
    some = source(out)
    if name == "records.bin":
        path, start, size = some.built.sizes[24] / name, 5 * 52, 52
    else:
        entry = some.opened(24).index.records(np.array([5]))[0]
        at = int(some.rows.first_P[entry["shard"]]) + int(entry["position"])
        place = np.fromfile(some.built.rows / "places.bin", PLACE)[at]
        path = some.built.rows / name
        start, size = (int(place["offset"]), int(place["size"])) if name == "rows.bin" else (at * 24, 24)
    for at in range(start, start + size):
        flip(path, at)
        with pytest.raises(DataError):
            some._read(some.opened(24), 5, ref_of(24, 5, bucket))
        flip(path, at)
    (again,) = some.fetch([ref_of(24, 5, bucket)])
    assert np.array_equal(again.pixels, expected.pixels)


def test_a_shard_that_is_gone_or_cut_counts_as_bad_samples(out):
    notes = []
    some = source(out, note=lambda *note: notes.append(note), max_bad_share=1.0)
    shard = some.opened(24).shards.path(0)
    data = shard.read_bytes()
    row = next(r for r in range(COUNT) if some.opened(24).index.records(np.array([r]))["shard"][0] == 0)
    ref = ref_of(24, row, bucket_of(some.opened(24), row))
    for damage, message in ((lambda: shard.write_bytes(data[:600]), "bytes, the index names bytes"), (shard.unlink, "cannot be read")):
        damage()
        fresh = source(out, max_bad_share=1.0)
        with pytest.raises(DataError, match=message):
            fresh._read(fresh.opened(24), row, ref)


def test_a_record_without_a_caption_of_the_wanted_style_is_replaced(made, monkeypatch):
    some = source(made[1], styles=("request",), max_bad_share=1.0)
    refs = some.batch(0, global_batch=8, stage=STAGE)
    read = some.rows.read
    first = some.resolve(24, [refs[0].row])[1][0].key

    def without(pieces, positions):
        return [msgspec.structs.replace(f, captions={"keywords": "k"}) if f.key == first else f for f in read(pieces, positions)]

    monkeypatch.setattr(some.rows, "read", without)
    assert first not in some.fetch(refs)[0].source


def test_too_many_bad_samples_end_the_run_with_the_share_and_the_last_one(out):
    flip_pictures(out, 24, range(COUNT))
    some = source(out, max_bad_share=0.01, bad_window=500, max_bad_in_a_row=100)
    with pytest.raises(
        DataError, match=r"6 of the last 6 records could not be used; 5 of 500 may\. The last one: .*sha256 differs.* --verify"
    ):
        some.fetch(some.batch(0, global_batch=1, stage=STAGE))
    some = source(out, max_bad_share=1.0, max_bad_in_a_row=7)
    with pytest.raises(DataError, match=r"7 records in a row could not be used\. The last one"):
        some.fetch(some.batch(0, global_batch=1, stage=STAGE))


def test_the_share_is_of_the_last_records_only():
    notes = []
    bad = BadSamples("x", share=0.1, window=20, in_a_row=5, note=lambda *note: notes.append(note))
    for _ in range(50):  # one in eleven
        bad.bad(3, slot=1, row=2, attempt=0, why="because")
        for _ in range(10):
            bad.good()
    bad.bad(3, slot=1, row=2, attempt=0, why="because")
    with pytest.raises(DataError, match=r"3 of the last 20 records could not be used; 2 of 20 may"):
        bad.bad(3, slot=1, row=2, attempt=0, why="because")
    assert notes[0] == ("bad-sample", 3, {"slot": 1, "row": 2, "attempt": 0, "why": "because"})


def test_running_out_of_memory_is_never_taken_for_a_bad_sample(made, monkeypatch):
    some = source(made[1])
    refs = some.batch(0, global_batch=2, stage=STAGE)

    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(curated, "decode_bytes", full)
    with pytest.raises(MemoryError):
        some.fetch(refs)
    assert some.bad.seen == 0


def test_a_ref_of_another_source_is_refused(made):
    with pytest.raises(DataError, match="not a ref that this source gave"):
        source(made[1]).fetch([RecordRef("24px/0", 0, (24, 24))])
