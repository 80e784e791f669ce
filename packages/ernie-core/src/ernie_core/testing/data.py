"""The contract of data sources. Light: no torch, no pytest."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ernie_core.plugins.hookspecs import DataSourceContext
from ernie_core.records import DataSource, Record, Stage
from ernie_core.testing.component import ComponentContract

STEPS = (0, 1, 2, 7, 1000)  # in an epoch, over its end for small sources, and far beyond


class DataSourceContract(ComponentContract):
    """A data source is a pure function of (seed, step), and fetches what its refs promise.

    Set ``entry`` and ``options``, or override ``make`` where the options depend on a temporary folder.
    """

    registry: ClassVar[str] = "data_sources"
    size_multiple_px: ClassVar[int] = 16
    stage: ClassVar[Stage] = Stage(size_px=64, steps=10, batch_size=8)

    def make(self, *, seed: int = 0) -> DataSource:
        return self.build(DataSourceContext(seed=seed, size_multiple_px=self.size_multiple_px))

    def test_it_is_not_empty(self):
        assert len(self.make()) > 0

    def test_a_batch_has_the_requested_number_of_refs_of_one_bucket(self):
        source = self.make()
        for step in STEPS:
            for global_batch in (1, self.stage.batch_size):
                refs = source.batch(step, global_batch=global_batch, stage=self.stage)
                assert len(refs) == global_batch
                assert len({ref.size_px for ref in refs}) == 1, (
                    f"step {step}: a batch mixes buckets {sorted({ref.size_px for ref in refs})}"
                )

    def test_bucket_sides_are_multiples_that_the_codec_needs_and_near_the_stages_area(self):
        source = self.make()
        for step in STEPS:
            width, height = source.batch(step, global_batch=self.stage.batch_size, stage=self.stage)[0].size_px
            assert width % self.size_multiple_px == 0
            assert height % self.size_multiple_px == 0
            assert 0.5 <= width * height / self.stage.size_px**2 <= 2

    def test_a_batch_is_a_pure_function_of_seed_and_step(self):
        first, second = self.make(), self.make()
        forwards = [list(first.batch(step, global_batch=self.stage.batch_size, stage=self.stage)) for step in STEPS]
        backwards = [list(second.batch(step, global_batch=self.stage.batch_size, stage=self.stage)) for step in reversed(STEPS)]
        assert forwards == backwards[::-1], "the batches of a step depend on the batches asked for before"

    def test_another_seed_gives_another_order(self):
        if len(self.make()) < 8:
            return  # too few records for orders to differ with certainty
        orders = [
            [ref.key for step in range(8) for ref in self.make(seed=seed).batch(step, global_batch=self.stage.batch_size, stage=self.stage)]
            for seed in (0, 1)
        ]
        assert orders[0] != orders[1]

    def test_refs_are_hashable_and_rows_are_in_range(self):
        source = self.make()
        for step in STEPS:
            refs = source.batch(step, global_batch=self.stage.batch_size, stage=self.stage)
            assert len(set(refs)) >= 1
            assert all(0 <= ref.row < len(source) for ref in refs)

    def test_fetch_returns_each_ref_in_order_at_its_size(self):
        source = self.make()
        refs = source.batch(0, global_batch=self.stage.batch_size, stage=self.stage)
        records = source.fetch(refs)
        assert [record.key for record in records] == [ref.key for ref in refs]
        for ref, record in zip(refs, records, strict=True):
            _check_record(record, ref.size_px)

    def test_fetch_is_repeatable_and_does_not_depend_on_its_neighbours(self):
        source = self.make()
        refs = source.batch(1, global_batch=4, stage=self.stage)
        together = source.fetch(refs)
        for ref, record in zip(refs, together, strict=True):
            (alone,) = source.fetch([ref])
            assert np.array_equal(alone.pixels, record.pixels)
            assert dict(alone.captions) == dict(record.captions)


def _check_record(record: Record, size_px: tuple[int, int]) -> None:
    width, height = size_px
    assert record.bucket == size_px
    assert record.pixels.dtype == np.uint8
    assert record.pixels.shape == (height, width, 3)
    assert record.captions, f"{record.key}: a record needs a caption, even if it is empty"
    assert all(isinstance(text, str) for text in record.captions.values())
