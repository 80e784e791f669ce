"""Text within captions: quoted parts, mentions, insertion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_data.captioning.quotes import confident_texts, mentions, quoted_parts, with_texts

TEXTS = st.text("ABab 12é营业!-", min_size=1, max_size=12).map(lambda t: " ".join(t.split())).filter(bool)


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ('a sign "OPEN" and “CLOSED”', ["OPEN", "CLOSED"]),
        ("it says 'Don't Panic' and ‘it’s on’", ["Don't Panic", "it’s on"]),
        ("the dog's bowl and the cats' beds", []),
        ("写着'早上好'。旁边写着‘晚安’、「你好」和『再见』", ["早上好", "晚安", "你好", "再见"]),
        ("标题“画中画”。 «mot»", ["画中画", "mot"]),
        ('an opening " alone', []),
    ],
)
def test_quoted_parts(caption, parts):
    assert quoted_parts(caption) == parts


@pytest.mark.parametrize(
    ("caption", "text", "found"),
    [
        ('the word "A" at the top', "A", True),
        ("A red circle", "A", False),  # too short to count without quotes
        ("a shop called Bakery", "Bakery", True),
        ("a shop called Bakery", "Bake", False),  # not a whole word
        ("a shop called bakery", "Bakery", False),
        ("新鲜水果每天供应", "水果每天", True),
        ("新鲜水果每天供应", "水", False),
        ("it reads Don’t   Panic!", "Don't Panic!", True),
        ("anything", " ", True),
    ],
)
def test_mentions(caption, text, found):
    assert mentions(caption, text) is found


def test_quotes_can_be_demanded():
    assert not mentions("a shop called Bakery", "Bakery", only_quoted=True)
    assert mentions('a shop called "Fresh Bakery"', "Bakery", only_quoted=True)


@given(
    st.lists(TEXTS, max_size=3, unique=True),
    st.sampled_from(["a door", "A door.", "一扇门", "一扇门。", "Look!"]),
    st.sampled_from(["keywords", "text"]),
)
def test_what_was_inserted_is_mentioned_and_nothing_else_changes(texts, caption, style):
    found = with_texts(caption, texts, style=style)
    assert found.startswith(caption)
    assert all(mentions(found, text, only_quoted=True) for text in texts)
    assert (found == caption) is (not texts)


def test_texts_are_each_asked_for_once_in_order():
    columns = {"ocr_text": ["b", "a", "b", "c"], "ocr_confidence": [0.9, 0.8, 0.9, 0.1]}
    assert confident_texts(columns, 0.8) == ["b", "a"]
    assert confident_texts({}, 0.8) == []
