"""The renderer and the verifier, against each other and against an independent rasteriser."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from ernie_core.api import ConfigError, DataError
from ernie_data.shapes.components import connected_components, grow
from ernie_data.shapes.geometry import CROSS_HALF_ARM, GEOMETRY, RING_INNER, SQUARE_HALF, TRIANGLE_HALF_BASE, TRIANGLE_HALF_HEIGHT, coverage
from ernie_data.shapes.palette import PALETTE
from ernie_data.shapes.profile import PROFILES, Triple
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import Scene, SceneObject, draw_scene
from ernie_data.shapes.trials import counterfactual, run_trials
from ernie_data.shapes.verify import Verdict, judge, look

QUICK, FULL = PROFILES["quick"], PROFILES["full"]
RED_CIRCLE = Triple("circle", "red", "top left")


def scene(*triples: Triple, profile=QUICK, rgb=None, centre=None, size=None) -> Scene:
    objects = [
        SceneObject(t, centre or profile.cells[t.cell], size or sum(profile.object_sizes) / 2, rgb or PALETTE[t.colour]) for t in triples
    ]
    return Scene(profile.name, tuple(objects), (240, 240, 240))


def drawn_by_pillow(shape: str, *, colour, centre, size, size_px: int) -> np.ndarray:
    """An independent rasteriser: Pillow's polygons and ellipses at 16 times the size, box-filtered."""
    k = 16 * size_px
    image = Image.new("RGB", (k, k), (240, 240, 240))
    draw = ImageDraw.Draw(image)

    def at(points):
        return [((centre[0] + x * size) * k, (centre[1] + y * size) * k) for x, y in points]

    h, b, t = SQUARE_HALF, TRIANGLE_HALF_BASE, TRIANGLE_HALF_HEIGHT
    if shape == "circle":
        draw.ellipse([*at([(-0.5, -0.5)])[0], *at([(0.5, 0.5)])[0]], fill=colour)
    elif shape == "ring":
        draw.ellipse([*at([(-0.5, -0.5)])[0], *at([(0.5, 0.5)])[0]], fill=colour)
        draw.ellipse([*at([(-RING_INNER, -RING_INNER)])[0], *at([(RING_INNER, RING_INNER)])[0]], fill=(240, 240, 240))
    elif shape == "cross":
        a = CROSS_HALF_ARM
        draw.polygon(at([(-0.5, -a), (0.5, -a), (0.5, a), (-0.5, a)]), fill=colour)
        draw.polygon(at([(-a, -0.5), (a, -0.5), (a, 0.5), (-a, 0.5)]), fill=colour)
    else:
        points = {
            "square": [(-h, -h), (h, -h), (h, h), (-h, h)],
            "triangle": [(0, -t), (b, t), (-b, t)],
            "diamond": [(0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0)],
        }
        draw.polygon(at(points[shape]), fill=colour)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BOX))


@pytest.mark.parametrize("shape", sorted(GEOMETRY))
def test_area_and_centroid_of_a_template_equal_its_coverage(shape):
    share = coverage(shape, np.array([[0.5, 0.5]]), np.array([0.8]), 256)[0]
    at = (np.arange(256) + 0.5) / 256
    assert share.sum() / 256**2 == pytest.approx(GEOMETRY[shape].area * 0.8**2, rel=0.01)
    assert share.sum(0) @ at / share.sum() == pytest.approx(0.5, abs=1e-3)
    assert share.sum(1) @ at / share.sum() == pytest.approx(0.5 + 0.8 * GEOMETRY[shape].centroid_y, abs=2e-3)


@pytest.mark.parametrize("shape", sorted(GEOMETRY))
def test_renders_agree_with_an_independent_rasteriser(shape):
    theirs = drawn_by_pillow(shape, colour=(214, 34, 40), centre=(0.4, 0.6), size=0.6, size_px=48)
    ours = render([scene(Triple(shape, "red", "top left"), centre=(0.4, 0.6), size=0.6, rgb=(214, 34, 40))], 48)[0]
    assert np.abs(ours.astype(int) - theirs).mean() < 1.5
    assert np.quantile(np.abs(ours.astype(int) - theirs), 0.999) < 60  # a quarter of a pixel at corners, where the distance is not exact


@pytest.mark.parametrize("size_px", [24, 32, 64])
def test_the_verifier_reads_pictures_of_an_independent_rasteriser(size_px):
    for shape in FULL.shapes:
        for colour in FULL.colours:
            pixels = drawn_by_pillow(shape, colour=PALETTE[colour], centre=(0.5, 0.83), size=0.27, size_px=size_px)
            assert judge(look(pixels[None], FULL)[0], [Triple(shape, colour, "bottom centre")]).right, (shape, colour)


