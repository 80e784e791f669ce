"""Scenes of profile bench, their claims, captions and the parser that reads captions back."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.api import ConfigError
from ernie_data.shapes.captions import STYLES, WORDINGS, all_captions, captions_by_style
from ernie_data.shapes.claims import Claims, CountClaim, ObjectClaim, RelationClaim, TextClaim, is_held_out
from ernie_data.shapes.glyphs import ALPHABET, GLYPHS, text_coverage, text_width_dots
from ernie_data.shapes.judge import judge_claims, related, shows
from ernie_data.shapes.parse import parse_caption
from ernie_data.shapes.phrases import FORMS, all_claims_captions, claims_by_style, claims_caption, scene_captions
from ernie_data.shapes.profile import PROFILES
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import Bias, draw_kind, draw_scene
from ernie_data.shapes.signs import PLATE_HALF_HEIGHT

BENCH = PROFILES["bench"]
RED_RING, BLUE_CROSS = ObjectClaim("ring", "red"), ObjectClaim("cross", "blue")


def scenes(count, *, split="train", seed=0):
    return [draw_scene(BENCH, seed=seed, split=split, index=i) for i in range(count)]


def test_every_kind_of_scene_is_drawn_with_its_share():
    drawn = scenes(2000)
    kinds = Counter(s.kind for s in drawn)
    assert all(abs(kinds[k] / 2000 - share) < 0.04 for k, share in BENCH.kinds.items())
    assert abs(sum(s.sign is not None for s in drawn) / 2000 - BENCH.text_share) < 0.04
    assert {len(s.sign.text) for s in drawn if s.sign} == {1, 2, 3, 4}
    assert {len(s.objects) for s in drawn if s.kind == "counting"} == {2, 3, 4, 5}


def test_a_scene_bears_out_its_own_claims():
    assert all(shows(s, s.claims()) for s in scenes(500, split="all"))


def test_signs_and_objects_keep_apart():
    for scene in (s for s in scenes(800, split="all") if s.sign):
        for o in scene.objects:
            assert abs(o.centre[1] - scene.sign.centre[1]) - o.size / 2 - PLATE_HALF_HEIGHT > 0.02


def test_training_scenes_make_no_held_out_claim_and_all_scenes_make_some():
    assert not any(is_held_out(s.claims()) for split in ("train", "validation") for s in scenes(600, split=split))
    share = np.mean(
        [is_held_out(s.claims()) for s in scenes(1500, split="all") if s.kind not in ("single", "colours", "several") and not s.sign]
    )
    assert 0.05 < share < 0.22


def test_both_readings_of_a_relation_are_held_out_together():
    some = 0
    for a, b in itertools.product(BENCH.shapes, BENCH.colours):
        one, other = ObjectClaim(a, "red"), ObjectClaim("ring", b)
        here = is_held_out(Claims(relations=(RelationClaim(one, "left of", other),)))
        assert here == is_held_out(Claims(relations=(RelationClaim(other, "right of", one),)))
        some += here
    assert some > 0


def test_categories_name_single_objects_and_kinds():
    for scene in scenes(300):
        if scene.sign:
            assert scene.category == "text"
        elif len(scene.objects) == 1:
            assert scene.category == f"{scene.objects[0].triple.colour} {scene.objects[0].triple.shape}"
        else:
            assert scene.category == scene.kind


def test_bias_changes_what_is_drawn():
    bias = Bias(pairs={("circle", "red"): 3.0, ("ring", "blue"): 1.0}, counts={5: 1.0})
    drawn = [draw_scene(BENCH, seed=0, split="train", index=i, bias=bias) for i in range(400)]
    firsts = Counter(s.triples()[0][:2] for s in drawn)
    assert set(firsts) == {("circle", "red"), ("ring", "blue")}
    assert 2 < firsts["circle", "red"] / firsts["ring", "blue"] < 5
    assert {len(s.objects) for s in drawn if s.kind == "counting"} == {5}
    quick = [draw_scene(PROFILES["quick"], seed=0, split="train", index=i, bias=Bias({("circle", "red"): 1.0}, {})) for i in range(20)]
    assert {s.triples()[0][:2] for s in quick} == {("circle", "red")}
    with pytest.raises(ConfigError, match="gives no weight to any of the profile's"):
        draw_scene(PROFILES["quick"], seed=0, split="train", index=0, bias=Bias({("ring", "red"): 1.0}, {}))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match='profile quick has no scenes of kind "counting"; expected one of: none'):
        draw_kind(PROFILES["quick"], "counting", signed=False, everything=True, generator=np.random.default_rng(0))


def test_captions_of_triples_are_worded_as_ever():
    for name in ("quick", "full"):
        for index in range(40):
            scene = draw_scene(PROFILES[name], seed=0, split="all", index=index)
            assert all_claims_captions(scene.claims()) == all_captions(scene.triples())
            assert scene_captions(scene, index=index) == captions_by_style(scene.triples(), index=index)


@pytest.mark.parametrize(
    ("claims", "style", "wording", "text"),
    [
        (Claims(counts=(CountClaim(3, "cross", "red"),)), "keywords", 1, "crosses, red, three"),
        (Claims(counts=(CountClaim(2, "ring"),)), "request", 1, "can you show me two rings?"),
        (
            Claims(relations=(RelationClaim(RED_RING, "left of", BLUE_CROSS),)),
            "instruction",
            0,
            "Draw a red ring to the left of a blue cross.",
        ),
        (
            Claims(relations=(RelationClaim(RED_RING, "above", BLUE_CROSS),), texts=(TextClaim("K7", "bottom"),)),
            "composition",
            1,
            'A simple composition: a ring coloured red above a cross coloured blue; at the bottom the text "K7", empty space around.',
        ),
        (Claims(objects=(RED_RING,), texts=(TextClaim("A"),)), "instruction", 1, 'Paint one ring in red, then the word "A".'),
        (Claims(objects=(ObjectClaim("square"), ObjectClaim("ring"))), "keywords", 0, "square; ring"),
    ],
)
def test_captions_say_what_is_claimed(claims, style, wording, text):
    assert claims_caption(claims, style=style, wording=wording) == text


def test_captions_need_claims_and_a_known_wording():
    with pytest.raises(ConfigError, match="a caption needs at least one claim"):
        claims_caption(Claims(), style="request", wording=0)
    with pytest.raises(
        ConfigError, match='no caption style "poem" with wording 0; expected keywords, request, instruction, composition and 0 to 1'
    ):
        claims_caption(Claims(objects=(RED_RING,)), style="poem", wording=0)
    assert len(FORMS) == len(STYLES) * WORDINGS


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(PROFILES)), st.integers(0, 2**40), st.sampled_from(sorted(FORMS)))
def test_parsing_a_scenes_caption_gives_its_claims(name, index, form):
    scene = draw_scene(PROFILES[name], seed=11, split="all", index=index)
    assert parse_caption(claims_caption(scene.claims(), style=form[0], wording=form[1])) == scene.claims()


PARTS = st.builds(
    ObjectClaim, st.sampled_from(BENCH.shapes), st.none() | st.sampled_from(BENCH.colours), st.none() | st.sampled_from(tuple(BENCH.cells))
)
BARE = st.builds(ObjectClaim, st.sampled_from(BENCH.shapes), st.none() | st.sampled_from(BENCH.colours), st.none())


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Claims,
        st.lists(PARTS, max_size=5).map(tuple),
        st.lists(
            st.builds(CountClaim, st.integers(2, 5), st.sampled_from(BENCH.shapes), st.none() | st.sampled_from(BENCH.colours)), max_size=2
        ).map(tuple),
        st.lists(st.builds(RelationClaim, BARE, st.sampled_from(("left of", "right of", "above", "below")), BARE), max_size=2).map(tuple),
        st.lists(
            st.builds(TextClaim, st.text(ALPHABET, min_size=1, max_size=4), st.none() | st.sampled_from(("top", "middle", "bottom"))),
            max_size=2,
        ).map(tuple),
    ),
    st.sampled_from(sorted(FORMS)),
)
def test_parsing_inverts_wording_for_any_claims(claims, form):
    if claims.each():
        assert parse_caption(claims_caption(claims, style=form[0], wording=form[1])) == claims


def test_parsing_allows_case_space_and_curly_quotes_and_refuses_the_rest():
    wanted = Claims(objects=(ObjectClaim("ring", "red", "top left"),), texts=(TextClaim("K7", "top"),))
    assert parse_caption("  DRAW a Red ring  in the top left and the text “K7” at the top. ") == wanted
    for text in (
        "",
        "a photograph of a dog",
        "a red ring in the cellar",
        "Draw a red ring",
        "a red ring and",
        'the text ""',
        "a red ring and a dog",
    ):
        assert parse_caption(text) is None


@pytest.mark.parametrize("text", ["ſeven red circles", "a picture of ſix red circles.", "a blac\u212a circle", "a red ſquare, top left"])
def test_letters_that_fold_to_others_are_no_wording_of_ours(text):
    assert parse_caption(text) is None


def test_captions_of_one_picture_differ_between_wordings_as_for_triples():
    claims = Claims(objects=(ObjectClaim("circle", "red", "top left"),))
    assert len({tuple(claims_by_style(claims, index=i).values()) for i in range(16)}) == 16


class Thing:
    def __init__(self, shape, colour, cell, centre):
        self.shape, self.colour, self.cell, self.centre = shape, colour, cell, centre


def test_each_claim_is_judged_by_itself_and_nothing_else_may_be_there():
    things = [Thing("ring", "red", "top left", (0.17, 0.17)), Thing("cross", "blue", "top right", (0.83, 0.17))]
    left = RelationClaim(RED_RING, "left of", BLUE_CROSS)
    verdict = judge_claims(things, [], Claims(relations=(left,)))
    assert (verdict.right, verdict.held, verdict.objects) == (True, ((left, True),), 2)
    assert not judge_claims(things, [], Claims(relations=(RelationClaim(RED_RING, "above", BLUE_CROSS),))).right
    only = judge_claims(things, [], Claims(objects=(RED_RING,)))
    assert only.held == ((RED_RING, True),)
    assert not only.right, "a second object was not asked for"
    assert judge_claims(things, [], Claims(objects=(ObjectClaim("cross"), ObjectClaim("ring")))).right
    twice = judge_claims(things, [], Claims(objects=(ObjectClaim("ring"), ObjectClaim("ring"))))
    assert [holds for _, holds in twice.held] == [True, False], "one object cannot bear out two claims"
    assert not judge_claims(things, [TextClaim("K7", "bottom")], Claims(relations=(left,))).right, "a text was not asked for"
    assert judge_claims(things, [TextClaim("K7", "bottom")], Claims(relations=(left,), texts=(TextClaim("K7"),))).right
    assert not judge_claims(things, [TextClaim("K7", "bottom")], Claims(relations=(left,), texts=(TextClaim("K7", "top"),))).right


def test_matching_finds_the_assignment_that_serves_most_claims():
    things = [Thing("ring", "red", "top left", (0.17, 0.17)), Thing("ring", "blue", "top right", (0.83, 0.17))]
    assert judge_claims(things, [], Claims(objects=(ObjectClaim("ring"), ObjectClaim("ring", "red")))).right
    assert judge_claims(things, [], Claims(counts=(CountClaim(2, "ring"),))).right
    assert not judge_claims(things, [], Claims(counts=(CountClaim(2, "ring", "red"),))).right


def test_relations_need_a_distance():
    assert related((0.2, 0.5), (0.5, 0.5), "left of")
    assert not related((0.4, 0.5), (0.5, 0.5), "left of")
    assert related((0.5, 0.8), (0.5, 0.2), "below")


def test_glyphs_are_distinct_and_touch_all_sides():
    assert len({g.tobytes() for g in GLYPHS.values()}) == len(ALPHABET) == 28
    assert not set("BDGIOQSZ") & set(ALPHABET)
    for dots in GLYPHS.values():
        assert dots.shape == (7, 5)
        assert all(side.any() for side in (dots[0], dots[-1], dots[:, 0], dots[:, -1]))


def test_text_coverage_is_exact():
    share = text_coverage("K7", 1.3, 2.6, 1.7, size_px=(20, 30))
    assert share.sum() == pytest.approx((GLYPHS["K"].sum() + GLYPHS["7"].sum()) * 1.7**2, rel=1e-5)
    fine = text_coverage("K7", 13, 26, 17, size_px=(200, 300))
    assert np.allclose(share, fine.reshape(20, 10, 30, 10).mean(axis=(1, 3)), atol=1e-5)
    assert text_width_dots(2) == 11.5


def test_quick_and_full_pictures_are_what_they_were():
    # Sums over pictures of the published profiles: a change here changes what published numbers are about.
    found = {}
    for name in ("quick", "full"):
        pixels = render([draw_scene(PROFILES[name], seed=0, split="train", index=i) for i in range(32)], 32)
        found[name] = (
            int(pixels.astype(np.int64).sum()),
            int((pixels.astype(np.int64) * (np.arange(pixels.size).reshape(pixels.shape) % 251)).sum()),
        )
    expected = {"quick": (20759139, 2592466347), "full": (22473258, 2807245986)}
    for name, sums in expected.items():
        assert found[name] == pytest.approx(sums, rel=1e-6)
