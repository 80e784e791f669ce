"""Cut prompts are told: every time to a user who samples, once to a run that meets them again and again."""

import warnings

import pytest

from ernie_core.text.truncation import FirstCutOnly, TruncationWarning, cut_message


def test_the_message_counts_prompts_and_tokens():
    assert (
        cut_message([3, 10], total=8, limit=64) == "2 of 8 prompts are longer than 64 tokens: 13 tokens were cut, up to 10 from one prompt"
    )


def test_a_run_is_told_once_and_other_warnings_pass():
    cuts = FirstCutOnly()
    with pytest.warns(TruncationWarning, match=r"5 tokens were cut. Later ones are cut without a word."), cuts():
        warnings.warn("5 tokens were cut", TruncationWarning, stacklevel=1)
        warnings.warn("6 tokens were cut", TruncationWarning, stacklevel=1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with cuts():
            warnings.warn("7 tokens were cut", TruncationWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
    assert [str(w.message) for w in seen] == ["something else"]


def test_another_warning_before_the_first_cut_is_not_lost():
    with pytest.warns(UserWarning, match="something else"), FirstCutOnly()():
        warnings.warn("something else", UserWarning, stacklevel=1)
