"""What a caption says of a picture, as data: objects, counts, relations and text, and which combinations no training caption makes.

A set of claims is closed: a picture with further objects, or with text that is not asked for, does not show it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ernie_data.shapes.profile import Triple

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
TEXT_ROWS = ("top", "middle", "bottom")
_HELD_OUT_ONE_IN = 8


class ObjectClaim(NamedTuple):
    """One object. A colour or cell that is None is not spoken of."""

    shape: str
    colour: str | None = None
    cell: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.colour, self.shape))) + (f", {self.cell}" if self.cell else "")


class CountClaim(NamedTuple):
    """Exactly ``count`` objects of a shape and, unless None, a colour."""

    count: int
    shape: str
    colour: str | None = None

    def __str__(self) -> str:
        return f"{self.count} x {' '.join(filter(None, (self.colour, self.shape)))}"


class RelationClaim(NamedTuple):
    """The subject stands ``relation`` the object."""

    subject: ObjectClaim
    relation: str
    object: ObjectClaim

    def __str__(self) -> str:
        return f"{self.subject} {self.relation} {self.object}"


class TextClaim(NamedTuple):
    """A sign with this text, in this row of the picture unless None."""

    text: str
    row: str | None = None

    def __str__(self) -> str:
        return f'"{self.text}"' + (f", {self.row}" if self.row else "")


Claim = ObjectClaim | CountClaim | RelationClaim | TextClaim


@dataclass(frozen=True)
class Claims:
    """Everything a caption says. An object is named by exactly one of ``objects``, ``counts`` and ``relations``."""

    objects: tuple[ObjectClaim, ...] = ()
    counts: tuple[CountClaim, ...] = ()
    relations: tuple[RelationClaim, ...] = ()
    texts: tuple[TextClaim, ...] = ()

    @property
    def total(self) -> int:
        """Number of objects in the picture."""
        return len(self.objects) + sum(c.count for c in self.counts) + 2 * len(self.relations)

    def each(self) -> tuple[Claim, ...]:
        """All claims in the order in which captions make them."""
        return (*self.objects, *self.counts, *self.relations, *self.texts)

    def __str__(self) -> str:
        return "; ".join(map(str, self.each()))


def claims_of_triples(triples: Sequence[Triple]) -> Claims:
    """The claims of a caption that names shape, colour and cell of every object."""
    return Claims(objects=tuple(ObjectClaim(*t) for t in triples))


def is_held_out(claims: Claims) -> bool:
    """Whether any part belongs to the one eighth of combinations that training never makes, chosen by a hash of their names.

    Combinations are: two shapes; two shapes with their colours; a count of a shape in a colour; a relation between two objects; a text. Objects with
    their cells are held out as triples, by the profile. Both readings of a relation ("a left of b", "b right of a") are one combination.
    """
    keys = []
    bare = [o for o in claims.objects if o.cell is None]
    if len(bare) > 1:
        keys.append("objects|" + "|".join(sorted(map(str, bare))))
    keys += [f"count|{c}" for c in claims.counts]
    for subject, relation, other in claims.relations:
        turned = relation in ("right of", "below")
        one, two = (other, subject) if turned else (subject, other)
        keys.append(f"relation|{one}|{OPPOSITE[relation] if turned else relation}|{two}")
    keys += [f"text|{t.text}" for t in claims.texts]
    return any(hashlib.blake2b(key.encode(), digest_size=8).digest()[0] % _HELD_OUT_ONE_IN == 0 for key in keys)
