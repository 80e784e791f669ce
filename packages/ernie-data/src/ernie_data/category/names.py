"""Readable names of categories, from the words of their captions.

Words are weighed by class-based TF-IDF (Grootendorst 2022, BERTopic, eq. 3), with every word counted once per picture:

    weight(t, c) = f(t, c) / n_c  log(1 + A / f(t))     f: pictures whose captions have t;  A: words per category, on average

and a word names a category only if it is in a fifth of its captions, and more often there than overall. A name is the two heaviest words, or one if the
second weighs less than half of it, in the order in which captions use them on average ("red circle"); a second category of the same name is
"red circle (2)".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ernie_data.category.kmeans import Ints

LISTED_WORDS = 8
_NAME_WORDS = 2
_LEAST_OF_HEAVIEST = 0.5
_LEAST_SHARE = 0.2
_MORE_THAN_OVERALL = 1.1
_WORD = re.compile(r"[^\W_]+")
_HAN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_CAPTION_CHARACTERS = 4000
_COMMON_TEXT = """
a an and are as at be by for from has have in into is it its next no not of on one or over some than that the their there these this to two under very
was were which while who with image images picture photo photograph showing shows depicts
"""
_COMMON = frozenset(_COMMON_TEXT.split())


def words(text: str) -> Iterator[str]:
    """Words in order, in lower case, without numbers and the commonest ones; pairs of neighbouring characters where words are not set apart."""
    for token in _WORD.findall(text[:_CAPTION_CHARACTERS].lower()):
        if han := _HAN.findall(token):
            for run in han:
                yield from (run[i : i + 2] for i in range(max(1, len(run) - 1)))
        elif len(token) > 1 and not token.isdigit() and token not in _COMMON:
            yield token


class WordCounts:
    """For each leaf, in how many pictures' captions a word stands, and where. Memory: the different words of each leaf."""

    def __init__(self, leaves: int) -> None:
        self.pictures_K = np.zeros(leaves, np.int64)
        self.found: list[Counter[str]] = [Counter() for _ in range(leaves)]
        self.places: Counter[str] = Counter()
        self.captions: Counter[str] = Counter()

    def add(self, leaf: int, captions: Iterable[str]) -> None:
        """One picture's captions, of all styles."""
        different: set[str] = set()
        for caption in captions:
            place: dict[str, int] = {}
            for number, word in enumerate(words(caption)):
                place.setdefault(word, number)
            self.places.update(place)
            self.captions.update(place.keys())
            different |= place.keys()
        if different:
            self.pictures_K[leaf] += 1
            self.found[leaf].update(different)

    def place(self, word: str) -> float:
        """How many words stand before it, on average over the captions that have it."""
        return self.places[word] / self.captions[word]


@dataclass(frozen=True)
class Name:
    """A category's name, unique in its level, and its heaviest words."""

    name: str
    words: tuple[str, ...]


def names_of(counts: WordCounts, above: Ints, nodes: int) -> list[Name]:
    """Names of the nodes of one level. ``above``: each leaf's node in it. Without words it is "cluster-00012"."""
    found: list[Counter[str]] = [Counter() for _ in range(nodes)]
    for leaf, node in enumerate(above):
        found[node].update(counts.found[leaf])
    pictures_K = np.bincount(above, weights=counts.pictures_K, minlength=nodes)
    overall: Counter[str] = Counter()
    for counter in found:
        overall.update(counter)
    heaviest = [_heaviest(counter, n, overall, int(pictures_K.sum()), nodes) for counter, n in zip(found, pictures_K)]
    return list(_unique(heaviest, counts))


def _heaviest(found: Counter[str], pictures: float, overall: Counter[str], all_pictures: int, nodes: int) -> dict[str, float]:
    """The heaviest words with their weights, falling."""
    average = overall.total() / nodes
    weights = {}
    for word, count in found.items():
        share, share_overall = count / pictures, overall[word] / all_pictures
        if share >= _LEAST_SHARE and (share > _MORE_THAN_OVERALL * share_overall or nodes == 1):
            weights[word] = share * float(np.log1p(average / overall[word]))
    return {word: weights[word] for word in sorted(weights, key=lambda word: (-weights[word], word))[:LISTED_WORDS]}


def _unique(heaviest: Sequence[dict[str, float]], counts: WordCounts) -> Iterator[Name]:
    taken: set[str] = set()
    for number, listed in enumerate(heaviest):
        naming = [word for word, weight in listed.items() if weight >= _LEAST_OF_HEAVIEST * max(listed.values())][:_NAME_WORDS]
        ordered = sorted(naming, key=lambda word: (counts.place(word), word))
        plain = " ".join(ordered) or f"cluster-{number:05d}"
        name, count = plain, 1
        while name in taken:
            count += 1
            name = f"{plain} ({count})"
        taken.add(name)
        yield Name(name, tuple(listed))
