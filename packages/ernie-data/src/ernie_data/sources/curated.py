"""The data source `curated`: records of a finished build, drawn by category and quality.

A batch is arithmetic on the sampling index, a pure function of (seed, step); nothing is read for it, so any step is found at once and any number of
ranks sees the same samples. Fetching reads a record's picture by position and its text beside it. No byte is used that does not have the sha256 it
was stored under; a record that cannot be used is replaced by another draw for its place, the same after every restart.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import msgspec
import numpy as np
import PIL
from PIL import features

from ernie_core.api import ConfigError, DataError, DataSourceContext, Record, RecordRef, Stage
from ernie_data.images import decode_bytes
from ernie_data.loading.entries import CuratedConfig
from ernie_data.loading.opened import BuiltIndexes, find_indexes
from ernie_data.loading.rows import RowFacts, RowStore
from ernie_data.loading.shard_files import ShardFiles
from ernie_data.sampling.config import SamplingConfig
from ernie_data.sampling.hierarchy import Law
from ernie_data.sampling.index import Index
from ernie_data.sampling.sampler import Sampler
from ernie_data.sampling.strategies import build_law
from ernie_data.sources.curated_bad import BadSamples


def build(config: CuratedConfig, context: DataSourceContext) -> CuratedSource:
    return CuratedSource(config, context)


@dataclass(frozen=True)
class CuratedRef(RecordRef):
    """``step`` and ``slot`` (place in the global batch) say what is drawn instead if the record cannot be used; ``stage_px`` names the index."""

    step: int
    slot: int
    stage_px: int


@dataclass(frozen=True)
class Opened:
    """The index of one training size, and its draws."""

    index: Index
    sampler: Sampler
    shards: ShardFiles


class CuratedSource:
    """Row r is row r of the index of the stage's size.

    Raises:
        DataError: no finished build with an index, or a damaged one.
        ConfigError: a stage whose size has no index, an unknown style or category, or sampling knobs that cannot be met.
    """

    def __init__(self, config: CuratedConfig, context: DataSourceContext) -> None:
        self.config, self.context = config, context
        self.built: BuiltIndexes = find_indexes(config.path)
        self.rows = RowStore(self.built.rows)
        if unknown := [style for style in config.styles if style not in self.rows.about.styles]:
            raise ConfigError(
                f"data.styles: {config.path} has no captions of style {', '.join(unknown)}; it has {_counts(self.rows.about.styles)}"
            )
        self.bad = BadSamples(
            config.path, share=config.max_bad_share, window=config.bad_window, in_a_row=config.max_bad_in_a_row, note=context.note
        )
        self._decoder = f"centre 1 pillow {PIL.__version__} jpeg {features.version('libjpeg_turbo') or features.version('jpg')}"
        self._opened: dict[int, Opened] = {}
        self._lock = threading.Lock()
        for stage in context.stages:
            self.opened(stage.size_px)  # what is missing for a late stage should be known now

    def __len__(self) -> int:
        return len(self.rows)

    def identity(self) -> str:
        """The content of the texts and of the indexes that the run's stages draw from."""
        sizes = sorted({stage.size_px for stage in self.context.stages} or self.built.sizes)
        return " ".join(["curated", self.built.rows.name, *(self.built.sizes[size].name for size in sizes)])

    def opened(self, size_px: int) -> Opened:
        """What belongs to one training size.

        Raises:
            ConfigError: it has no index, its buckets do not suit the codec, or the sampling knobs cannot be met.
            DataError: the index is damaged.
        """
        with self._lock:
            if size_px not in self._opened:
                self._opened[size_px] = self._open(size_px)
            return self._opened[size_px]

    def batch(self, step: int, *, global_batch: int, stage: Stage) -> list[CuratedRef]:
        opened = self.opened(stage.size_px)
        bucket = opened.index.tables.buckets[opened.sampler.bucket(step)]
        rows = opened.sampler.rows(step, start=0, stop=global_batch).tolist()
        return [CuratedRef(_key(stage.size_px, row), row, bucket, step, slot, stage.size_px) for slot, row in enumerate(rows)]

    def fetch(self, refs: Sequence[RecordRef]) -> list[Record]:
        return [self._record(ref) for ref in refs]

    def resolve(self, size_px: int, rows: Sequence[int]) -> tuple[Any, list[RowFacts]]:
        """Index records and texts of some rows, before any picture is read.

        Raises:
            DataError: one of them is damaged.
        """
        records = self.opened(size_px).index.records(np.asarray(rows, np.int64))
        facts = self.rows.read(records["shard"].tolist(), records["position"].tolist())
        for row, record, fact in zip(rows, records, facts):
            if bytes(record["sha256"]).hex() != fact.sha256:
                raise DataError(
                    f"{self.built.sizes[size_px]}: row {row} and the text at its position are of different pictures; build the index again"
                )
        return records, facts

    def _open(self, size_px: int) -> Opened:
        if size_px not in self.built.sizes:
            sizes = ", ".join(map(str, sorted(self.built.sizes)))
            raise ConfigError(
                f"stage size_px = {size_px}: {self.config.path} has indexes for {sizes} px only. Add {size_px} to `size_px` of the recipe's [index] and "
                "run `ernie data build` again; nothing else is done anew."
            )
        index = Index(self.built.sizes[size_px])
        multiple = self.context.size_multiple_px
        if wrong := [size for size in index.tables.buckets if size[0] % multiple or size[1] % multiple]:
            raise ConfigError(
                f"{self.config.path}: its buckets, such as {wrong[0][0]} x {wrong[0][1]} px, are no multiples of the codec's {multiple} px. Set "
                f"index.multiple_px = {multiple} in the recipe and run `ernie data build` again."
            )
        sampling = _for_stage(self.config.sampling, self.context.draws, size_px)
        law = law_over(self.config.categories, index, sampling, where=f"{self.config.path} at {size_px} px")
        return Opened(index, Sampler(index.tables, law, seed=self.context.seed), ShardFiles(self.built.root, index.tables.shards))

    def _record(self, ref: RecordRef) -> Record:
        """The record of a ref, or the first of its replacements that can be used."""
        if not isinstance(ref, CuratedRef):
            raise DataError(f"{ref}: not a ref that this source gave; fetch what `batch` returns")
        opened = self.opened(ref.stage_px)
        for attempt in count():
            row = ref.row if attempt == 0 else opened.sampler.redraw(ref.step, ref.slot, attempt=attempt)
            try:
                record = self._read(opened, row, ref)
            except DataError as error:
                self.bad.bad(ref.step, slot=ref.slot, row=row, attempt=attempt, why=str(error))
                continue
            self.bad.good()
            return record
        raise AssertionError("unreachable: the loop ends by a record or by BadSamples")

    def _read(self, opened: Opened, row: int, ref: CuratedRef) -> Record:
        """
        Raises:
            DataError: any byte of it is not what was stored, it cannot be decoded, or it has no caption of the styles asked for.
        """
        (entry,), (facts,) = self.resolve(ref.stage_px, [row])
        data = opened.shards.read(int(entry["shard"]), int(entry["offset"]), int(entry["size"]))
        where = f"{opened.shards.path(int(entry['shard']))}: {facts.key!r}"
        if (found := hashlib.sha256(data).hexdigest()) != facts.sha256:
            raise DataError(
                f"{where}: sha256 differs from the index (expected {facts.sha256[:12]}..., found {found[:12]}...). The picture was not used; run "
                "`ernie data build --verify` to rebuild the shard."
            )
        captions = {style: facts.captions[style] for style in self.config.styles or facts.captions if style in facts.captions}
        if not captions:
            raise DataError(f"{where}: no caption of style {', '.join(self.config.styles)}; it has {', '.join(facts.captions) or 'none'}")
        pixels = decode_bytes(data, where, bucket=ref.size_px, max_pixels=self.config.max_megapixels * 1_000_000)
        return Record(
            _key(ref.stage_px, row),
            pixels,
            captions,
            ref.size_px,
            category=facts.category,
            scores=facts.scores,
            source=f"{self.config.path}: {facts.key}",
            pixels_id=f"{facts.sha256} {ref.size_px[0]}x{ref.size_px[1]} {self._decoder}",
        )


