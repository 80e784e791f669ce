"""Laws of aspect buckets and of the crop."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_core.api import ConfigError
from ernie_data.buckets import AREA_TOLERANCE, bucket_sizes, crop_box, nearest_bucket

STAGES = st.tuples(st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 64)).map(lambda pair: (pair[0], pair[0] * pair[1]))
SIDES = st.integers(1, 20_000)


@given(STAGES, st.floats(1, 8))
def test_every_bucket_keeps_area_multiple_and_aspect(stage, max_aspect):
    multiple, size = stage
    sizes = bucket_sizes(size, multiple_px=multiple, max_aspect=max_aspect)
    assert (size, size) in sizes
    assert len({w for w, _ in sizes}) == len(sizes)
    assert list(sizes) == sorted(sizes)
    for width, height in sizes:
        assert width % multiple == height % multiple == 0
        assert abs(width * height - size**2) <= AREA_TOLERANCE * size**2
        assert max(width / height, height / width) <= max_aspect


def test_no_admissible_shape_is_missing():
    sizes = dict(bucket_sizes(96, multiple_px=16, max_aspect=3.0))
    for width in range(16, 400, 16):
        fits = [h for h in range(16, 400, 16) if abs(width * h - 96**2) <= 0.05 * 96**2 and max(width / h, h / width) <= 3]
        assert (width in sizes) == bool(fits)
        assert not fits or sizes[width] in fits


def test_released_size_has_the_usual_buckets():
    sizes = bucket_sizes(1024, multiple_px=16, max_aspect=2.0)
    assert {(1024, 1024), (848, 1232), (1232, 848), (768, 1360)} <= set(sizes)


def test_square_only():
    assert bucket_sizes(512, multiple_px=16, max_aspect=1.0) == ((512, 512),)


def test_a_stage_without_any_bucket_names_sizes_that_work():
    with pytest.raises(ConfigError, match=r"stage size_px = 24: .*multiples of 16 px .* within 5% of 24 x 24; try size_px = 16 or 32"):
        bucket_sizes(24, multiple_px=16, max_aspect=3.0)
    with pytest.raises(ConfigError, match=r"stage size_px = 5: .*; try size_px = 16$"):
        bucket_sizes(5, multiple_px=16, max_aspect=3.0)


@given(SIDES, SIDES)
def test_the_nearest_bucket_is_nearest(width, height):
    sizes = bucket_sizes(256, multiple_px=16, max_aspect=3.0)
    best = nearest_bucket(width, height, sizes)
    error = abs(math.log(best[0] / best[1]) - math.log(width / height))
    assert all(error <= abs(math.log(w / h) - math.log(width / height)) + 1e-8 for w, h in sizes)


@given(SIDES, SIDES)
def test_a_turned_picture_goes_to_the_turned_bucket(width, height):
    sizes = bucket_sizes(256, multiple_px=16, max_aspect=3.0)
    symmetric = [s for s in sizes if s[::-1] in sizes]
    w, h = nearest_bucket(width, height, symmetric)
    back = nearest_bucket(height, width, symmetric)
    assert max(back) / min(back) == max(w, h) / min(w, h)


@given(SIDES, SIDES, st.sampled_from(bucket_sizes(256, multiple_px=16, max_aspect=3.0)))
def test_the_crop_is_centred_inside_the_picture_and_has_the_buckets_aspect(width, height, bucket):
    left, top, right, bottom = crop_box(width, height, bucket)
    assert 0 <= left <= right <= width + 1e-6
    assert 0 <= top <= bottom <= height + 1e-6
    assert left == pytest.approx(width - right, abs=1e-6)
    assert top == pytest.approx(height - bottom, abs=1e-6)
    assert (right - left) / (bottom - top) == pytest.approx(bucket[0] / bucket[1], rel=1e-9)
    assert right - left == pytest.approx(width) or bottom - top == pytest.approx(height)
