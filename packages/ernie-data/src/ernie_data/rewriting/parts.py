"""What a caption says, taken apart: the subject, key phrases, writing in the picture, light and style. From prose or from a structured caption. Light."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ernie_data.rewriting.clean import clauses, cleaned, language_of, sentences
from ernie_data.rewriting.phrases import about_zh, best, chinese_phrases, english_phrases, ranked_chinese, ranked_english, trimmed_zh
from ernie_data.rewriting.quotes import Quote, is_slot, put_back, slots_of, take_out
from ernie_data.rewriting.words import (
    FINITE_EN,
    LEADING_ZH,
    LIGHT_EN,
    LIGHT_ZH,
    LOOK_START_EN,
    LOOK_START_ZH,
    MENTION_AFTER_ZH,
    MENTION_ZH,
    OPENERS_EN,
    OPENERS_ZH,
    PLACE_EN,
    RELATIVE_EN,
    ROLE_END_ZH,
    ROLE_NOTHING_ZH,
    ROLE_NOUN_ZH,
    SPLIT_ZH,
    STYLE_EN,
    STYLE_ZH,
    TEXT_EN,
)
from ernie_data.vision.structure import StructuredCaption, as_description

About: TypeAlias = Callable[[str, re.Pattern[str]], bool]
PHRASES = 14
ENOUGH_PHRASES = 4  # with fewer, single words count too
MENTION_HAN = 26
SUBJECT_WORDS = 24
SUBJECT_HAN = 44
_CLAUSE_EN = re.compile(r"\b(?:that|which|who|whose|where)\b", re.IGNORECASE)
_ARTICLE_EN = re.compile(r"\b(?:an?|the|with|of|in|on|two|three|four|five|several|some|many)\b", re.IGNORECASE)
_OPEN_EN = frozenset(["a", "an", "the", "with", "in", "of", "by", "for", "and", "featuring"])
_SUBJECT_ENOUGH = {True: 12, False: 7}  # characters or words of a subject that needs no further clause


@dataclass(frozen=True)
class Lettering:
    """Writing in the picture: where it stands ("" if that is not said in a few words) and the numbers of its quotes."""

    role: str
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Parts:
    """
    Args:
        subject: what the picture shows; ``is_phrase``: a noun phrase rather than a sentence.
        phrases: key phrases beyond the subject, in the order of the caption.
        mentions: phrases with quotes that are no writing in the picture, such as a name in quotes.
        full: the cleaned caption, light and style last.

    Texts hold slots in the place of ``quotes``.
    """

    chinese: bool
    quotes: tuple[Quote, ...]
    subject: str
    is_phrase: bool
    full: str
    phrases: tuple[str, ...] = ()
    letterings: tuple[Lettering, ...] = ()
    mentions: tuple[str, ...] = ()
    lighting: tuple[str, ...] = ()
    style: tuple[str, ...] = ()
    articles: Mapping[str, str] = field(default_factory=dict)  # of English phrases in lower case

    def shown(self, text: str) -> str:
        return put_back(text, self.quotes, chinese=self.chinese)


def parts_of_text(text: str) -> Parts | None:
    """The parts of a caption in English or Chinese; None for other languages and for captions without a word."""
    masked, quotes = take_out(text)
    language = language_of(masked)
    if language == "other":
        return None
    chinese = language == "zh"
    masked = cleaned(masked, chinese=chinese)
    if not re.search(r"\w", masked) and not quotes:
        return None
    pieces = sentences(masked, quotes, chinese=chinese)
    subject, is_phrase = _subject(pieces[0] if pieces else masked, chinese=chinese)
    found = _Found(chinese)
    for number, sentence in enumerate(pieces):
        found.read(number, sentence)
    found.drop_what_is_in(subject)
    return Parts(
        chinese,
        tuple(quotes),
        subject,
        is_phrase,
        _ordered(pieces, chinese=chinese),
        tuple(found.best(PHRASES)),
        tuple(found.letterings),
        tuple(found.mentions),
        tuple(_few(found.lighting, 2)),
        tuple(_few(found.style, 3)),
        found.articles,
    )


def parts_of_caption(caption: StructuredCaption) -> Parts | None:
    """The parts of a structured caption: what it says part by part is taken over, its description is the full text."""
    extra = [caption.subject, *caption.attributes, *caption.relations, caption.composition, caption.lighting, caption.style]
    masked, quotes = take_out("\n\n".join([as_description(caption), *extra]))
    language = language_of(masked)
    if language == "other":
        return None
    chinese = language == "zh"
    description, subject, *rest = (cleaned(part, chinese=chinese) for part in masked.split("\n\n"))
    bare = [part.rstrip(".。") for part in rest]
    things = [*bare[: len(caption.attributes) + len(caption.relations)], bare[-3]]
    said = [part for part in (*bare[-3:],) if part and part.lower() not in description.lower()]
    stop, gap = ("。", "") if chinese else (".", " ")
    full = gap.join([description, *(part[:1].upper() + part[1:] + stop for part in said)])
    contents = [quote.content for quote in quotes]
    slots = tuple(dict.fromkeys(contents.index(text) for text in caption.text if text in contents))
    return Parts(
        chinese,
        tuple(quotes),
        _bare_subject(subject.rstrip(".。"), chinese=chinese),
        chinese or _is_phrase(subject),
        full,
        tuple(dict.fromkeys(part for part in things if part)),
        (Lettering("", slots),) if slots else (),
        (),
        tuple(part for part in (bare[-2],) if part),
        tuple(part for part in (bare[-1],) if part),
    )


def _bare_subject(subject: str, *, chinese: bool) -> str:
    return OPENERS_ZH.sub("", subject).lstrip("，、：的") if chinese else OPENERS_EN.sub("", subject)


def _subject(sentence: str, *, chinese: bool) -> tuple[str, bool]:
    """The beginning of the first sentence, whole clauses of it, and whether it is a noun phrase."""
    bare = _bare_subject(sentence, chinese=chinese) or sentence
    taken: list[str] = []
    for clause in clauses(bare, chinese=chinese):
        length = sum(len(part) if chinese else len(part.split()) for part in (*taken, clause))
        if taken and length > (SUBJECT_HAN if chinese else SUBJECT_WORDS):
            break
        taken.append(clause)
        said = sum(len(part) if chinese else len(part.split()) for part in taken)
        open_end = not chinese and any(word.lower() in _OPEN_EN for word in clause.split()[-2:])
        if said >= _SUBJECT_ENOUGH[chinese] and not open_end and not (chinese and len(taken) == 1 and said < 10):
            break
    subject = ("，" if chinese else ", ").join(taken) or bare
    words = subject.split()
    if not chinese and len(words) > SUBJECT_WORDS and not any(map(is_slot, subject)):
        cut = next((i for i in range(len(words) - 1, 8, -1) if i <= SUBJECT_WORDS and RELATIVE_EN.fullmatch(words[i])), None)
        subject = " ".join(words[:cut]) if cut else subject
    subject = subject.rstrip(".,;:。，；：")
    if chinese:
        return subject, True
    return subject, _is_phrase(subject)


def _is_phrase(subject: str) -> bool:
    """An English noun phrase: no verb but in a relative clause, and no mere list of tags."""
    verb = FINITE_EN.search(subject)
    clause = _CLAUSE_EN.search(subject)
    tags = "," in subject and not _ARTICLE_EN.search(subject)
    return not tags and (verb is None or (clause is not None and clause.start() < verb.start()))


class _Found:
    """What the sentences of one caption give, in order."""

    def __init__(self, chinese: bool) -> None:
        self.chinese = chinese
        self.phrases: list[tuple[int, str]] = []
        self.letterings: list[Lettering] = []
        self.mentions: list[str] = []
        self.articles: dict[str, str] = {}
        self.lighting: list[str] = []
        self.style: list[str] = []
        self._placed: set[int] = set()

    def read(self, number: int, sentence: str) -> None:
        whole = sentence
        if self.chinese:
            sentence = re.sub(r"^\s*\d+[.、)）]\s*", "", OPENERS_ZH.sub("", sentence) if number == 0 else sentence)
        follows = False  # the clause before has quotes
        for clause in clauses(sentence, chinese=self.chinese):
            slots = slots_of(clause)
            if slots:
                self._quoted(clause, slots, whole, follows=follows)
            if self.chinese and not slots:
                self._sort(number, chinese_phrases(clause), about_zh, LIGHT_ZH, STYLE_ZH)
            elif not self.chinese:
                self._english(number, "".join(":" if is_slot(c) else c for c in clause))
            follows = bool(slots)

    def _english(self, number: int, clause: str) -> None:
        phrases = [p for p in english_phrases(clause) if not PLACE_EN.match(p.text) and p.text.lower().rsplit(" ", 1)[-1] not in TEXT_EN]
        for phrase in phrases:
            self.articles.setdefault(phrase.text.lower(), phrase.article)
        self._sort(
            number, [phrase.text for phrase in phrases], lambda text, words: " " in text and bool(words.search(text)), LIGHT_EN, STYLE_EN
        )

    def _sort(self, number: int, candidates: list[str], about: About, light: re.Pattern[str], style: re.Pattern[str]) -> None:
        for phrase in candidates:
            if about(phrase, style):
                self.style.append(phrase)
            elif about(phrase, light):
                self.lighting.append(phrase)
            else:
                self.phrases.append((number, phrase))

    def _quoted(self, clause: str, slots: list[int], sentence: str, *, follows: bool) -> None:
        if self.chinese and _is_mention(clause):
            phrase = trimmed_zh(clause)
            if len(phrase) > MENTION_HAN:
                place = next(i for i, c in enumerate(phrase) if is_slot(c))
                phrase = phrase[max(0, place - 10) : place + 12]
            self.mentions.append(phrase)
            if set(slots) <= set(slots_of(phrase)):
                return
        new = tuple(slot for slot in slots if slot not in self._placed)
        self._placed.update(new)
        goes_on = follows and re.match("(?:and |or |以及|和|与|及)?\\s*[\\U000f0000-\\U000ffffd]", clause) is not None
        role = "" if goes_on else _role_zh(clause, sentence) if self.chinese else _role_en(clause)
        if self.letterings and (goes_on or not (role or self.letterings[-1].role)):
            self.letterings[-1] = Lettering(self.letterings[-1].role, self.letterings[-1].slots + new)
        else:
            self.letterings.append(Lettering(role, new))

    def drop_what_is_in(self, subject: str) -> None:
        low = subject.lower()
        self.phrases = [(number, phrase) for number, phrase in self.phrases if phrase.lower() not in low]
        self.style = [phrase for phrase in self.style if phrase.lower() not in low]
        self.lighting = [phrase for phrase in self.lighting if phrase.lower() not in low]
        inside = set(slots_of(subject))
        self.letterings = [
            Lettering(entry.role, left) for entry in self.letterings if (left := tuple(s for s in entry.slots if s not in inside))
        ]
        self.mentions = [phrase for phrase in self.mentions if not set(slots_of(phrase)) <= inside]

    def best(self, count: int) -> list[str]:
        several = [entry for entry in self.phrases if self.chinese or " " in entry[1]]
        chosen = several if len(several) >= ENOUGH_PHRASES else self.phrases
        return best((ranked_chinese if self.chinese else ranked_english)(chosen), count)


def _is_mention(clause: str) -> bool:
    first = next(i for i, c in enumerate(clause) if is_slot(c))
    last = max(i for i, c in enumerate(clause) if is_slot(c))
    return bool(
        MENTION_AFTER_ZH.search(clause[last + 1 :])
        or (MENTION_ZH.search(clause[:first].rstrip()) and not clause[:first].rstrip().endswith(("：", ":")))
    )


def _role_zh(clause: str, sentence: str) -> str:
    before = clause[: next(i for i, c in enumerate(clause) if is_slot(c))].rstrip()
    if before.endswith("—"):
        role = re.split("[，、：—；]", before.rstrip("— "))[-1].strip()
        return role if 2 <= len(role) <= 24 else ""
    role = ROLE_END_ZH.sub("", before)
    role = LEADING_ZH.sub("", SPLIT_ZH.split(re.split("[，：—]", role)[-1])[-1]).strip()
    role = re.sub("^(?:下方|上方|旁边|其)+", "", role)
    if ROLE_NOTHING_ZH.search(role) or not role or not ROLE_NOUN_ZH.search(role):
        item = re.match(r"\s*\d+[.、)）]\s*([^，。：]{3,18})，", sentence)
        return item.group(1) if item and not slots_of(item.group(1)) else ""
    return role if len(role) <= 18 else ""


def _role_en(clause: str) -> str:
    before = clause[: next(i for i, c in enumerate(clause) if is_slot(c))]
    named = [phrase for phrase in (p.text for p in english_phrases(before)) if phrase.lower().rsplit(" ", 1)[-1].split("'")[0] in TEXT_EN]
    role = named[-1] if named else ""
    return "" if role.lower() in ("text", "texts", "words", "word", "lettering", "letters", "line", "lines", "phrase") else role


def _ordered(pieces: list[str], *, chinese: bool) -> str:
    """The sentences with those about light and style last."""
    look = LOOK_START_ZH if chinese else LOOK_START_EN
    last = [piece for piece in pieces[1:] if look.match(piece) and not slots_of(piece)]
    kept = [piece for piece in pieces if piece not in last]
    return ("" if chinese else " ").join([*kept, *last])


def _few(phrases: list[str], count: int) -> list[str]:
    distinct = list(dict.fromkeys(phrases))
    kept = [p for p in distinct if not any(p != other and p in other for other in distinct)]
    return kept[:count]
