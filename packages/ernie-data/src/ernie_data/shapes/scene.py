"""Scenes: which objects stand where, drawn as a pure function of (seed, split, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ernie_core.rng import Rng
from ernie_data.shapes.palette import BACKGROUND_LEVELS, BACKGROUND_TINT, COLOUR_JITTER, PALETTE
from ernie_data.shapes.profile import Profile, Triple


@dataclass(frozen=True)
class SceneObject:
    """One object. ``centre`` (x, y) and ``size`` (width of the bounding box) are in picture sides, ``rgb`` in 0..255."""

    triple: Triple
    centre: tuple[float, float]
    size: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """A picture's content. Objects never overlap."""

    profile: str
    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]

    def triples(self) -> tuple[Triple, ...]:
        return tuple(o.triple for o in self.objects)


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


def draw_scene(profile: Profile, *, seed: int, split: str, index: int) -> Scene:
    """Scene ``index`` of a split. ``"train"`` and ``"validation"`` hold seen triples only; ``"all"`` draws from every triple.

    The number of objects is uniform on 1..max_objects; cells differ.
    """
    generator = Rng(seed).at(f"shapes/{profile.name}/{split}", 0).generator(index)
    pool = profile.triples() if split == "all" else profile.seen()
    chosen: list[Triple] = []
    for _ in range(int(generator.integers(1, profile.max_objects + 1))):
        free = [t for t in pool if all(t.cell != c.cell for c in chosen)]
        chosen.append(free[int(generator.integers(len(free)))])
    return place(profile, chosen, generator)
