"""Four prompt styles by rules: what they say of captions in two languages, and that what is quoted is in each of them, letter by letter."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_data.rewriting.clean import cleaned, language_of
from ernie_data.rewriting.contract import lost, repaired, required
from ernie_data.rewriting.parts import parts_of_caption, parts_of_text
from ernie_data.rewriting.rules import STYLES, WORDINGS, rewrite
from ernie_data.rewriting.stage import by_rules
from ernie_data.vision.structure import StructuredCaption

SHARED = Path(os.environ.get("ERNIE_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
BAKERY = (
    "A cosy bakery front at dawn with striped awnings and baskets of bread. The wooden sign above the door reads 'Don't Panic, It's Bread'. "
    'Below it, a chalkboard says "Today: "rye" & oats", and small labels show "Rolls", "Pies" and "Cakes". There are no people. '
    "The lighting is soft and warm. The street is wet from rain."
)
TEAHOUSE = (
    "这是一张雨夜茶馆门口的摄影照片，木门两侧挂着红色的灯笼。门上方的招牌写着‘清心茶馆’，旁边的小牌子上印有“今日特价：‘龙井’ 18元”。"
    "菜单上列着'绿茶'、'红茶'和'乌龙茶\"。整体氛围宁静，光线昏黄柔和。"
)


def styles(text: str, wording: int = 0) -> dict[str, str]:
    parts = parts_of_text(text)
    assert parts is not None
    return rewrite(parts, wordings=(wording, wording))


def test_an_english_caption_in_four_styles():
    found = styles(BAKERY)
    assert found["keywords"].startswith("cosy bakery front")
    assert found["request"].startswith("Can you make a cosy bakery front at dawn with striped awnings and baskets of bread?")
    assert found["instruction"].startswith("Create a cosy bakery front at dawn")
    assert "wooden sign 'Don't Panic, It's Bread'" in found["instruction"]
    assert found["instruction"].count('"Rolls", "Pies", "Cakes"') == 1
    assert "people" not in found["keywords"] + found["request"] + found["instruction"], "what is not there is no key phrase"
    assert found["composition"].endswith("The lighting is soft and warm."), "light and style stand last"


def test_a_chinese_caption_in_four_styles():
    found = styles(TEAHOUSE)
    assert found["keywords"].startswith("雨夜茶馆门口的摄影照片，")
    assert found["request"].startswith("能帮我画一张雨夜茶馆门口的摄影照片")
    assert "招牌‘清心茶馆’" in found["instruction"]
    assert "光线昏黄柔和" in found["instruction"]
    assert all(language_of(text) == "zh" for text in found.values())


@pytest.mark.parametrize("text", [BAKERY, TEAHOUSE])
@pytest.mark.parametrize("wording", range(WORDINGS))
def test_every_style_keeps_every_quoted_string(text, wording):
    contents = required(text)
    assert len(contents) == 5
    for style, rewritten in styles(text, wording).items():
        assert not lost(rewritten, contents), style


def test_wordings_differ_and_a_record_always_has_the_same():
    assert len({styles(BAKERY, wording)["request"] for wording in range(WORDINGS)}) == WORDINGS
    parts = parts_of_text(BAKERY)
    drawn = [by_rules(parts, (), seed=0, key=f"k{n}")["request"] for n in range(12)]
    assert drawn == [by_rules(parts, (), seed=0, key=f"k{n}")["request"] for n in range(12)]
    assert len(set(drawn)) == WORDINGS


def test_lists_and_markup_become_prose():
    text = (
        "一张图表 **第一行：** - **A**：戴帽子的女孩 — 'Astronaut' - **B**：拿面包的男孩 — 'Baker' 整体色彩明亮。</summary>\\n\\n线条简洁。"
    )
    found = styles(text)
    assert found["composition"] == ("一张图表。第一行：A：戴帽子的女孩 — 'Astronaut'；B：拿面包的男孩 — 'Baker'。线条简洁。整体色彩明亮。")
    assert "戴帽子的女孩'Astronaut'；拿面包的男孩'Baker'" in found["instruction"]
    assert cleaned("# A list\n- one\n- `two`", chinese=False) == "A list. one. two"


def test_a_quote_that_names_a_thing_is_no_writing():
    found = styles("一张照片采用“画中画”构图，一只猫坐在窗边。招牌写着“开门”。")
    assert "“画中画”构图" in found["keywords"]
    assert "文字“开门”" in found["keywords"]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a red circle at the top", "en"),
        ("red circle, top left", "en"),
        ("一个红色的圆", "zh"),
        ("一张LINE表情包贴纸的Q版图", "zh"),
        ("赤い丸とネコがいる", "other"),
        ("un chat dans la rue avec une pomme", "other"),
        ("eine Katze und ein Hund auf der Straße", "other"),
        ("красный круг", "other"),
        ("123", "en"),
    ],
)
def test_languages_are_told_apart(text, language):
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["un chat dans la rue avec une pomme", "", "。", "…"])
def test_rules_write_nothing_in_languages_they_do_not_know(text):
    assert parts_of_text(text) is None


@pytest.mark.parametrize("text", ["a cat", "猫", "'OK'", "A red circle.", "Warm light.", "“”a", "A", "1. one\n2. two", "?!", "的"])
def test_short_captions_have_all_styles(text):
    parts = parts_of_text(text)
    if parts is not None:
        assert all(re.search(r"\w", styles(text)[style]) for style in STYLES)


def test_tags_and_sentences_are_not_squeezed_into_a_noun_phrase():
    assert styles("red circle, top left; blue square")["instruction"] == "Create this picture: red circle, top left, blue square."
    assert styles("A man stands near a car.")["request"] == "Can you make a picture like this: A man stands near a car."
    assert styles("A man who stands near a car.")["request"] == "Can you make a man who stands near a car?"


def test_a_structured_caption_gives_its_parts():
    caption = StructuredCaption(
        subject="a blue kiosk",
        attributes=["striped awning", "two stools"],
        relations=["a lamp left of the kiosk"],
        text=["ICE & TEA", "Don't wait"],
        lighting="low evening sun",
        composition="seen from the front",
        style="film photograph",
        description='A blue kiosk with the sign "ICE & TEA" stands at the sea.',
    )
    found = rewrite(parts_of_caption(caption))
    assert all(not lost(text, ("ICE & TEA", "Don't wait")) for text in found.values())
    assert found["keywords"].startswith("blue kiosk, striped awning, two stools, a lamp left of the kiosk, seen from the front, text ")
    assert found["keywords"].endswith("low evening sun, film photograph")
    assert found["instruction"].startswith("Create a blue kiosk. Include striped awning")
    assert "Low evening sun. Film photograph." in found["composition"]


def test_lost_text_is_added_in_the_language():
    assert repaired("A sign", ("Don't", 'a "b"'), chinese=False) == 'A sign. Text: "Don\'t", “a "b"”.'
    assert repaired("一个招牌。", ("开门",), chinese=True) == "一个招牌。文字：“开门”。"
    assert repaired('It says "x".', ("x",), chinese=False) == 'It says "x".'


@settings(max_examples=150)
@given(
    st.text(st.sampled_from("abc AN的一张有写着猫，。、.,:;!?'\"“”‘’「」()（）-—123\n*#\\ "), max_size=120), st.integers(0, WORDINGS - 1)
)
def test_no_caption_breaks_the_rules_and_none_loses_a_quote(text, wording):
    parts = parts_of_text(text)
    if parts is None:
        return
    contents = required(text)
    for rewritten in by_rules(parts, contents, seed=wording, key="k").values():
        assert not lost(rewritten, contents)
        assert "\U000f0000" not in rewritten


def prompts(*names: str) -> list[str]:
    files = [SHARED / name for name in names]
    if missing := [str(file) for file in files if not file.exists()]:
        pytest.skip(f"not here: {', '.join(missing)}")
    return [json.loads(line)["prompt"] for file in files for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    "names",
    [("showcases/prompts.jsonl",), ("longtext/text_prompts.jsonl", "longtext/text_prompts_zh.jsonl")],
    ids=["showcases", "longtext"],
)
def test_published_prompts_keep_all_their_quoted_text_by_rules_alone(names):
    for text in prompts(*names):
        contents = required(text)
        parts = parts_of_text(text)
        for wording in range(WORDINGS):
            for style, rewritten in rewrite(parts, wordings=(wording, wording)).items():
                assert not lost(rewritten, contents), (style, text)
                assert (language_of(rewritten) == "zh") == parts.chinese
