"""The warning that a prompt was cut."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class TruncationWarning(UserWarning):
    """Some prompts are longer than their encoder reads; what stands after the limit has no effect on the picture."""


def cut_message(excess: Sequence[int], *, total: int, limit: int) -> str:
    """``excess``: tokens cut from each prompt that was too long."""
    return f"{len(excess)} of {total} prompts are longer than {limit} tokens: {sum(excess)} tokens were cut, up to {max(excess)} from one prompt"


class FirstCutOnly:
    """For training, which meets the same long captions again and again: lets the first ``TruncationWarning`` through, and says that it is the last."""

    def __init__(self) -> None:
        self._warned = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._warned:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TruncationWarning)
                yield
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TruncationWarning)
            yield
        for warning in caught:
            if not issubclass(warning.category, TruncationWarning):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            elif not self._warned:
                self._warned = True
                warnings.warn(f"{warning.message}. Later ones are cut without a word.", TruncationWarning, stacklevel=4)
