"""Scenes made to measure: one that bears given claims out, and nothing else. For clean reference pictures of prompts."""

from __future__ import annotations

import itertools

import numpy as np

from ernie_core.api import ConfigError
from ernie_core.rng import Rng
from ernie_data.shapes.claims import Claims, ObjectClaim, RelationClaim
from ernie_data.shapes.judge import related, shows
from ernie_data.shapes.profile import Profile, Triple
from ernie_data.shapes.scene import Scene, Sign, place

_MAX_TRIES = 1000


def reference_scene(claims: Claims, profile: Profile, *, seed: int = 0, index: int = 0) -> Scene:
    """What the claims leave open (cells, colours, exact places) is drawn by (seed, index).

    Raises:
        ConfigError: no scene of the profile bears them out, as far as was tried.
    """
    generator = Rng(seed).at(f"shapes/reference/{profile.name}", 0).generator(index)
    rows = [t.row or "bottom" for t in claims.texts]
    cells = [cell for cell in profile.cells if not any(cell.startswith(row) for row in rows)]
    for _ in range(_MAX_TRIES):
        triples = _draw(claims, profile, cells, generator)
        if triples is None:
            continue
        placed = place(profile, triples, generator)
        sign = Sign(claims.texts[0].text, rows[0], (0.5, profile.cells[f"{rows[0]} centre"][1])) if rows else None
        scene = Scene(profile.name, placed.objects, placed.background, told=claims, sign=sign)
        if shows(scene, claims):
            return scene
    raise ConfigError(f'profile {profile.name}: no scene was found that shows "{claims}" and nothing else')


def _draw(claims: Claims, profile: Profile, cells: list[str], generator: np.random.Generator) -> list[Triple] | None:
    """Triples for all claims in cells of their own, or None where the cells drawn first leave none that fit."""
    free = [c for c in cells if all(c != o.cell for o in claims.objects)]
    triples = []

    def add(claim: ObjectClaim, cell: str) -> None:
        triples.append(Triple(claim.shape, claim.colour or str(generator.choice(profile.colours)), cell))

    for relation in claims.relations:
        pair = _pair(relation, profile, free, generator)
        if pair is None:
            return None
        for claim, cell in zip((relation.subject, relation.object), pair):
            free.remove(cell)
            add(claim, cell)
    counted = [ObjectClaim(c.shape, c.colour) for c in claims.counts for _ in range(c.count)]
    for claim in (*claims.objects, *counted):
        if claim.cell is not None:
            add(claim, claim.cell)
        elif not free:
            return None
        else:
            add(claim, free.pop(int(generator.integers(len(free)))))
    return triples


def _pair(relation: RelationClaim, profile: Profile, free: list[str], generator: np.random.Generator) -> tuple[str, str] | None:
    fitting = [(a, b) for a, b in itertools.permutations(free, 2) if related(profile.cells[a], profile.cells[b], relation.relation)]
    return fitting[int(generator.integers(len(fitting)))] if fitting else None
