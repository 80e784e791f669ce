"""Key phrases of a caption, in its own words. Light.

English follows RAKE (Rose et al. 2010): candidates are the runs of words between stop words and punctuation, and a word's weight is the number of words
it stands beside over the number of times it occurs; with two changes, since captions are short and their nouns come last: runs that say what
something does are cut at the verb, and long runs keep their end. Chinese has no spaces: clauses are cut at the verbs that stand between two things,
and stripped of measure words and particles at both ends, so that a modifier stays with its noun.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ernie_data.rewriting.words import (
    ADJECTIVES_ING,
    COLOUR_ZH,
    LEADING_ZH,
    NOTHING_ZH,
    NOUNS_ING,
    SPLIT_ZH,
    STOP_EN,
    TRAILING_ZH,
    words_of,
)

MOST_WORDS = 4
MOST_HAN = 18
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_NEGATIONS = ("no", "not", "without", "never", "nothing", "lacking", "lacks", "none", "neither", "nor")
_ARTICLES = ("a", "an", "the", "some", "several", "many")
_KEPT_LY = words_of(
    """
    family friendly lovely curly early daily silly only fly butterfly ugly holy jelly belly lily assembly elderly lonely
    """
)


@dataclass(frozen=True)
class Phrase:
    """A key phrase, and the article that stood before it."""

    text: str
    article: str = ""

    def with_article(self) -> str:
        if self.article in ("a", "an"):
            return f"{'an' if self.text[0].lower() in 'aeiou' else 'a'} {self.text}"
        return f"{self.article} {self.text}" if self.article else self.text


def english_phrases(clause: str) -> list[Phrase]:
    """Candidates of one clause, in order, in the case they are written in but for a capital at the clause's beginning."""
    found: list[Phrase] = []
    run: list[str] = []
    article = ""
    negated = False  # what is said not to be there is no key phrase

    def close() -> None:
        nonlocal article, negated
        while run and not _may_end(run[-1].lower()):
            run.pop()
        if run and not negated and not (len(run) == 1 and (run[0].isdigit() or len(run[0]) < 3)):
            found.append(Phrase(" ".join(run[-MOST_WORDS:]), article))
        negated = negated and not run
        run.clear()
        article = ""

    last = 0
    for match in _WORD.finditer(clause):
        gap, word = clause[last : match.start()], match.group()
        lower = word.lower()
        if last and gap.strip():
            close()
            negated = False
        last = match.end()
        verb = lower.endswith("ing") and lower not in NOUNS_ING and "-" not in lower
        if lower.endswith("ly") and lower not in _KEPT_LY and lower not in STOP_EN and not run:
            continue
        if lower in STOP_EN or verb or (lower.endswith("ly") and lower not in _KEPT_LY):
            close()
            negated = negated or lower in _NEGATIONS
            article = lower if lower in _ARTICLES else ""
        else:
            run.append(word if match.start() or word.isupper() or not word[0].isupper() else word[0].lower() + word[1:])
    close()
    return found


def _may_end(word: str) -> bool:
    return not word.endswith("ed") and (not word.endswith("ing") or (word in NOUNS_ING and word not in ADJECTIVES_ING))


def chinese_phrases(clause: str) -> list[str]:
    """Candidates of one clause, in order."""
    clause = re.sub("[^：:，]{1,10}[：:](?=.)", "；", clause)  # a label says what comes, not what is there
    found = []
    for part in re.split(r"[；，—（）()]|\s-\s", SPLIT_ZH.sub("；", clause)):
        whole = trimmed_zh(part)
        for piece in [whole] if len(whole) <= MOST_HAN else part.split("、"):
            phrase = trimmed_zh(piece)
            if 2 < len(phrase) <= MOST_HAN and re.search("[\u4e00-\u9fffA-Za-z]", phrase) and not NOTHING_ZH.search(phrase):
                found.append(phrase)
    return found


def trimmed_zh(phrase: str) -> str:
    """Without measure words and particles at its ends; 的 between a modifier and its noun stays."""
    return TRAILING_ZH.sub("", LEADING_ZH.sub("", phrase.strip())).strip()


def about_zh(phrase: str, words: re.Pattern[str]) -> bool:
    """Whether a phrase is about one of these words: it begins or ends with one, or has one right after its last 的."""
    tail = phrase.rsplit("的", 1)[-1]
    first = words.match(phrase)
    begins = first is not None and ("的" not in phrase or phrase[first.end() : first.end() + 1] in ("为", "是"))
    return bool(begins or words.match(tail) or any(match.end() == len(phrase) for match in words.finditer(phrase)))


def ranked_english(phrases: Iterable[tuple[int, str]]) -> list[tuple[float, int, str]]:
    """(weight, sentence number, phrase) of distinct phrases, in their order. Earlier sentences count more."""
    candidates = _distinct(phrases)
    beside: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for _, phrase in candidates:
        words = phrase.lower().split()
        for word in words:
            beside[word] += len(words)
            times[word] += 1

    def weight(number: int, phrase: str) -> float:
        return sum(beside[word] / times[word] for word in phrase.lower().split()) / (1 + 0.15 * number)

    return [(weight(number, phrase), number, phrase) for number, phrase in candidates]


def ranked_chinese(phrases: Iterable[tuple[int, str]]) -> list[tuple[float, int, str]]:
    """The same by pairs of characters, with more for phrases that say how something looks."""
    candidates = _distinct(phrases)
    pairs: Counter[str] = Counter(pair for _, phrase in candidates for pair in {phrase[i : i + 2] for i in range(len(phrase) - 1)})

    def weight(number: int, phrase: str) -> float:
        common = sum(pairs[phrase[i : i + 2]] for i in range(len(phrase) - 1)) / max(1, len(phrase) - 1)
        return (common + ("的" in phrase) + bool(COLOUR_ZH.search(phrase)) + min(len(phrase), 8) / 4) / (1 + 0.1 * number)

    return [(weight(number, phrase), number, phrase) for number, phrase in candidates]


def _distinct(phrases: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    """The first of equal phrases, and none that a longer one holds."""
    first: dict[str, tuple[int, str]] = {}
    for number, phrase in phrases:
        first.setdefault(phrase.lower(), (number, phrase))
    return [entry for low, entry in first.items() if not any(low != other and low in other for other in first)]


def best(ranked: list[tuple[float, int, str]], count: int) -> list[str]:
    """The ``count`` heaviest phrases, in the order of the text."""
    places = sorted(range(len(ranked)), key=lambda i: (-ranked[i][0], i))[:count]
    return [ranked[i][2] for i in sorted(places)]
