"""Signs found in pictures, and their texts."""

import dataclasses

import numpy as np
import pytest

from ernie_data.shapes.glyphs import ALPHABET
from ernie_data.shapes.judge import shows
from ernie_data.shapes.profile import PROFILES
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import Scene, Sign, draw_scene
from ernie_data.shapes.trials import NOISE_SIGMA, add_noise, counterfactual_claims, nearest_glyph, scene_claims
from ernie_data.shapes.verify import look_all

BENCH = PROFILES["bench"]
ROWS = {"top": 1 / 6, "middle": 1 / 2, "bottom": 5 / 6}


def signs(texts, row="middle", *, dx=0.0, dy=0.0):
    return [Scene("bench", (), (240, 240, 240), sign=Sign(t, row, (0.5 + dx, ROWS[row] + dy))) for t in texts]


@pytest.mark.parametrize("size_px", [32, 64])
def test_every_glyph_is_read_in_every_place(size_px):
    texts = [ALPHABET[i:][:4] if i <= 24 else ALPHABET[i:] + ALPHABET[: i - 24] for i in range(len(ALPHABET))] + list(ALPHABET)
    for row, dx, dy in (("top", 0.02, -0.006), ("middle", -0.013, 0.004), ("bottom", 0.007, 0.0)):
        for text, seen in zip(texts, look_all(render(signs(texts, row, dx=dx, dy=dy), size_px), BENCH)):
            assert [(t.text, t.row) for t in seen.texts] == [(text, row)]
            assert seen.objects == ()


def test_a_glyph_and_its_nearest_are_told_apart_under_noise():
    texts = [a + nearest_glyph(a) for a in ALPHABET] * 4
    seen = look_all(add_noise(render(signs(texts), 64), seed=0, first=0, sigma=NOISE_SIGMA), BENCH)
    assert np.mean([s.texts[0].text == t for s, t in zip(seen, texts)]) >= 0.99


def test_an_empty_plate_has_no_text_and_a_scribble_none_either():
    plate = render(signs("8"), 64)
    plate[:, 26:38, 8:56] = (62, 68, 84)
    (seen,) = look_all(plate, BENCH)
    assert [t.text for t in seen.texts] == [None]
    scribbled = plate.copy()
    scribbled[:, 25:39, 6:58][:, np.random.default_rng(0).random((14, 52)) < 0.5] = 250
    assert [t.text for t in look_all(scribbled, BENCH)[0].texts] == [None]


def test_profiles_without_signs_see_an_object_without_shape():
    seen = look_all(render(signs(["K7"]), 64), PROFILES["full"])[0]
    assert seen.texts == ()
    assert all(o.shape is None for o in seen.objects)


def test_an_object_beside_a_sign_is_read_as_without_it():
    for index in range(150):
        scene = draw_scene(BENCH, seed=2, split="all", index=index)
        if scene.sign:
            with_sign, without = look_all(render([scene, dataclasses.replace(scene, sign=None)], 32), BENCH)
            assert {(o.shape, o.colour, o.cell) for o in with_sign.objects} == {(o.shape, o.colour, o.cell) for o in without.objects}


def test_a_counterfactual_is_never_true_and_takes_turns():
    changed = set()
    for index in range(600):
        scene = draw_scene(BENCH, seed=0, split="all", index=index)
        other = counterfactual_claims(BENCH, scene, index)
        assert not shows(scene, other)
        full, told = scene_claims(scene), scene.claims()
        changed |= {
            *(["text"] if full.texts != other.texts else []),
            *(["count"] if other.counts and other.counts != told.counts else []),
            *(["relation"] if other.relations and other.relations != told.relations else []),
            *(["objects"] if other.objects and other.objects != full.objects else []),
        }
    assert changed == {"text", "count", "relation", "objects"}
