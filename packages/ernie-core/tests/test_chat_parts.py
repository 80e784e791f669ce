"""Parsing JSON out of answers, and the law of the token bucket."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_core.chat import AnswerError, parse_json_answer
from ernie_core.chat.limits import Bucket


class Found(msgspec.Struct, forbid_unknown_fields=True):
    subject: str
    text: list[str] = []


SCHEMA = {
    "type": "object",
    "properties": {"subject": {"type": "string"}, "n": {"type": "integer"}, "text": {"type": "array", "items": {"type": "string"}}},
    "required": ["subject"],
    "additionalProperties": False,
}
GOOD = '{"subject": "a {cat} \\" [x]", "text": ["SALE"]}'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure! Here it is:\n\n```\n{GOOD}\n```\nAnything else?",
        f"<think>maybe {{x}} or {{}}</think>{GOOD}",
        f'First {{"other": 1}} and then {GOOD} and {{"subject": "later"}}',
        f"You open it with {{ and then: {GOOD}",
        "\ufeff" + GOOD,
    ],
)
@pytest.mark.parametrize("wanted", [Found, SCHEMA])
def test_json_is_found_in_what_stands_around_it(text, wanted):
    found = parse_json_answer(text, wanted)
    found = msgspec.to_builtins(found)
    assert found == {"subject": 'a {cat} " [x]', "text": ["SALE"]}


@pytest.mark.parametrize("cut", range(1, len(GOOD)))
@pytest.mark.parametrize("wanted", [Found, SCHEMA, {"type": "object"}])
def test_half_json_is_called_so(cut, wanted):
    with pytest.raises(AnswerError) as caught:
        parse_json_answer("Here: " + GOOD[:cut], wanted)
    assert caught.value.reason == "half_json"
    assert "max_tokens" in str(caught.value)


def test_a_whole_part_of_half_an_object_is_not_the_answer():
    with pytest.raises(AnswerError) as caught:
        parse_json_answer('{"first": {"subject": "inner"}, "second": {"subj', Found)
    assert caught.value.reason == "half_json"


def test_a_whole_part_of_a_malformed_object_is_not_the_answer():
    with pytest.raises(AnswerError, match="no valid JSON") as caught:
        parse_json_answer('{"first": {"subject": "inner"}, second: 2}', Found)
    assert caught.value.reason == "garbage"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no JSON object"),
        ("I cannot see a picture.", "holds no JSON object"),
        ("[1, 2]", "holds no JSON object"),
        ('{"subject": NaN}', "no valid JSON"),
        ('{"subject": "a", "subject2": 1}', "does not fit"),
        ('{"subject": 7}', "does not fit"),
        ('{"text": []}', "does not fit"),
        ('{"subject": "a", "text": [1]}', "does not fit"),
        ("{'subject': 'python'}", "no valid JSON"),
        ('__import__("os").system("false")', "holds no JSON"),
        ("{" * 200_000, "no valid JSON"),
        ('{"a":' * 200_000, "no valid JSON"),
        ('{"subject": ' + "9" * 5000 + "}", "does not fit|no valid JSON"),
    ],
)
@pytest.mark.parametrize("wanted", [Found, SCHEMA])
def test_garbage_is_called_so(text, why, wanted):
    with pytest.raises(AnswerError, match=why) as caught:
        parse_json_answer(text, wanted)
    assert caught.value.reason == "garbage"
    assert len(str(caught.value)) < 1000


def test_arrays_are_found_where_they_are_wanted():
    assert parse_json_answer('The lines are ["a", "b"].', list[str]) == ["a", "b"]
    assert parse_json_answer('{"lines": 1} ["a"]', {"type": "array", "items": {"type": "string"}}) == ["a"]


def test_schema_types_are_those_of_json():
    for wrong in (True, 1.5, "1", None):
        with pytest.raises(AnswerError, match="expected integer"):
            parse_json_answer(json.dumps({"subject": "a", "n": wrong}), SCHEMA)
    with pytest.raises(AnswerError, match="expected one of"):
        parse_json_answer('{"a": "z"}', {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}})


def test_a_message_holds_no_secret():
    with pytest.raises(AnswerError) as caught:
        parse_json_answer("the token is hf_" + "a" * 40, Found)
    assert "hf_aa" not in str(caught.value)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), st.text(alphabet="abc .\n`'!", max_size=20))
def test_every_object_comes_back(value, around):
    assert parse_json_answer(around + json.dumps(value) + around, {"type": "object"}) == value


@given(st.text())
def test_any_text_gives_a_value_or_an_answer_error(text):
    try:
        found, reason = parse_json_answer(text, {"type": "object"}), ""
    except AnswerError as error:
        found, reason = None, error.reason
    assert isinstance(found, dict) or reason in ("garbage", "half_json")


@settings(deadline=None)
@given(
    per_minute=st.integers(1, 6000),
    steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 50)), min_size=1, max_size=60),
)
def test_over_any_stretch_no_more_goes_out_than_the_rate_and_one_second(per_minute, steps):
    now = [0.0]
    bucket = Bucket(per_minute, clock=lambda: now[0])
    sent = []
    for pause, amount in steps:
        now[0] += pause
        sent.append((now[0] + bucket.take(amount), amount))
    assert sent == sorted(sent, key=lambda item: item[0])
    rate, burst = per_minute / 60, max(1.0, per_minute / 60)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            after_first = sum(amount for _, amount in sent[first + 1 : last + 1])
            assert after_first <= (sent[last][0] - sent[first][0]) * rate + burst + 1e-6


def test_what_was_not_used_can_be_taken_again():
    bucket = Bucket(60, clock=lambda: 0.0)
    assert bucket.take(11) == pytest.approx(10.0)
    bucket.give_back(10)
    assert bucket.take(1) == pytest.approx(1.0)
