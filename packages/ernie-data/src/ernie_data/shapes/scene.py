"""Scenes: which objects stand where, drawn as a pure function of (seed, split, index).

Kinds of scenes of a profile with ``kinds``, and what their captions tell:

    single    one object with shape, colour and cell
    colours   one object with shape and colour
    two       two objects of different shapes; the caption names the shapes alone
    counting  two to ``max_objects`` equal objects: their number, shape and colour
    position  two objects side by side or one above the other, different in shape or colour: both, and their relation
    binding   two objects different in shape and in colour: both, without cells
    several   three to ``max_objects`` objects, each with shape, colour and cell

A sign with a text may be added to each; it takes a whole row of cells, and the caption gives the text and the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ernie_core.api import ConfigError
from ernie_core.rng import Rng
from ernie_data.shapes.claims import TEXT_ROWS, Claims, CountClaim, ObjectClaim, RelationClaim, TextClaim, claims_of_triples, is_held_out
from ernie_data.shapes.flaws import Flaw
from ernie_data.shapes.glyphs import ALPHABET
from ernie_data.shapes.palette import BACKGROUND_LEVELS, BACKGROUND_TINT, COLOUR_JITTER, PALETTE
from ernie_data.shapes.profile import Profile, Triple

SIGN_JITTER = (0.02, 0.006)
"""A sign's text is centred within this of the picture's middle in x, and of its row's middle in y."""
_MAX_TRIES = 10_000


@dataclass(frozen=True)
class SceneObject:
    """One object. ``centre`` (x, y) and ``size`` (width of the bounding box) are in picture sides, ``rgb`` in 0..255."""

    triple: Triple
    centre: tuple[float, float]
    size: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Sign:
    """A plate over the width of the picture with a text in its middle. ``centre`` (x, y) of the text, in picture sides."""

    text: str
    row: str
    centre: tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """A picture's content. Objects never overlap. ``told``: what the captions of a scene of a kind say; without it, every object's triple."""

    profile: str
    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]
    kind: str = "several"
    told: Claims | None = None
    sign: Sign | None = None
    flaw: Flaw | None = None

    def triples(self) -> tuple[Triple, ...]:
        return tuple(o.triple for o in self.objects)

    def claims(self) -> Claims:
        return self.told if self.told is not None else claims_of_triples(self.triples())

    @property
    def quality(self) -> float:
        """1 for a clean picture, 0 for one with the strongest flaw."""
        return 1.0 if self.flaw is None else 1.0 - self.flaw.strength

    @property
    def category(self) -> str:
        """What curation should find: "text" for a scene with a sign, colour and shape of an only object, otherwise the kind."""
        if self.sign is not None:
            return "text"
        if len(self.objects) == 1:
            return f"{self.objects[0].triple.colour} {self.objects[0].triple.shape}"
        return self.kind


@dataclass(frozen=True)
class Bias:
    """Weights that replace uniform draws: of (shape, colour) for a scene's first object, and of the number of objects of a counting scene.

    What is not named has weight 1 in an empty mapping and 0 in any other.
    """

    pairs: Mapping[tuple[str, str], float]
    counts: Mapping[int, float]


def place(profile: Profile, triples: Sequence[Triple], generator: np.random.Generator) -> Scene:
    """A scene of these triples with size, position, colours and background varied by ``generator``."""
    low, high = BACKGROUND_LEVELS
    background = generator.integers(low, high + 1) + generator.integers(-BACKGROUND_TINT, BACKGROUND_TINT + 1, size=3)
    objects = []
    for triple in triples:
        x, y = np.array(profile.cells[triple.cell]) + generator.uniform(-profile.centre_jitter, profile.centre_jitter, size=2)
        size = generator.uniform(*profile.object_sizes)
        rgb = np.clip(np.array(PALETTE[triple.colour]) + generator.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, size=3), 0, 255)
        objects.append(SceneObject(triple, (float(x), float(y)), float(size), (int(rgb[0]), int(rgb[1]), int(rgb[2]))))
    tone = np.clip(background, 0, 255)
    return Scene(profile.name, tuple(objects), (int(tone[0]), int(tone[1]), int(tone[2])))


def draw_scene(profile: Profile, *, seed: int, split: str, index: int, bias: Bias | None = None) -> Scene:
    """Scene ``index`` of a split. ``"train"`` and ``"validation"`` hold seen triples and combinations only; ``"all"`` draws from all.

    Without kinds, the number of objects is uniform on 1..max_objects. Cells always differ.
    """
    generator = Rng(seed).at(f"shapes/{profile.name}/{split}", 0).generator(index)
    if profile.kinds:
        kind = str(generator.choice(list(profile.kinds), p=np.array(list(profile.kinds.values())) / sum(profile.kinds.values())))
        signed = bool(generator.random() < profile.text_share)
        return draw_kind(profile, kind, signed=signed, everything=split == "all", generator=generator, bias=bias)
    pool = profile.triples() if split == "all" else profile.seen()
    chosen: list[Triple] = []
    for _ in range(int(generator.integers(1, profile.max_objects + 1))):
        free = [t for t in pool if all(t.cell != c.cell for c in chosen)]
        if bias is not None and not chosen:
            free = _of_pair(free, bias, generator)
        chosen.append(free[int(generator.integers(len(free)))])
    return place(profile, chosen, generator)


