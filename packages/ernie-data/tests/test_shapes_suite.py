"""The suite `shapebench`: its contract, clean renders are right in everything, wrong ones in what is wrong, and through ``ernie eval``."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from ernie_core.api import ConfigError, DataError, EvaluationContext, PluginHost
from ernie_core.cli.main import main
from ernie_core.testing.judging import EvaluationContract
from ernie_data.shapes.claims import Claims, CountClaim, ObjectClaim, RelationClaim, TextClaim
from ernie_data.shapes.entries import ShapeBenchConfig
from ernie_data.shapes.judge import shows
from ernie_data.shapes.profile import PROFILES
from ernie_data.shapes.prompts import TAGS
from ernie_data.shapes.reference import reference_scene
from ernie_data.shapes.render import render
from ernie_data.shapes.suite import CODE, ShapeBench, build, parts
from ernie_data.shapes.verify import look_all

BENCH = PROFILES["bench"]


def clean(suite, prompts, size_px=64):
    scenes = [reference_scene(suite.asked(p.id).claims, suite.profile, index=i) for i, p in enumerate(prompts)]
    return list(render(scenes, size_px))


def seen_in(claims, index=0):
    return look_all(render([reference_scene(claims, BENCH, index=index)], 96), BENCH)[0]


class TestShapeBench(EvaluationContract):
    entry = "shapebench"
    options = {"prompts_per_tag": 3}
    judged = 13

    def perfect(self, prompts):
        return clean(self.evaluation(), prompts)


@pytest.mark.parametrize("profile", ["quick", "full", "bench"])
def test_clean_renders_are_right_in_everything(profile):
    suite = ShapeBench(ShapeBenchConfig(profile=profile, prompts_per_tag=8, seed=3))
    prompts = suite.prompts()
    for prompt, verdict in zip(prompts, suite.judge(prompts, clean(suite, prompts)), strict=True):
        assert set(verdict.values()) == {1.0}, (prompt.prompt, verdict)


def test_the_pictures_of_other_prompts_are_wrong():
    suite = ShapeBench(ShapeBenchConfig(prompts_per_tag=6, held_out="only"))
    prompts = suite.prompts()
    pictures = clean(suite, prompts)
    for turn in (1, 7):
        turned = pictures[turn:] + pictures[:turn]
        for prompt, verdict, other in zip(prompts, suite.judge(prompts, turned), [*prompts[turn:], *prompts[:turn]], strict=True):
            scene = reference_scene(suite.asked(other.id).claims, BENCH, index=prompts.index(other))
            assert verdict["right"] == shows(scene, suite.asked(prompt.id).claims)
            assert not verdict["right"] or set(verdict.values()) == {1.0}


def test_each_part_is_wrong_by_itself():
    red = ObjectClaim("circle", "red", "top left")
    seen = seen_in(Claims(objects=(red,)))
    for change, wrong in (
        (red._replace(colour="blue"), {"colour"}),
        (red._replace(shape="ring"), {"shape"}),
        (red._replace(cell="top right"), {"position"}),
    ):
        held = parts(seen, Claims(objects=(change,)))
        assert {name for name, holds in held.items() if not holds} == {"right", *wrong}
    two = parts(seen, Claims(objects=(red, red._replace(cell="top right"))))
    assert two == {"right": False, "count": False, "shape": False, "colour": False, "position": False}


def test_relations_counts_and_texts_are_parts_too():
    a, b = ObjectClaim("circle", "red"), ObjectClaim("square", "blue")
    beside = seen_in(Claims(relations=(RelationClaim(a, "left of", b),)))
    assert parts(beside, Claims(relations=(RelationClaim(b, "right of", a),)))["right"]
    assert parts(beside, Claims(relations=(RelationClaim(a, "right of", b),))) == {
        "right": False,
        "count": True,
        "shape": True,
        "colour": True,
        "position": False,
    }
    three = seen_in(Claims(counts=(CountClaim(3, "ring", "green"),)))
    assert parts(three, Claims(counts=(CountClaim(3, "ring", "black"),))) == {"right": False, "count": True, "shape": True, "colour": False}
    assert parts(three, Claims(counts=(CountClaim(4, "ring", "green"),)))["count"] is False
    cell = ObjectClaim("circle", "red", "top left")
    sign = seen_in(Claims(objects=(cell,), texts=(TextClaim("AC", "bottom"),)))
    assert parts(sign, Claims(objects=(cell,), texts=(TextClaim("AE", "bottom"),))) == {
        "right": False,
        "count": True,
        "shape": True,
        "colour": True,
        "position": True,
        "text": False,
    }
    assert parts(sign, Claims(objects=(cell,)))["right"] is False  # a text that nobody asked for


def test_prompts_have_the_tags_of_geneval_with_held_out_and_seen_apart():
    suite = ShapeBench(ShapeBenchConfig(prompts_per_tag=4))
    prompts = suite.prompts()
    assert len(prompts) == 4 * 13  # colours have no held-out prompts
    first = {prompt.tags[2] for prompt in prompts[:13]}
    assert first == {f"{tag} {split}" for tag in TAGS for split in ("held-out", "seen")} - {"colours held-out"}
    by_tag = {tag: next(p for p in prompts if tag in p.tags) for tag in TAGS}
    assert by_tag["single"].metrics == ("right", "count", "shape", "colour", "position")
    assert by_tag["two"].metrics == ("right", "count", "shape")
    assert by_tag["counting"].metrics == by_tag["colours"].metrics == by_tag["binding"].metrics == ("right", "count", "shape", "colour")
    assert by_tag["position"].metrics == ("right", "count", "shape", "colour", "position")
    assert "text" in by_tag["text"].metrics


def test_styles_and_tags_can_be_chosen():
    suite = ShapeBench(ShapeBenchConfig(prompts_per_tag=3, styles=("instruction",), tags=("single", "text"), held_out="none"))
    assert {p.tags[2] for p in suite.prompts()} == {"single seen", "text seen"}
    assert all(p.prompt.startswith(("Draw ", "Paint ")) for p in suite.prompts())
    with pytest.raises(ConfigError, match="profile quick has no prompts of the tags text; expected some of: single"):
        ShapeBench(ShapeBenchConfig(profile="quick", tags=("text",)))


def test_wordings_of_one_combination_share_a_cluster():
    suite = ShapeBench(ShapeBenchConfig(profile="quick", prompts_per_tag=40, held_out="only"))
    assert len({p.cluster for p in suite.prompts()}) == len(PROFILES["quick"].held_out()) == 16


def test_large_pictures_are_read_and_what_is_not_square_shows_nothing():
    suite = ShapeBench(ShapeBenchConfig(prompts_per_tag=1))
    prompts = suite.prompts()
    for size_px in (48, 256):
        assert all(v["right"] for v in suite.judge(prompts, clean(suite, prompts, size_px)))
    flat = [picture[:-1] for picture in clean(suite, prompts)]
    assert not any(value for verdict in suite.judge(prompts, flat) for value in verdict.values())


def test_a_prompt_of_other_options_is_refused():
    one, other = (ShapeBench(ShapeBenchConfig(profile=name, prompts_per_tag=1)) for name in ("quick", "bench"))
    with pytest.raises(DataError, match=r"has no prompt bench-single-held-out-0000"):
        one.judge(other.prompts()[:1], [np.zeros((32, 32, 3), np.uint8)])


def test_the_code_changes_with_the_prompts():
    """If this fails, prompts have changed: raise ``CODE`` and renew the sum."""
    context = EvaluationContext(PluginHost.discover().build)
    texts = "\n".join(f"{p.id} {p.prompt}" for p in build(ShapeBenchConfig(prompts_per_tag=16), context).prompts())
    assert (CODE, hashlib.sha256(texts.encode()).hexdigest()[:16]) == ("shapebench 1", "aeb0dd525929edbc")


def test_right_implies_every_part():
    rng = np.random.default_rng(0)
    suite = ShapeBench(ShapeBenchConfig(prompts_per_tag=4))
    prompts = suite.prompts()
    noisy = [np.clip(p + rng.normal(0, 40, p.shape), 0, 255).astype(np.uint8) for p in clean(suite, prompts)]
    rights = 0
    for verdict in suite.judge(prompts, noisy):
        rights += verdict["right"]
        assert not verdict["right"] or set(verdict.values()) == {1.0}
    assert 0 < rights < len(prompts)


def test_a_reference_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match='no scene was found that shows "12 x red ring" and nothing else'):
        reference_scene(Claims(counts=(CountClaim(12, "ring", "red"),)), BENCH)


def test_clean_renders_on_disk_give_a_hundred_per_cent(tmp_path, capsys):
    suite = ShapeBench(ShapeBenchConfig(prompts_per_tag=3))
    folder = tmp_path / "clean"
    folder.mkdir()
    for prompt, picture in zip(suite.prompts(), clean(suite, suite.prompts()), strict=True):
        Image.fromarray(picture).save(folder / f"{prompt.id}.png")
    arguments = ["--suite", "shapebench", "--pictures", str(folder), "--out", str(tmp_path / "out"), "--set", "prompts_per_tag=3"]
    code = main(["eval", *arguments, "--device", "cpu"])
    assert code == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "metrics.json").read_bytes())
    assert (found["pictures"], found["missing"]["count"], found["suite"]["code"]) == (39, 0, CODE)
    assert {i["mean"] for i in found["metrics"].values()} == {1.0}
    assert {i["mean"] for scores in found["tags"].values() for i in scores.values()} == {1.0}
    assert set(TAGS) | {"held-out", "seen"} <= set(found["tags"])
