"""Duplicates: every near pair is found, the best of a group is kept, nothing hangs on a chain, and planted copies are counted against the truth."""

import base64
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core import io
from ernie_core.api import ConfigError, DataError, DataStageContext, PluginHost, Selection
from ernie_data.duplicates.entries import DuplicatesConfig
from ernie_data.duplicates.neighbours import near_pairs, plan_blocks
from ernie_data.duplicates.semantic import CLUSTER_ROWS, clusters, refuse_semantic
from ernie_data.duplicates.stage import build
from ernie_data.duplicates.survey import Survey
from ernie_data.duplicates.verdicts import EXACT, KEPT, NEAR, SEMANTIC, Candidates, Verdicts, refuse_exact, refuse_near
from ernie_data.engine.build import build_dataset
from ernie_data.engine.stage import Item
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.scoring.entries import ScoreConfig
from ernie_data.shapes.defects import write_defective_set
from ernie_data.shapes.entries import DefectPlan
from ernie_data.tables import read_rows

HOST = PluginHost.discover()
COLUMNS = {"bytes": "int", "megapixels": "float"}


def all_pairs(hashes: np.ndarray, distance: int) -> set[tuple[int, int]]:
    different = np.bitwise_count(hashes[:, None] ^ hashes[None])
    return set(zip(*(axis.tolist() for axis in np.nonzero(np.triu(different <= distance, 1)))))


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 10), st.integers(2, 300), st.sampled_from([0xFFFFFFFFFFFFFFFF, 0xF0000000000000FF, 0x13579])
)
@settings(max_examples=60, deadline=None)
def test_every_pair_within_the_distance_is_found_once(seed, distance, count, bits):
    hashes = np.unique(np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64) & np.uint64(bits))
    found = [tuple(pair) for pairs in near_pairs(hashes, distance) for pair in pairs.tolist()]
    assert len(found) == len(set(found))
    assert set(found) == all_pairs(hashes, distance)


def test_planted_neighbours_among_many_are_found():
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**64, 50_000, dtype=np.uint64)
    near = hashes[:500].copy()
    for place in range(500):
        for bit in rng.choice(64, 8, replace=False):
            near[place] ^= np.uint64(1 << int(bit))
    every = np.unique(np.concatenate([hashes, near]))
    found = {tuple(pair) for pairs in near_pairs(every, 8) for pair in pairs.tolist()}
    wanted = {tuple(sorted(p)) for p in zip(np.searchsorted(every, hashes[:500]).tolist(), np.searchsorted(every, near).tolist())}
    assert wanted <= found


def test_no_hashes_and_no_distance_give_no_pairs():
    assert list(near_pairs(np.zeros(0, np.uint64), 8)) == []
    assert list(near_pairs(np.arange(5, dtype=np.uint64), 0)) == []


@given(st.integers(2, 10**9), st.integers(1, 16))
def test_blocks_are_always_enough_and_never_empty(count, distance):
    blocks, equal = plan_blocks(count, distance)
    assert equal >= 1
    assert blocks == distance + equal <= 64


def thumbs_along_a_line(*places: float) -> np.ndarray:
    """Pictures whose distance is proportional to the distance of the places."""
    pattern = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).clip(-2, 2)
    return np.stack([np.rint(128 + 30 * pattern[0] + 30 * place * pattern[1]).clip(0, 255).astype(np.uint8).ravel() for place in places])


def near_of(*places: float, within: float) -> Verdicts:
    verdicts = Verdicts.of(len(places))
    candidates = Candidates(np.zeros(len(places), np.int64), np.zeros((0, 2), np.int64), hashes=1)
    sizes = np.full((len(places), 2), 64)
    refuse_near(verdicts, candidates, np.arange(len(places)), thumbs_along_a_line(*places), sizes, within=within)
    return verdicts


def test_a_chain_does_not_pull_in_what_does_not_resemble_the_kept_one():
    """A ~ B ~ C, but A not ~ C: B goes for A, and C stays."""
    verdicts = near_of(0.0, 0.12, 0.24, within=0.15)
    assert verdicts.kind_N.tolist() == [KEPT, NEAR, KEPT]
    assert verdicts.winner_N.tolist() == [0, 0, 2]


def test_the_nearest_kept_record_wins():
    assert near_of(0.0, 0.3, 0.22, within=0.25).winner_N.tolist() == [0, 1, 1]


