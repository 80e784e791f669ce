"""The known quality law: what is planted can be read back from pixels."""

import dataclasses

import numpy as np
import pytest

from ernie_core.api import DataError, PluginHost, ScorerContext, Selection
from ernie_data.shapes.entries import ShapesQualityConfig
from ernie_data.shapes.flaws import FLAWS, Flaw, add_flaw, gaussian_blur
from ernie_data.shapes.profile import PROFILES
from ernie_data.shapes.quality import build, flaw_strengths, noise_sigma, quality_of
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import draw_scene


def ranks(values) -> np.ndarray:
    return np.argsort(np.argsort(np.asarray(values)))


def flawed(name, index, kind, strength):
    scene = draw_scene(PROFILES[name], seed=8, split="all", index=index)
    return dataclasses.replace(scene, flaw=Flaw(kind, strength, index))


@pytest.mark.parametrize(("name", "size_px"), [("quick", 32), ("full", 32), ("bench", 64)])
def test_quality_read_from_pixels_ranks_pictures_as_planted(name, size_px):
    generator = np.random.default_rng(0)
    scenes = [flawed(name, i, FLAWS[i % len(FLAWS)], float(generator.random())) for i in range(200)]
    read = [quality_of(p) for p in render(scenes, size_px)]
    assert np.corrcoef(ranks([s.quality for s in scenes]), ranks(read))[0, 1] >= 0.95
    assert all(1 <= q <= 10 for q in read)


@pytest.mark.parametrize("kind", FLAWS)
def test_a_stronger_flaw_gives_a_lower_quality(kind):
    for index in range(5):
        read = [quality_of(p) for p in render([flawed("bench", index, kind, s) for s in (0.05, 0.35, 0.65, 0.95)], 64)]
        assert sorted(read, reverse=True) == read
        assert read[0] - read[-1] > 3


@pytest.mark.parametrize("kind", ["noise", "veil", "clutter"])
def test_strengths_are_measured_as_planted(kind):
    for strength in (0.2, 0.5, 0.8):
        pixels = render([flawed("bench", i, kind, strength) for i in range(20)], 64)
        assert np.mean([flaw_strengths(p)[kind] for p in pixels]) == pytest.approx(strength, abs=0.05)


def test_clean_pictures_are_near_the_top():
    pixels = render([draw_scene(PROFILES["bench"], seed=1, split="all", index=i) for i in range(60)], 64)
    assert np.median([quality_of(p) for p in pixels]) > 9
    assert min(quality_of(p) for p in pixels) > 8


def test_a_flaw_is_a_pure_function_of_picture_kind_strength_and_seed():
    pixels = render([draw_scene(PROFILES["bench"], seed=1, split="all", index=0)], 64)[0]
    for kind in FLAWS:
        assert np.array_equal(add_flaw(pixels, Flaw(kind, 0.5, 3)), add_flaw(pixels, Flaw(kind, 0.5, 3)))
        if kind in ("noise", "clutter"):
            assert not np.array_equal(add_flaw(pixels, Flaw(kind, 0.5, 3)), add_flaw(pixels, Flaw(kind, 0.5, 4)))


def test_the_quality_of_a_scene_is_one_minus_its_flaw():
    scene = draw_scene(PROFILES["bench"], seed=1, split="all", index=0)
    assert scene.quality == 1.0
    assert dataclasses.replace(scene, flaw=Flaw("blur", 0.3)).quality == pytest.approx(0.7)


def test_noise_of_a_plain_surface_is_measured():
    grain = add_flaw(np.full((96, 96, 3), 230, np.uint8), Flaw("noise", 0.5, 0)).astype(np.float32)
    assert noise_sigma(grain) == pytest.approx(0.1, rel=0.05)


def test_blur_keeps_the_mean_and_spreads_a_point_as_a_gaussian():
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1
    spread = gaussian_blur(point, sigma_px=2.0)
    at = np.arange(41) - 20
    assert spread.sum() == pytest.approx(3, rel=1e-4)
    assert (spread[..., 0].sum(0) * at**2).sum() == pytest.approx(4, rel=0.05)


def test_the_scorer_is_offered_and_scores_each_picture_by_itself():
    entry = PluginHost.discover(plugins=True).entry("scorers", "shapes-quality")
    assert entry.config is ShapesQualityConfig
    scorer = build(ShapesQualityConfig(), ScorerContext())
    pixels = list(render([flawed("bench", i, "noise", i / 10) for i in range(8)], 64))
    scores = scorer.score(pixels)
    assert scores.dtype == np.float64
    assert scores.shape == (8,)
    assert np.array_equal(scorer.score(pixels[::-1], prompts=["x"] * 8), scores[::-1])
    assert scorer.score([]).shape == (0,)
    assert scorer.code
    assert Selection("shapes-quality").use == entry.name


def test_what_is_no_picture_is_refused():
    with pytest.raises(DataError, match=r"uint8 pictures \[H, W, 3\] of at least 16 px, found float64 \[32, 32, 3\]"):
        quality_of(np.zeros((32, 32, 3)))
    with pytest.raises(DataError, match=r"found uint8 \[8, 32, 3\]"):
        quality_of(np.zeros((8, 32, 3), np.uint8))
