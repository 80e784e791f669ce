"""The suite's prompts: every one can be met, by what it says, and held-out ones ask for what training never combines."""

import pytest

from ernie_core.api import ConfigError
from ernie_data.shapes.claims import is_held_out
from ernie_data.shapes.parse import parse_caption
from ernie_data.shapes.profile import PROFILES, Triple
from ernie_data.shapes.prompts import TAGS, suite_prompts, tags_of

BENCH = PROFILES["bench"]


@pytest.mark.parametrize("held_out", [False, True])
def test_every_prompt_says_its_claims_and_is_held_out_or_not(held_out):
    held_triples = set(BENCH.held_out())
    for tag in tags_of(BENCH, held_out=held_out):
        for prompt in suite_prompts(BENCH, tag, count=32, seed=0, held_out=held_out):
            assert parse_caption(prompt.prompt) == prompt.claims
            assert prompt.tag == tag
            triples = {Triple(*o) for o in prompt.claims.objects if o.cell}
            if tag == "single":
                assert (triples <= held_triples) == held_out
            else:
                assert is_held_out(prompt.claims) == held_out
                assert not triples & held_triples


def test_tags_ask_for_what_they_are_called():
    of = {tag: suite_prompts(BENCH, tag, count=24, seed=1, held_out=False) for tag in TAGS}
    assert all(p.claims.total == 1 and p.claims.objects[0].cell for p in of["single"])
    assert all(p.claims.objects[0].colour and not p.claims.objects[0].cell for p in of["colours"])
    assert all(len({o.shape for o in p.claims.objects}) == 2 for p in of["two"])
    assert {p.claims.counts[0].count for p in of["counting"]} == {2, 3, 4, 5}
    assert {p.claims.relations[0].relation for p in of["position"]} == {"left of", "right of", "above", "below"}
    assert all(len({o.colour for o in p.claims.objects}) == 2 for p in of["binding"])
    assert all(f'"{p.claims.texts[0].text}"' in p.prompt for p in of["text"])


def test_prompts_are_a_pure_function_and_begin_alike_for_every_count():
    few, many = (suite_prompts(BENCH, "position", count=n, seed=0, held_out=False) for n in (8, 40))
    assert many[:8] == few
    assert suite_prompts(BENCH, "position", count=8, seed=1, held_out=False) != few
    assert len({p.id for p in many}) == 40
    assert len({p.cluster for p in many}) == 40
    assert len({(p.style, p.wording) for p in many}) == 8


def test_profiles_without_kinds_have_single_objects_only():
    quick = PROFILES["quick"]
    assert tags_of(quick) == ("single",)
    held = suite_prompts(quick, "single", count=16, seed=0, held_out=True)
    assert {Triple(*p.claims.objects[0]) for p in held} == set(quick.held_out())
    with pytest.raises(ConfigError, match='profile quick has no prompts of the tag "counting"; expected one of: single'):
        suite_prompts(quick, "counting", count=1, seed=0, held_out=False)


def test_colours_have_no_held_out_prompts():
    assert "colours" not in tags_of(BENCH, held_out=True)
    with pytest.raises(ConfigError, match='no held-out prompts of the tag "colours"; expected one of: single, two, counting, position'):
        suite_prompts(BENCH, "colours", count=1, seed=0, held_out=True)
