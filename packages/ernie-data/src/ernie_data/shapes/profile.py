"""The three profiles of ShapeBench, their triples (shape, colour, cell), and which triples are held out of training."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from ernie_core.api import ConfigError


class Triple(NamedTuple):
    """What a caption says of one object."""

    shape: str
    colour: str
    cell: str

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}, {self.cell}"


@dataclass(frozen=True)
class Profile:
    """Which scenes there are. Lengths are in picture sides.

    Attributes:
        cells: name of each cell and the x, y of its centre.
        object_sizes: smallest and largest width of an object's bounding box.
        centre_jitter: an object's centre lies within this of its cell's, in x and in y.
        position_tolerance: the verifier accepts a cell when the centre lies within this of the cell's; the middle between cells belongs to none.
        max_objects: a scene has one to so many objects, in different cells.
        held_out_count: triples that no training scene contains.
        verified_from_px: the verifier's promises hold from this picture size on.
        kinds: share of each kind of scene (see ``scene``); empty where every scene is so many objects, each told with its cell.
        text_share: share of scenes that also show a sign with a text of 1 to ``max_glyphs`` glyphs.
    """

    name: str
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    cells: Mapping[str, tuple[float, float]]
    object_sizes: tuple[float, float]
    centre_jitter: float
    position_tolerance: float
    max_objects: int
    held_out_count: int
    verified_from_px: int
    kinds: Mapping[str, float] = field(default_factory=dict)
    text_share: float = 0.0
    max_glyphs: int = 0

    def triples(self) -> tuple[Triple, ...]:
        return _triples(self.shapes, self.colours, tuple(self.cells))

    def held_out(self) -> tuple[Triple, ...]:
        """The triples that training never sees, although it sees each pair of their values (asserted by a test)."""
        return _held_out(self.name)

    def seen(self) -> tuple[Triple, ...]:
        """The triples of training scenes."""
        return _seen(self.triples(), self.held_out())


_THIRDS = (1 / 6, 1 / 2, 5 / 6)
_FULL_CELLS = tuple(itertools.product(zip(("top", "middle", "bottom"), _THIRDS), zip(("left", "centre", "right"), _THIRDS)))

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "quick": Profile(
            name="quick",
            shapes=("circle", "square", "triangle", "cross"),
            colours=("red", "green", "blue", "yellow", "purple", "orange"),
            cells=MappingProxyType(
                {"top left": (0.33, 0.33), "top right": (0.67, 0.33), "bottom left": (0.33, 0.67), "bottom right": (0.67, 0.67)}
            ),
            object_sizes=(0.54, 0.62),
            centre_jitter=0.02,
            position_tolerance=0.13,
            max_objects=1,
            held_out_count=16,
            verified_from_px=24,
        ),
        "full": Profile(
            name="full",
            shapes=("circle", "square", "triangle", "cross", "diamond", "ring"),
            colours=("red", "green", "blue", "yellow", "purple", "orange", "black", "cyan"),
            cells=MappingProxyType({f"{row} {column}": (x, y) for (row, y), (column, x) in _FULL_CELLS}),
            object_sizes=(0.22, 0.28),
            centre_jitter=0.012,
            position_tolerance=0.12,
            max_objects=2,
            held_out_count=64,
            verified_from_px=32,
        ),
        "bench": Profile(
            name="bench",
            shapes=("circle", "square", "triangle", "cross", "diamond", "ring"),
            colours=("red", "green", "blue", "yellow", "purple", "orange", "black", "cyan"),
            cells=MappingProxyType({f"{row} {column}": (x, y) for (row, y), (column, x) in _FULL_CELLS}),
            object_sizes=(0.22, 0.28),
            centre_jitter=0.012,
            position_tolerance=0.12,
            max_objects=5,
            held_out_count=64,
            verified_from_px=32,
            kinds=MappingProxyType(
                {"single": 0.2, "colours": 0.1, "two": 0.1, "counting": 0.2, "position": 0.2, "binding": 0.1, "several": 0.1}
            ),
            text_share=0.25,
            max_glyphs=4,
        ),
    }
)


def profile(name: str) -> Profile:
    """
    Raises:
        ConfigError: no profile has this name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise ConfigError(f'no ShapeBench profile is called "{name}"; expected one of: {", ".join(PROFILES)}') from None


@cache
def _triples(shapes: tuple[str, ...], colours: tuple[str, ...], cells: tuple[str, ...]) -> tuple[Triple, ...]:
    return tuple(Triple(*t) for t in itertools.product(shapes, colours, cells))


@cache
def _seen(triples: tuple[Triple, ...], held_out: tuple[Triple, ...]) -> tuple[Triple, ...]:
    held = set(held_out)
    return tuple(t for t in triples if t not in held)


@cache
def _held_out(name: str) -> tuple[Triple, ...]:
    return balanced_choice(PROFILES[name].triples(), PROFILES[name].held_out_count, salt=name)


def balanced_choice(triples: Sequence[Triple], count: int, *, salt: str) -> tuple[Triple, ...]:
    """Pick one triple after another, always one whose pairs and values were picked least so far; a hash of the names decides ties.

    That spreads the choice evenly, so that no pair of values ever loses all its triples. It depends on names alone: not on a seed, a platform or
    the order of the triples. Returned sorted.
    """
    chosen: list[Triple] = []
    uses: Counter[tuple[str, ...]] = Counter()
    left = sorted(triples, key=lambda t: hashlib.blake2b(f"{salt}|{t}".encode()).digest())
    for _ in range(count):
        best = min(left, key=lambda t: (max(uses[p] for p in pairs(t)), sum(uses[p] for p in pairs(t)), sum(uses[(v,)] for v in t)))
        left.remove(best)
        chosen.append(best)
        uses.update([*pairs(best), *((value,) for value in best)])
    return tuple(sorted(chosen))


def pairs(triple: Triple) -> tuple[tuple[str, str], ...]:
    """The three pairs of values of a triple."""
    return ((triple.shape, triple.colour), (triple.shape, triple.cell), (triple.colour, triple.cell))
