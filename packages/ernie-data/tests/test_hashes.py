"""What a picture is recognised by: stable under re-encoding, told apart by the small picture where hashes collide."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ernie_core.api import DataStageContext, PluginHost
from ernie_data.duplicates.compare import distances
from ernie_data.duplicates.entries import HashesConfig
from ernie_data.duplicates.fingerprint import cosines, fingerprint, low_frequencies
from ernie_data.duplicates.hashes import build
from ernie_data.engine.stage import Item, Refuse
from ernie_data.reasons import ReasonCode
from ernie_data.shapes.defects import COPIES, near_copy
from ernie_data.shapes.profile import profile
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import draw_scene

STAGE = build(HashesConfig(), DataStageContext(PluginHost.discover().build))


def png(pixels) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(data, format="PNG")
    return data.getvalue()


def scene_pixels(index: int, size_px: int = 64) -> np.ndarray:
    return render([draw_scene(profile("bench"), seed=3, split="train", index=index)], size_px)[0]


def between(one: bytes, other: bytes) -> float:
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in (one, other)]
    thumbs = np.stack([fingerprint(picture)[1] for picture in pictures])
    found = distances(thumbs[0], pictures[0].size, thumbs[1:], np.array([pictures[1].size]))
    back = distances(thumbs[1], pictures[1].size, thumbs[:1], np.array([pictures[0].size]))
    assert found[0] == pytest.approx(back[0], rel=1e-3, abs=1e-4), "whoever is compared with whom"
    return float(found[0])


def test_the_stage_gives_16_hexadecimal_digits_and_a_small_picture():
    columns = STAGE.one(Item("a", {}, lambda: png(scene_pixels(0)))).columns
    assert len(columns["phash"]) == 16
    int(columns["phash"], 16)
    assert len(base64.b64decode(columns["thumb"])) == 16 * 16 * 3


def test_a_picture_that_is_no_longer_whole_is_refused():
    with pytest.raises(Refuse) as refusal:
        STAGE.one(Item("a", {}, lambda: png(scene_pixels(0))[:-40]))
    assert refusal.value.reason == ReasonCode.PICTURE_DAMAGED


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 30)])
def test_a_plain_picture_has_a_steady_hash(colour):
    hashes = {fingerprint(Image.new("RGB", size, colour))[0] for size in ((64, 64), (65, 63), (500, 300), (1, 1))}
    assert len(hashes) == 1


@given(st.integers(0, 2**32 - 1))
def test_small_pictures_hold_their_coefficients(seed):
    thumb = np.random.default_rng(seed).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    back = cosines(16).T @ (low_frequencies(thumb)[0] * 16).transpose(2, 0, 1) @ cosines(16)
    assert np.abs(back.transpose(1, 2, 0) - thumb[0]).max() < 1e-3


def test_the_cosines_are_orthonormal():
    assert np.abs(cosines(64) @ cosines(64).T - np.eye(64)).max() < 1e-12


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_near_its_original_by_hash_and_by_small_picture(kind):
    hash_far, far = 0, 0
    for index in range(20):
        pixels = scene_pixels(index)
        copy = near_copy(pixels, kind)
        one, other = (fingerprint(Image.open(io.BytesIO(data)).convert("RGB"))[0] for data in (png(pixels), copy))
        hash_far += (one ^ other).bit_count() > 8
        far += between(png(pixels), copy) > 0.1
    assert hash_far <= 1
    assert far <= 1


def test_different_scenes_are_far_apart():
    pictures = [png(scene_pixels(i)) for i in range(12)]
    assert min(between(a, b) for i, a in enumerate(pictures) for b in pictures[:i]) > 0.3


def test_the_same_object_elsewhere_by_a_fraction_of_a_cell_is_another_picture():
    moved = np.full((64, 64, 3), 230, np.uint8)
    pixels = moved.copy()
    pixels[10:26, 10:26] = moved[12:28, 11:27] = (40, 60, 200)
    assert between(png(pixels), png(moved)) > 0.15


def test_brightness_counts_from_a_limit_on_and_colour_always():
    pixels = scene_pixels(1)
    assert between(png(pixels), png(pixels * 0.93)) < 0.1
    assert between(png(pixels), png(pixels * 0.8)) == np.inf
    assert between(png(pixels), png(pixels[..., ::-1])) > 0.1


def test_plain_pictures_of_other_colours_differ_and_of_one_colour_do_not():
    plain = [np.full((32, 32, 3), colour) for colour in ((0, 0, 0), (255, 255, 255), (200, 30, 30), (30, 30, 200))]
    assert all(between(png(p), png(p)) == 0 for p in plain)
    assert min(between(png(a), png(b)) for i, a in enumerate(plain) for b in plain[:i]) > 0.1


@pytest.mark.parametrize("cut", [(0, 3, 0, 3), (3, 0, 0, 3), (2, 2, 2, 2), (0, 0, 0, 4)])
def test_a_crop_is_recognised_where_the_sizes_tell_it(cut):
    pixels = scene_pixels(2, size_px=128)
    left, right, top, bottom = cut
    part = pixels[top : 128 - bottom, left : 128 - right]
    assert between(png(pixels), png(part)) < 0.1
    stretched = png(Image.fromarray(part).resize((128, 128)))
    assert between(png(pixels), stretched) > between(png(pixels), png(part)), "stretched back, only the picture can tell"
