"""The warning that a prompt was cut."""

from __future__ import annotations

from collections.abc import Sequence


class TruncationWarning(UserWarning):
    """Some prompts are longer than their encoder reads; what stands after the limit has no effect on the picture."""


def cut_message(excess: Sequence[int], *, total: int, limit: int) -> str:
    """``excess``: tokens cut from each prompt that was too long."""
    return f"{len(excess)} of {total} prompts are longer than {limit} tokens: {sum(excess)} tokens were cut, up to {max(excess)} from one prompt"
