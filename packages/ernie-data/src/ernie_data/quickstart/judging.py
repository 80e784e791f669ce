"""Which prompts a model is asked, and how its pictures score: shares of right tags with intervals clustered by triple."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_core.stats import Interval, clustered_interval
from ernie_data.shapes.captions import STYLES, WORDINGS, caption
from ernie_data.shapes.profile import Profile, Triple, balanced_choice
from ernie_data.shapes.verify import SeenObject, Verdict, judge, look

HELD_OUT_NOISES, SEEN_NOISES = 4, 1
SEEN_TRIPLES = 16
TAGS = ("colour", "shape", "position")


@dataclass(frozen=True)
class Question:
    """One picture to ask for. ``noise`` counts the pictures of the same prompt; ``seed`` is its number over all questions."""

    triple: Triple
    prompt: str
    style: str
    noise: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """A question with its picture, what the verifier saw in it, and the verdict."""

    question: Question
    pixels_HW3: NDArray[np.uint8]
    seen: tuple[SeenObject, ...]
    verdict: Verdict


def held_out_questions(profile: Profile, *, seed: int = 0) -> list[Question]:
    """Every held-out triple x 4 styles x 2 wordings x 4 noises: 512 for the profile ``quick``."""
    return _questions(profile.held_out(), noises=HELD_OUT_NOISES, first_seed=seed)


def seen_questions(profile: Profile, *, seed: int = 0) -> list[Question]:
    """16 triples of the training set, evenly spread, x 8 captions: to tell "cannot draw it" from "cannot combine it"."""
    chosen = balanced_choice(profile.seen(), SEEN_TRIPLES, salt=f"{profile.name}|seen")
    return _questions(chosen, noises=SEEN_NOISES, first_seed=seed)


def _questions(triples: Iterable[Triple], *, noises: int, first_seed: int) -> list[Question]:
    combinations = [(t, s, w, n) for n in range(noises) for t in triples for s in STYLES for w in range(WORDINGS)]
    return [Question(t, caption([t], style=s, wording=w), s, n, first_seed + i) for i, (t, s, w, n) in enumerate(combinations)]


def answers(questions: Sequence[Question], pixels_BHW3: NDArray[np.uint8], profile: Profile) -> list[Answer]:
    """Judge one picture per question."""
    seen = look(pixels_BHW3, profile)
    return [Answer(q, p, s, judge(s, [q.triple])) for q, p, s in zip(questions, pixels_BHW3, seen, strict=True)]


def scores(judged: Sequence[Answer]) -> dict[str, Interval]:
    """Share of right colour, shape, position, and of pictures with all three right (``all``), clustered by triple."""
    clusters = [a.question.triple for a in judged]
    tags = {tag: [getattr(a.verdict, tag) for a in judged] for tag in TAGS} | {"all": [a.verdict.right for a in judged]}
    return {tag: clustered_interval(right, clusters) for tag, right in tags.items()}


def by_triple(judged: Sequence[Answer]) -> dict[Triple, dict[str, float]]:
    """Share of right tags of each triple, in the order asked."""
    table: dict[Triple, list[Answer]] = {}
    for answer in judged:
        table.setdefault(answer.question.triple, []).append(answer)
    return {t: {tag: float(np.mean([getattr(a.verdict, tag) for a in group])) for tag in TAGS} for t, group in table.items()}
