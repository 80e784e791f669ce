"""Captions read from pixels alone."""

import io

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import DataError
from ernie_data.shapes.claims import ObjectClaim, RelationClaim, TextClaim
from ernie_data.shapes.defects import COPIES, near_copy
from ernie_data.shapes.judge import shows
from ernie_data.shapes.parse import parse_caption
from ernie_data.shapes.profile import PROFILES
from ernie_data.shapes.reader import read_picture
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import draw_scene
from ernie_data.shapes.trials import scene_claims


def exact(reading, scene) -> bool:
    wanted = scene_claims(scene)
    return reading.complete and set(reading.claims().objects) == set(wanted.objects) and reading.texts == wanted.texts


@pytest.mark.parametrize(("name", "size_px"), [(n, s) for n in sorted(PROFILES) for s in (32, 64)])
def test_clean_pictures_of_every_profile_are_read_exactly(name, size_px):
    scenes = [draw_scene(PROFILES[name], seed=4, split="all", index=i) for i in range(100)]
    readings = [read_picture(pixels) for pixels in render(scenes, size_px)]
    assert np.mean([exact(r, s) for r, s in zip(readings, scenes)]) >= 0.99
    for reading, scene in zip(readings, scenes):
        assert reading.profile == ("quick" if name == "quick" else "bench")
        if reading.complete:
            assert shows(scene, reading.short_claims())
            assert all(parse_caption(c) == reading.claims() for c in reading.captions(index=3).values())


@pytest.mark.parametrize("kind", COPIES)
def test_near_duplicates_are_read_as_their_originals(kind):
    scenes = [draw_scene(PROFILES["bench"], seed=4, split="all", index=i) for i in range(40)]
    copies = [np.asarray(Image.open(io.BytesIO(near_copy(p, kind))).convert("RGB")) for p in render(scenes, 64)]
    assert np.mean([exact(read_picture(c), s) for c, s in zip(copies, scenes)]) >= 0.95


def test_a_reading_says_everything_in_its_places():
    index = next(i for i in range(999) if (s := draw_scene(PROFILES["bench"], seed=0, split="all", index=i)).sign and s.kind == "position")
    scene = draw_scene(PROFILES["bench"], seed=0, split="all", index=index)
    reading = read_picture(render([scene], 64)[0])
    (relation,) = scene.claims().relations
    assert len(reading.relations) == 1
    assert reading.relations[0] in (
        relation,
        RelationClaim(
            relation.object,
            {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}[relation.relation],
            relation.subject,
        ),
    )
    structured = reading.structured()
    assert structured["text"] == [scene.sign.text]
    assert structured["relations"] == [str(reading.relations[0])]
    assert {(a["shape"], a["colour"], a["cell"]) for a in structured["attributes"]} == set(scene.triples())
    for read in reading.objects:
        placed = min(scene.objects, key=lambda o: abs(o.centre[0] - read.centre[0]) + abs(o.centre[1] - read.centre[1]))
        expected = [64 * (c + sign * placed.size / 2) for sign in (-1, 1) for c in placed.centre]
        assert np.allclose(read.box, expected, atol=1.5)
    assert set(structured) == {"subject", "attributes", "relations", "text", "lighting", "composition", "style"}


def test_equal_objects_are_counted_in_short_captions():
    index = next(i for i in range(99) if draw_scene(PROFILES["bench"], seed=0, split="all", index=i).kind == "counting")
    scene = draw_scene(PROFILES["bench"], seed=0, split="all", index=index)
    reading = read_picture(render([scene], 64)[0])
    assert parse_caption(reading.captions(short=True)["request"]) == scene.claims()


@pytest.mark.parametrize("shape", [(64, 64, 3), (40, 90, 3), (300, 300, 3)])
def test_a_picture_of_something_else_has_no_complete_reading(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for pixels in (noise, np.full(shape, 255, np.uint8), np.zeros(shape, np.uint8)):
        reading = read_picture(pixels)
        assert not reading.complete
        assert reading.captions() == {}


def test_arrays_that_are_no_pictures_are_refused():
    with pytest.raises(DataError, match=r"uint8 pictures \[H, W, 3\] of at least 16 px, found float32 \[64, 64, 3\]"):
        read_picture(np.zeros((64, 64, 3), np.float32))
    with pytest.raises(DataError, match=r"found uint8 \[8, 64, 3\]"):
        read_picture(np.zeros((8, 64, 3), np.uint8))


def test_claims_of_a_reading_are_those_of_its_objects():
    scene = draw_scene(PROFILES["quick"], seed=0, split="all", index=0)
    reading = read_picture(render([scene], 24)[0])
    assert reading.claims().objects == (ObjectClaim(*scene.triples()[0]),)
    assert TextClaim("A") not in reading.texts