def test_rendering_is_deterministic_and_independent_of_its_neighbours():
    scenes = [draw_scene(FULL, seed=0, split="train", index=i) for i in range(8)]
    assert np.array_equal(render(scenes, 32)[5], render([scenes[5]], 32)[0])


@pytest.mark.parametrize("size_px", [15, 257, 0])
def test_sizes_out_of_range_are_refused(size_px):
    with pytest.raises(ConfigError, match=f"ShapeBench renders pictures of 16 to 256 px, found {size_px}"):
        render([scene(RED_CIRCLE)], size_px)


@pytest.mark.parametrize(("name", "size_px"), [("quick", 24), ("quick", 32), ("full", 32), ("full", 64), ("bench", 32), ("bench", 64)])
def test_clean_counterfactual_noisy_and_shifted_pictures_are_judged_as_promised(name, size_px):
    trials = run_trials(PROFILES[name], count=400 if size_px < 64 else 200, size_px=size_px, seed=size_px)
    assert trials.passed(), trials


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size_px"), [("quick", 24), ("quick", 32), ("full", 32), ("full", 64), ("bench", 32), ("bench", 64)])
def test_ten_thousand_pictures_are_judged_as_promised(name, size_px):
    trials = run_trials(PROFILES[name], count=10_000, size_px=size_px)
    assert trials.passed(), trials


def test_trials_fail_when_the_verifier_would_accept_too_much():
    # The bar itself must be able to fail: a count above zero of accepted counterfactuals, or one wrong clean picture.
    good = run_trials(QUICK, count=8, size_px=24)
    assert good.passed()
    assert not dataclasses.replace(good, counterfactuals_accepted=1).passed()
    assert not dataclasses.replace(good, clean_right=7).passed()
    assert not dataclasses.replace(good, noisy_right=7).passed()


def test_a_counterfactual_differs_in_one_attribute_by_its_nearest_alternative():
    changed = {}
    for index in range(300):
        original = draw_scene(FULL, seed=0, split="all", index=index)
        other = counterfactual(FULL, original, index)
        differences = [(a, b) for x, y in zip(original.triples(), other) for a, b in zip(x, y) if a != b]
        assert len(differences) == 1
        assert len({t.cell for t in other}) == len(other)
        changed.setdefault(differences[0][0], set()).add(differences[0][1])
    assert changed["red"] == {"orange"}
    assert changed["blue"] == {"purple"}
    assert changed["circle"] <= {"square", "diamond"}


def test_a_blank_picture_is_wrong_on_all_tags():
    for level in (255, 240, 0, 128):
        pixels = np.full((1, 24, 24, 3), level, np.uint8)
        assert judge(look(pixels, QUICK)[0], [RED_CIRCLE]) == Verdict(False, False, False, 0)


def test_a_picture_of_one_colour_all_over_has_no_object():
    pixels = np.full((1, 24, 24, 3), PALETTE["red"], np.uint8)
    assert look(pixels, QUICK)[0] == ()


def test_two_objects_are_wrong_on_all_tags_of_a_one_object_prompt():
    both = [scene(Triple("circle", "red", "top left"), Triple("circle", "red", "bottom right"), size=0.3)]
    assert judge(look(render(both, 32), QUICK)[0], [RED_CIRCLE]) == Verdict(False, False, False, 2)


def test_one_object_is_wrong_on_all_tags_of_a_two_object_prompt():
    seen = look(render([scene(Triple("ring", "cyan", "top left"), profile=FULL)], 64), FULL)[0]
    assert judge(seen, [Triple("ring", "cyan", "top left"), Triple("ring", "red", "top right")]) == Verdict(False, False, False, 1)


def test_swapped_attributes_of_two_objects_are_noticed():
    red_ring, blue_cross = Triple("ring", "red", "top left"), Triple("cross", "blue", "bottom right")
    seen = look(render([scene(red_ring, blue_cross, profile=FULL)], 64), FULL)[0]
    assert judge(seen, [red_ring, blue_cross]).right
    assert judge(seen, [blue_cross, red_ring]).right
    swapped = judge(seen, [red_ring._replace(colour="blue"), blue_cross._replace(colour="red")])
    assert swapped == Verdict(colour=False, shape=True, position=True, objects=2)


def test_an_object_in_the_middle_of_four_cells_has_no_position():
    verdict = judge(look(render([scene(RED_CIRCLE, centre=(0.5, 0.5))], 24), QUICK)[0], [RED_CIRCLE])
    assert verdict == Verdict(colour=True, shape=True, position=False, objects=1)


def test_a_half_red_half_blue_object_has_no_colour():
    pixels = render([scene(RED_CIRCLE, rgb=PALETTE["red"])], 32)
    blue = render([scene(RED_CIRCLE, rgb=PALETTE["blue"])], 32)
    pixels[:, :, :11] = blue[:, :, :11]
    (only,) = look(pixels, QUICK)[0]
    assert only.colour is None
    assert only.colour_purity < 0.6
    assert only.cell == "top left"