def test_copies_follow_the_record_they_copy():
    verdicts = Verdicts.of(5)
    refuse_exact(verdicts, np.array([[1, 1], [2, 2], [2, 2], [3, 3], [1, 1]], np.uint64))
    assert verdicts.winner_N.tolist() == [0, 1, 1, 3, 0]
    verdicts.refuse(1, 3, NEAR, 0.05)
    verdicts.refuse(3, 0, SEMANTIC, 0.01)
    verdicts.follow()
    assert verdicts.winner_N.tolist() == [0, 0, 0, 0, 0]
    assert verdicts.kind_N.tolist() == [KEPT, SEMANTIC, SEMANTIC, SEMANTIC, EXACT]
    assert verdicts.distance_N.tolist() == pytest.approx([0, 0.01, 0.01, 0.01, 0])


def test_semantic_duplicates_go_for_the_better_one_and_chains_end():
    angles = np.radians([0, 8, 16, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32) * [[1], [5], [1], [2]]
    verdicts = Verdicts.of(4)
    refuse_semantic(verdicts, np.arange(4), vectors.astype(np.float32), threshold=np.cos(np.radians(10)))
    assert verdicts.winner_N.tolist() == [0, 0, 2, 3]
    assert verdicts.distance_N[1] == pytest.approx(1 - np.cos(np.radians(8)), abs=1e-6)


def test_an_embedding_without_direction_is_an_error():
    with pytest.raises(DataError, match="zero or not finite"):
        refuse_semantic(Verdicts.of(2), np.arange(2), np.zeros((2, 3), np.float32), threshold=0.9)


def test_many_embeddings_are_clustered_and_pairs_found_inside():
    rng = np.random.default_rng(0)
    count = CLUSTER_ROWS + 1000
    centres = np.eye(8, dtype=np.float32)[rng.integers(0, 8, count)]
    vectors = (centres + 0.2 * rng.normal(size=(count, 8))).astype(np.float32)
    vectors[-500:] = vectors[:500]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert len(set(clusters(unit).tolist())) == 2
    verdicts = Verdicts.of(count)
    refuse_semantic(verdicts, np.arange(count), vectors.copy(), threshold=0.99999)
    assert (verdicts.winner_N[-500:] == np.arange(500)).mean() > 0.99


class Table:
    """A dataset cut into pieces."""

    def __init__(self, rows: list[dict], piece: int) -> None:
        self.rows, self.piece = rows, piece

    def tables(self, columns):
        for start in range(0, len(self.rows), self.piece):
            part = self.rows[start : start + self.piece]
            yield pa.table({name: [row[name] for row in part] for name in ("key", *columns)})


def records(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        kind = int(rng.integers(0, 12))
        thumb = thumbs_along_a_line(kind + 0.01 * rng.random())[0]
        size = {"width": 64, "height": 64, "source_width": 64, "source_height": 64, "bytes": int(rng.integers(1, 9))}
        sums = {"pixel_sha256": f"{int(rng.integers(0, count)):064x}", "phash": f"{0x0F0F << (kind % 3):016x}"}
        embedding = (np.eye(12)[kind] + 0.1 * rng.normal(size=12)).astype(np.float32)
        rows.append(
            {"key": f"folder/{n:03d}.png", **size, **sums, "thumb": base64.b64encode(thumb.tobytes()).decode(), "embedding": embedding}
        )
    return rows


def survey_files(rows: list[dict], piece: int, out) -> dict[str, bytes]:
    survey = Survey(keep=("area", "bytes"), hamming=8, distance=0.1, embedding_threshold=0.95)
    with io.commit_folder(out) as folder:
        survey.write(Table(rows, piece), folder)
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "manifest.json"}


def test_the_survey_depends_neither_on_cuts_nor_on_order(tmp_path):
    rows = records(120)
    whole = survey_files(rows, 1000, tmp_path / "a")
    assert survey_files(rows, 7, tmp_path / "b") == whole
    assert survey_files(rows[::-1], 50, tmp_path / "c") == whole


def test_every_winner_is_kept_and_better_and_groups_add_up(tmp_path):
    rows = {row["key"]: row for row in records(120)}
    survey_files(list(rows.values()), 40, tmp_path / "a")
    losers = read_rows(tmp_path / "a" / "losers.parquet")
    groups = {row["key"]: row["size"] for row in read_rows(tmp_path / "a" / "groups.parquet")}
    lost = {row["key"] for row in losers}
    assert len(lost) == len(losers) > 20
    assert not lost & {row["winner"] for row in losers}
    assert sum(size - 1 for size in groups.values()) == len(losers)
    rank = sorted(rows, key=lambda key: (-rows[key]["bytes"], key))
    assert all(rank.index(row["winner"]) < rank.index(row["key"]) for row in losers)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["exact"] + summary["near"] + summary["semantic"] == len(losers)
    assert {row["kind"] for row in losers} <= {"exact", "near", "semantic"}


def test_rows_with_a_broken_hash_are_an_error(tmp_path):
    with pytest.raises(DataError, match="16 hexadecimal digits"):
        survey_files([{**row, "phash": "12"} for row in records(3)], 10, tmp_path / "a")


def test_options_that_name_missing_columns_are_refused_before_any_work():
    context = DataStageContext(HOST.build, columns=COLUMNS)
    with pytest.raises(ConfigError, match=r"`embed` before `duplicates`"):
        build(DuplicatesConfig(embedding_threshold=0.9), context)
    with pytest.raises(ConfigError, match=r"column of numbers named 'quality'; there are bytes, megapixels"):
        build(DuplicatesConfig(keep=("bytes", "quality")), context)


def test_the_stage_names_the_winner_and_counts_the_group(tmp_path):
    rows = records(60)
    survey_files(rows, 60, tmp_path / "a")
    losers = {row["key"]: row for row in read_rows(tmp_path / "a" / "losers.parquet")}
    stage = build(DuplicatesConfig(), DataStageContext(HOST.build, tmp_path / "a", COLUMNS))
    outcomes = dict(zip((r["key"] for r in rows), stage.process(Item(r["key"], r, bytes) for r in rows)))
    for key, outcome in outcomes.items():
        if key in losers:
            assert losers[key]["winner"] in outcome.detail
            assert outcome.detail.startswith(losers[key]["kind"])
        else:
            mine = sum(row["winner"] == key for row in losers.values())
            assert outcome.columns == ({"duplicates": mine, "duplicate_group": key} if mine else {"duplicates": 0})


def planted(out, tmp_path, **plan):
    """Precision and recall of what a whole build refuses as duplicates, over a planted set."""
    write_defective_set(tmp_path / "set", DefectPlan(duplicates=0.08, near_duplicates=0.16, seed=5, **plan))
    stages = (
        Selection("decode"),
        Selection("hashes"),
        Selection("score", ScoreConfig(scorer=Selection("shapes-quality"))),
        Selection("duplicates"),
    )
    source = Selection("folder", FolderInput(path=str(tmp_path / "set" / "pictures")))
    build_dataset(Recipe(sources=(source,), stages=stages, unit_rows=200, run=RunOptions(workers=2)), out)
    truth = {row["file_name"]: row for row in map(json.loads, (tmp_path / "set" / "truth.jsonl").read_text().splitlines())}
    group = {name: row["original"] or name for name, row in truth.items()}
    (survey,) = [path for path in (out / "duplicates").glob("*/losers.parquet")]
    losers = read_rows(survey)
    right = sum(group[row["key"].split("/", 1)[1]] == group[row["winner"].split("/", 1)[1]] for row in losers)
    decoded = [
        row["key"].split("/", 1)[1] for path in (out / "decode").glob("*/rows.parquet") for row in read_rows(path) if "error" not in row
    ]
    wanted = len(decoded) - len({group[name] for name in decoded})
    return right / len(losers), right / wanted


def test_planted_duplicates_are_found_and_nothing_else(tmp_path):
    precision, recall = planted(tmp_path / "out", tmp_path, count=400, low_quality=0.1, over_represented=0.3, corrupt=0.02)
    assert precision >= 0.95
    assert recall >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("plan", [{"size_px": 64, "zipf": 1.0}, {"size_px": 32}, {"size_px": 64, "sound_quality": 0.5, "low_quality": 0.1}])
def test_planted_duplicates_in_larger_sets(tmp_path, plan):
    precision, recall = planted(tmp_path / "out", tmp_path, count=2000, **plan)
    assert precision >= 0.95
    assert recall >= 0.95