def draw_kind(
    profile: Profile, kind: str, *, signed: bool, everything: bool, generator: np.random.Generator, bias: Bias | None = None
) -> Scene:
    """A scene of one kind. ``everything``: also of what training holds out.

    Raises:
        ConfigError: the profile has no such kind.
    """
    if kind not in profile.kinds:
        raise ConfigError(f'profile {profile.name} has no scenes of kind "{kind}"; expected one of: {", ".join(profile.kinds) or "none"}')
    pool = profile.triples() if everything else profile.seen()
    for _ in range(_MAX_TRIES):
        sign = _draw_sign(profile, generator) if signed else None
        free = [t for t in pool if sign is None or not t.cell.startswith(sign.row)]
        chosen = _draw_objects(kind, profile, free, generator, bias)
        if chosen is None:
            continue
        triples, told = chosen
        if sign is not None:
            told = Claims(told.objects, told.counts, told.relations, (TextClaim(sign.text, sign.row),))
        if everything or not is_held_out(told):
            placed = place(profile, triples, generator)
            return Scene(profile.name, placed.objects, placed.background, kind=kind, told=told, sign=sign)
    raise ConfigError(f"profile {profile.name}: no scene of kind {kind} fits the bias; give more (shape, colour) pairs or counts a weight")


def _draw_sign(profile: Profile, generator: np.random.Generator) -> Sign:
    glyphs = generator.integers(len(ALPHABET), size=int(generator.integers(1, profile.max_glyphs + 1)))
    row = TEXT_ROWS[int(generator.integers(len(TEXT_ROWS)))]
    dx, dy = generator.uniform(-1, 1, size=2) * SIGN_JITTER
    y = profile.cells[f"{row} centre"][1]
    return Sign("".join(ALPHABET[g] for g in glyphs), row, (float(0.5 + dx), float(y + dy)))


def _draw_objects(
    kind: str, profile: Profile, free: Sequence[Triple], generator: np.random.Generator, bias: Bias | None
) -> tuple[list[Triple], Claims] | None:
    """Triples and claims of one kind, or None where the first object drawn leaves no other that fits."""
    first = _one(_of_pair(free, bias, generator) if bias is not None else free, generator)
    rest = [t for t in free if t.cell != first.cell]
    bare = ObjectClaim(first.shape, first.colour)
    if kind == "single":
        return [first], claims_of_triples([first])
    if kind == "colours":
        return [first], Claims(objects=(bare,))
    if kind == "several":
        triples = [first]
        for _ in range(int(generator.integers(2, profile.max_objects))):
            triples.append(_one([t for t in rest if all(t.cell != c.cell for c in triples)], generator))
        return triples, claims_of_triples(triples)
    if kind == "counting":
        wanted = _count(profile, generator, bias)
        alike = [t for t in rest if t[:2] == first[:2]]
        if len(alike) + 1 < wanted:
            return None
        others = generator.choice(len(alike), size=wanted - 1, replace=False)
        return [first, *(alike[i] for i in others)], Claims(counts=(CountClaim(wanted, first.shape, first.colour),))
    if kind == "two":
        second = _one([t for t in rest if t.shape != first.shape], generator)
        return [first, second], Claims(objects=(ObjectClaim(first.shape), ObjectClaim(second.shape)))
    if kind == "binding":
        second = _one([t for t in rest if t.shape != first.shape and t.colour != first.colour], generator)
        return [first, second], Claims(objects=(bare, ObjectClaim(second.shape, second.colour)))
    second = _one([t for t in rest if t[:2] != first[:2] and _aligned(first, t, profile)], generator)
    (x, y), (u, v) = profile.cells[first.cell], profile.cells[second.cell]
    relation = ("left of" if x < u else "right of") if y == v else ("above" if y < v else "below")
    return [first, second], Claims(relations=(RelationClaim(bare, relation, ObjectClaim(second.shape, second.colour)),))


def _aligned(one: Triple, other: Triple, profile: Profile) -> bool:
    (x, y), (u, v) = profile.cells[one.cell], profile.cells[other.cell]
    return (x == u) != (y == v)


def _one(triples: Sequence[Triple], generator: np.random.Generator) -> Triple:
    return triples[int(generator.integers(len(triples)))]


def _of_pair(triples: Sequence[Triple], bias: Bias, generator: np.random.Generator) -> list[Triple]:
    """Those of one (shape, colour), drawn by the bias's weights. All of them where the bias says nothing of pairs."""
    if not bias.pairs:
        return list(triples)
    pairs = sorted({t[:2] for t in triples})
    weights = np.array([bias.pairs.get(p, 0.0) for p in pairs])
    if not weights.sum() > 0:
        raise ConfigError(f"the bias gives no weight to any of the profile's {len(pairs)} pairs of shape and colour")
    chosen = pairs[int(generator.choice(len(pairs), p=weights / weights.sum()))]
    return [t for t in triples if t[:2] == chosen]


def _count(profile: Profile, generator: np.random.Generator, bias: Bias | None) -> int:
    counts = range(2, profile.max_objects + 1)
    if bias is None or not bias.counts:
        return int(generator.integers(counts.start, counts.stop))
    weights = np.array([bias.counts.get(n, 0.0) for n in counts])
    return int(generator.choice(counts, p=weights / weights.sum()))