def test_a_colour_outside_the_palette_has_no_name():
    verdict = judge(look(render([scene(RED_CIRCLE, rgb=(20, 200, 210))], 24), QUICK)[0], [RED_CIRCLE])
    assert verdict == Verdict(colour=False, shape=True, position=True, objects=1)
    assert look(render([scene(RED_CIRCLE, rgb=(20, 200, 210))], 24), QUICK)[0][0].colour is None


def test_a_long_bar_has_no_shape():
    pixels = np.full((1, 32, 32, 3), 240, np.uint8)
    pixels[:, 9:12, 2:30] = PALETTE["red"]
    (only,) = look(pixels, QUICK)[0]
    assert only.shape is None
    assert only.colour == "red"


def test_a_ragged_blob_has_no_shape():
    """What a model draws before it has learned shapes: a blob whose outline is noise."""
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:32, :32] + 0.5) / 32
    angle = np.arctan2(y - 0.33, x - 0.33)
    named = 0
    for _ in range(40):
        waves = sum(rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(3, 9))
        mask = np.hypot(x - 0.33, y - 0.33) < 0.26 + waves + rng.normal(0, 0.02, (32, 32))
        pixels = np.where(mask[..., None], PALETTE["red"], (240, 240, 240)).astype(np.uint8)
        named += any(o.shape == "circle" for o in look(pixels[None], QUICK)[0])
    assert named <= 8


def test_specks_are_ignored_and_larger_blots_are_objects():
    clean = render([scene(RED_CIRCLE)], 32)
    speck = clean.copy()
    speck[:, 28:30, 28:31] = PALETTE["blue"]
    assert judge(look(speck, QUICK)[0], [RED_CIRCLE]).right
    blot = clean.copy()
    blot[:, 25:30, 25:30] = PALETTE["blue"]
    assert judge(look(blot, QUICK)[0], [RED_CIRCLE]).objects == 2


def test_blurred_and_pale_pictures_are_still_read():
    """As samples of a half-trained model look: blurred by a 3x3 box twice, 20 % paler, with slight noise."""
    scenes = [draw_scene(QUICK, seed=5, split="all", index=i) for i in range(300)]
    pixels = render(scenes, 24).astype(float)
    for _ in range(2):
        padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        pixels = np.mean([padded[:, y : y + 24, x : x + 24] for y in range(3) for x in range(3)], axis=0)
    pixels = 0.8 * pixels + 0.2 * 240 + np.random.default_rng(0).normal(0, 5, pixels.shape)
    seen = look(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8), QUICK)
    right = np.mean([judge(s, scene.triples()).right for s, scene in zip(seen, scenes)])
    assert right >= 0.97


def test_the_verifier_refuses_what_it_cannot_read():
    with pytest.raises(DataError, match=r"square uint8 pictures \[B, H, H, 3\], found float64 \[2, 8, 8, 3\]"):
        look(np.zeros((2, 8, 8, 3)), QUICK)
    with pytest.raises(DataError, match=r"found uint8 \[2, 8, 9, 3\]"):
        look(np.zeros((2, 8, 9, 3), np.uint8), QUICK)


def flood(mask: np.ndarray) -> np.ndarray:
    """Components by flood fill, one pixel at a time: slow and obviously right."""
    labels = np.zeros(mask.shape, np.int32)
    for start in zip(*np.nonzero(mask)):
        if labels[start]:
            continue
        stack, name = [start], start[0] * mask.shape[1] + start[1] + 1
        while stack:
            y, x = stack.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = name
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9), st.integers(1, 13), st.integers(1, 13))
def test_components_equal_a_flood_fill(seed, density, height, width):
    masks = np.random.default_rng(seed).random((4, height, width)) < density
    assert np.array_equal(connected_components(masks), np.stack([flood(m) for m in masks]))


def test_a_spiral_is_one_component():
    mask = np.zeros((15, 15), bool)
    for inset in range(0, 7, 2):
        mask[inset, inset : 15 - inset] = mask[inset : 15 - inset, 14 - inset] = True
        mask[14 - inset, inset : 15 - inset] = mask[inset + 2 : 15 - inset, inset] = True
    assert np.array_equal(connected_components(mask[None])[0], flood(mask))


def test_growing_adds_one_pixel_a_round_and_never_relabels():
    labels = np.zeros((1, 7, 7), np.int32)
    labels[0, 3, 1], labels[0, 3, 5] = 4, 9
    grown = grow(labels, rounds=1)[0]
    assert (grown[2:5, 0:3] == 4).all()
    assert (grown[2:5, 4:7] == 9).all()
    assert (grown[:, 3] == 0).all()
    assert (grow(labels, rounds=2)[0][3] == [4, 4, 4, 9, 9, 9, 9]).all()
