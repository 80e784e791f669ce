"""Judges of pictures: scorers and evaluation suites. Light: numpy only under type checking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Scorer(Protocol):
    """One number per picture, higher is better.

    ``code`` names every version that shapes a score (of the scorer, its weights, its libraries): scores are cached and work is named by it.
    """

    code: str

    def score(self, images: Sequence[NDArray], prompts: Sequence[str] | None = None) -> NDArray:
        """Score pictures, each by itself: neither order nor neighbours may show.

        Args:
            images: B pictures, uint8 [H, W, 3], sRGB; sizes may differ.
            prompts: their B prompts, for scorers that judge agreement; others ignore them.

        Returns:
            float64 scores_B, finite, in the scorer's own unit.

        Raises:
            DataError: prompts are needed and absent, or a picture cannot be scored.
        """
        ...


@dataclass(frozen=True)
class EvalPrompt:
    """One prompt to sample and judge.

    Args:
        id: unique within the suite; names the picture's file, so letters, digits, ``.``, ``_`` and ``-`` (not first), at most 120.
        prompt: the text.
        metrics: the names of the values its picture is judged by, higher is better, the most telling first. A missing picture has 0 in each.
        tags: what it belongs to, such as GenEval's "counting": metrics are given for each tag and over all.
        cluster: samples of one cluster are not independent (several pictures of one prompt, prompts of one template); intervals respect that. Empty:
            the prompt is a cluster of its own.
    """

    id: str
    prompt: str
    metrics: tuple[str, ...]
    tags: tuple[str, ...] = ()
    cluster: str = ""


class Evaluation(Protocol):
    """A suite: what to sample and how to judge it. ``code`` names every version that shapes a prompt or a verdict."""

    code: str

    def prompts(self) -> Sequence[EvalPrompt]:
        """All prompts, in a fixed order: the n-th is sampled from seed S + n. Tags should take turns, so that the first few are a fair choice."""
        ...

    def judge(self, prompts: Sequence[EvalPrompt], images: Sequence[NDArray]) -> Sequence[Mapping[str, float]]:
        """Judge pictures, each by itself: neither order nor neighbours may show.

        Args:
            images: one picture per prompt, uint8 [H, W, 3], sRGB, of any size: what cannot be judged counts as 0, never as absent.

        Returns:
            for each picture a finite value for exactly the names in its prompt's ``metrics``.
        """
        ...
