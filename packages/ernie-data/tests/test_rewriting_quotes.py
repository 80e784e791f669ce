"""Quoted strings: every kind of mark, apostrophes that are none, quotes inside quotes, quotes that never close; and the laws of taking them out."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ernie_data.rewriting.quotes import PAIRS, enclosed, find_quotes, keeps, put_back, quoted_strings, slots_of, take_out

CASES = [
    ("A towel with 'Don't Panic' on it", ["Don't Panic"]),
    ("the dogs' bowl says 'the cats' milk' in red", ["the cats' milk"]),
    ("'tis the '90s: rock 'n' roll, and a sign 'Open'", ["Open"]),
    ("the boys' shirts and the girls' hats", []),
    ('a man of 5\'10" before a 27" screen that reads "It\'s 9 o\'clock"', ["It's 9 o'clock"]),
    ("He says, \"Left is 'Dragon's Lair', right is 'Doom'. Well?\"", ["Left is 'Dragon's Lair', right is 'Doom'. Well?"]),
    ('a note "say "hi" to me" there', ['say "hi" to me']),
    ('spaces " Fresh Bread " count', [" Fresh Bread "]),
    ("buttons 'Home', 'About Us' and 'Log In'.", ["Home", "About Us", "Log In"]),
    ("“curly ‘inner’ quotes” and ‘It’s on’", ["curly ‘inner’ quotes", "It’s on"]),
    ("«Ça va», „Guten Tag“ and ‹mot›", ["Ça va", "Guten Tag", "mot"]),
    ("招牌写着'营业中'和\"欢迎光临\"，旁边是“早安”", ["营业中", "欢迎光临", "早安"]),
    ("看板「外『内』外」と《本》", ["外『内』外", "本"]),
    ("海报：“左边写着‘出口’。”", ["左边写着‘出口’。"]),
    ("底部的文字：'And we are\"。", ["And we are"]),
    ("a board that says “never closed. And more", ["never closed"]),
    ('a board that says "never closed', ["never closed"]),
    ("it ends with '", []),
    ("nothing in ''", []),
    ('"one" "two""three"', ["one", "two", "three"]),
    ("first line “over\ntwo lines” ok, but “not\n\ninto another” paragraph", ["over\ntwo lines", "not"]),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_what_is_quoted_is_found(text, expected):
    assert [quote.content for quote in find_quotes(text)] == expected


def test_each_content_is_named_once():
    assert quoted_strings("'A' and 'B' and 'A'") == ("A", "B")


@pytest.mark.parametrize("text", [text for text, _ in CASES])
def test_taking_out_and_putting_back_keeps_every_content(text):
    masked, quotes = take_out(text)
    assert slots_of(masked) == list(range(len(quotes)))
    back = put_back(masked, quotes, chinese=False)
    assert all(keeps(back, quote.content) for quote in quotes)
    if all(quote.balanced for quote in quotes):
        assert back == text


marks = "".join(sorted({*PAIRS, *PAIRS.values()}))
texts = st.text(st.sampled_from(string.ascii_letters + " .,\n" + marks + "猫狗。，"), max_size=60)


@given(texts)
def test_quotes_do_not_overlap_and_stand_where_they_say(text):
    last = 0
    for quote in find_quotes(text):
        assert last <= quote.start < quote.end <= len(text)
        assert text[quote.start] == quote.opening
        assert quote.content.strip()
        assert quote.content in text[quote.start : quote.end]
        last = quote.end


@given(texts)
def test_whatever_was_quoted_comes_back_between_marks(text):
    masked, quotes = take_out(text)
    back = put_back(masked, quotes, chinese=True)
    assert all(keeps(back, quote.content) for quote in quotes)


def test_characters_that_look_like_slots_are_removed_outside_of_quotes_only():
    masked, quotes = take_out("a\U000f0005b 'c\U000f0000d'")
    assert masked == "ab \U000f0000"
    assert put_back(masked, quotes, chinese=False) == "ab 'c\U000f0000d'"


def test_marks_are_chosen_that_the_content_does_not_hold():
    assert enclosed("plain", chinese=False) == '"plain"'
    assert enclosed("plain", chinese=True) == "“plain”"
    assert enclosed('say "hi', chinese=False) == '“say "hi”'
    assert enclosed("Don't", chinese=False, like="'") == "'Don't'"


def test_beyond_many_apostrophes_the_next_mark_that_can_close_a_quote_closes_it():
    for count, balanced in ((60, True), (80, False)):
        text = "She said: 'well, " + "it's " * count + "so' twice"
        (quote, *_) = find_quotes(text)
        assert (quote.content, quote.balanced) == (text[11:-7], balanced)


@pytest.mark.parametrize("mark", ["“", "「", "«", '"', "'", "‘"])
def test_the_closing_mark_is_the_first_at_which_more_have_closed_than_opened(mark):
    closing = PAIRS[mark]
    inner = f"a {mark}b{closing} c" if mark != closing else f"a {mark}b{closing} (c)"
    assert [q.content for q in find_quotes(f"x {mark}{inner}{closing} y {mark}d{closing}")] == [inner, "d"]
    assert [q.content for q in find_quotes(f"x {mark}a\n\n{mark}b{closing}")][-1:] == ["b"], "no quote goes into another paragraph"
