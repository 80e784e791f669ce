"""Which claims a picture bears out, given the objects and texts that were seen in it (by the verifier, or known from its scene)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ernie_data.shapes.claims import OPPOSITE, Claim, Claims, ObjectClaim, RelationClaim, TextClaim
from ernie_data.shapes.scene import Scene

RELATION_LEAST = 0.2
"""Two centres at least this far apart (in picture sides) along an axis stand in a relation along it; neighbouring cells are a third apart."""


class Thing(Protocol):
    """An object with what was read of it; ``verify.SeenObject`` is one."""

    @property
    def shape(self) -> str | None: ...
    @property
    def colour(self) -> str | None: ...
    @property
    def cell(self) -> str | None: ...
    @property
    def centre(self) -> tuple[float, float]: ...


class Text(Protocol):
    @property
    def text(self) -> str | None: ...
    @property
    def row(self) -> str | None: ...


@dataclass(frozen=True)
class KnownThing:
    shape: str | None
    colour: str | None
    cell: str | None
    centre: tuple[float, float]


@dataclass(frozen=True)
class ClaimsVerdict:
    """``held``: each claim and whether it holds, in the order of ``Claims.each``. ``objects`` and ``texts``: how many were seen."""

    held: tuple[tuple[Claim, bool], ...]
    objects: int
    texts: int
    right: bool
    """Every claim holds, and there is neither an object nor a text beyond them."""


def judge_claims(things: Sequence[Thing], texts: Sequence[Text], claims: Claims) -> ClaimsVerdict:
    """Judge each claim by itself, then all together.

    Object claims are matched with different objects so that most of them hold. A count holds if exactly so many objects fit it; a relation if some two
    objects that fit stand so; a text if exactly the claimed texts are there.
    """
    held: list[tuple[Claim, bool]] = list(zip(claims.objects, _matched(things, claims.objects)))
    held += [(c, sum(_fits(t, ObjectClaim(c.shape, c.colour)) for t in things) == c.count) for c in claims.counts]
    held += [(r, _related(things, r)) for r in claims.relations]
    held += [(t, len(texts) == len(claims.texts) and any(_reads(seen, t) for seen in texts)) for t in claims.texts]
    nothing_else = len(things) == claims.total and len(texts) == len(claims.texts)
    return ClaimsVerdict(tuple(held), len(things), len(texts), nothing_else and all(holds for _, holds in held))


def shows(scene: Scene, claims: Claims) -> bool:
    """Whether a picture of the scene bears out the claims, and shows nothing else."""
    things = [KnownThing(*o.triple, o.centre) for o in scene.objects]
    return judge_claims(things, [scene.sign] if scene.sign else [], claims).right


def related(one: tuple[float, float], other: tuple[float, float], relation: str) -> bool:
    """Whether centre ``one`` stands ``relation`` centre ``other``; y points down."""
    if relation in ("right of", "below"):
        return related(other, one, OPPOSITE[relation])
    axis = 0 if relation == "left of" else 1
    return other[axis] - one[axis] >= RELATION_LEAST


def _matched(things: Sequence[Thing], wanted: Sequence[ObjectClaim]) -> list[bool]:
    """Whether each claim has an object of its own, in a matching of the most claims (augmenting paths)."""
    owner: dict[int, int] = {}  # thing -> claim

    def claim_one(claim: int, tried: set[int]) -> bool:
        for k, thing in enumerate(things):
            if k not in tried and _fits(thing, wanted[claim]):
                tried.add(k)
                if k not in owner or claim_one(owner[k], tried):
                    owner[k] = claim
                    return True
        return False

    for claim in range(len(wanted)):
        claim_one(claim, set())
    return [claim in owner.values() for claim in range(len(wanted))]


def _fits(thing: Thing, claim: ObjectClaim) -> bool:
    return (
        thing.shape == claim.shape
        and (claim.colour is None or thing.colour == claim.colour)
        and (claim.cell is None or thing.cell == claim.cell)
    )


def _related(things: Sequence[Thing], claim: RelationClaim) -> bool:
    return any(
        _fits(one, claim.subject) and _fits(other, claim.object) and related(one.centre, other.centre, claim.relation)
        for one, other in itertools.permutations(things, 2)
    )


def _reads(seen: Text, claim: TextClaim) -> bool:
    return seen.text == claim.text and (claim.row is None or seen.row == claim.row)