def law_over(categories: Sequence[str], index: Index, sampling: SamplingConfig, *, where: str) -> Law:
    """The distribution over the pictures of some categories, as if there were no others; over all where none is named.

    Raises:
        ConfigError: a category that has no pictures; names the largest that have.
    """
    table, names = index.tables.classes, index.tables.categories
    if not categories:
        return build_law(table, sampling, names)
    rows = dict(zip(names, table.rows_K.tolist()))
    if missing := [name for name in categories if not rows.get(name)]:
        largest = sorted((name for name in names if rows[name]), key=lambda name: -rows[name])
        shown = ", ".join(f"{name} ({rows[name]})" for name in largest[:10]) + (", ..." if len(largest) > 10 else "")
        raise ConfigError(f"data.categories: {where} has no pictures of {', '.join(map(repr, missing))}; it has {shown}")
    kept_K = np.array([name in set(categories) for name in names])
    law = build_law(replace(table, rows_KJ=np.where(kept_K[:, None], table.rows_KJ, 0)), sampling, names)
    return Law(table.rows_KJ, np.where(kept_K[:, None], law.row_KJ, 0.0))


def _key(size_px: int, row: int) -> str:
    """Known without reading anything; ``Record.source`` has the name that the record has in the build."""
    return f"{size_px}px/{row}"


def _for_stage(sampling: SamplingConfig, draws: int, size_px: int) -> SamplingConfig:
    """What the config leaves to the run: the number of draws, and the stage whose filter applies."""
    return msgspec.structs.replace(sampling, draws=sampling.draws or draws, size_px=sampling.size_px or size_px)


def _counts(styles: dict[str, int]) -> str:
    return ", ".join(f"{style} ({number})" for style, number in styles.items()) or "none"
