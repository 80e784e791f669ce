"""The scorer `shapes-agreement`: 1 for what was asked, less for each part that is missing, and an error for prompts it cannot read."""

import numpy as np
import pytest

from ernie_core.api import DataError, ScorerContext
from ernie_data.shapes.agreement import build
from ernie_data.shapes.captions import STYLES, caption
from ernie_data.shapes.entries import ShapesAgreementConfig
from ernie_data.shapes.profile import Triple, profile
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import draw_scene, place

SCORER = build(ShapesAgreementConfig(profile="quick"), ScorerContext())
QUICK = profile("quick")


def picture(*triples: Triple) -> np.ndarray:
    return render([place(QUICK, triples, np.random.default_rng(0))], 32)[0]


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_of_its_prompt_has_one_in_every_wording(style):
    scenes = [draw_scene(QUICK, seed=5, split="all", index=i) for i in range(20)]
    prompts = [caption(scene.triples(), style=style, wording=i % 2) for i, scene in enumerate(scenes)]
    assert SCORER.score(list(render(scenes, 32)), prompts).tolist() == [1.0] * 20


def test_every_part_that_is_missing_costs_and_no_other_picture_has_one():
    asked = Triple("circle", "red", "top left")
    prompt = caption([asked], style="request", wording=0)
    others = [asked._replace(colour="blue"), asked._replace(shape="square"), asked._replace(shape="square", colour="blue")]
    whole, one, other, two, nothing = SCORER.score(
        [picture(asked), *(picture(t) for t in others), np.full((32, 32, 3), 240, np.uint8)], [prompt] * 5
    )
    assert whole == 1 > one == other > two > nothing == 0


def test_without_prompts_or_with_foreign_ones_there_is_no_score():
    with pytest.raises(DataError, match=r"judges pictures by their prompts; give `prompt_style`, or prompts"):
        SCORER.score([picture(Triple("circle", "red", "top left"))])
    with pytest.raises(DataError, match=r"'a cat on a mat': not in ShapeBench's wordings"):
        SCORER.score([picture(Triple("circle", "red", "top left"))], ["a cat on a mat"])


def test_chosen_parts_alone_count():
    law = build(ShapesAgreementConfig(profile="quick", parts=("colour", "position")), ScorerContext())
    asked = Triple("circle", "red", "top left")
    prompt = caption([asked], style="request", wording=0)
    others = [asked._replace(shape="square"), asked._replace(colour="blue"), asked._replace(colour="blue", cell="top right")]
    assert law.score([picture(asked), *(picture(t) for t in others)], [prompt] * 4).tolist() == [1, 1, 0.5, 0]


def test_a_prompt_that_speaks_of_no_chosen_part_is_refused():
    law = build(ShapesAgreementConfig(profile="quick", parts=("text",)), ScorerContext())
    with pytest.raises(DataError, match="speaks of none of text, only of count, shape, colour, position"):
        law.score([picture(Triple("circle", "red", "top left"))], ["a red circle in the top left"])
