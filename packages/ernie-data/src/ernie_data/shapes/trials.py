"""Trials of the verifier against the renderer: clean pictures, counterfactual captions, noise and shifts. Behind ``ernie data verify-shapes``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_core.rng import Rng
from ernie_data.shapes.claims import OPPOSITE, TEXT_ROWS, Claims, TextClaim, claims_of_triples
from ernie_data.shapes.geometry import GEOMETRY, coverage
from ernie_data.shapes.glyphs import ALPHABET, GLYPHS
from ernie_data.shapes.judge import judge_claims
from ernie_data.shapes.palette import palette_lab
from ernie_data.shapes.profile import Profile, Triple
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import Scene, draw_scene
from ernie_data.shapes.verify import Seen, judge, look_all

NOISE_SIGMA = 0.05
"""Of the [0, 1] range."""
ATTRIBUTES = ("colour", "shape", "cell")
_CHUNK = 256


@dataclass(frozen=True)
class Trials:
    """Counts over ``count`` scenes each."""

    count: int
    clean_right: int
    counterfactuals_accepted: int
    noisy_right: int
    shifted_right: int
    wrong: tuple[str, ...]  # the first few failures, in words

    def passed(self) -> bool:
        """All clean renders right, no counterfactual accepted, at least 99 % right under noise and under one-pixel shifts."""
        share = 0.99 * self.count
        return (
            self.clean_right == self.count
            and self.counterfactuals_accepted == 0
            and self.noisy_right >= share
            and self.shifted_right >= share
        )


def run_trials(profile: Profile, *, count: int, size_px: int, seed: int = 0) -> Trials:
    """Judge ``count`` scenes of all triples four times: clean, against a counterfactual caption, with noise, and shifted by a pixel."""
    totals = dict.fromkeys(("clean", "counterfactual", "noisy", "shifted"), 0)
    wrong: list[str] = []
    for start in range(0, count, _CHUNK):
        indices = range(start, min(start + _CHUNK, count))
        scenes = [draw_scene(profile, seed=seed, split="all", index=i) for i in indices]
        clean_BHW3 = render(scenes, size_px)
        seen = look_all(clean_BHW3, profile)
        noisy = look_all(add_noise(clean_BHW3, seed=seed, first=start), profile)
        shifted = look_all(shift(clean_BHW3, first=start), profile)
        for b, (scene, index) in enumerate(zip(scenes, indices)):
            other = (
                counterfactual_claims(profile, scene, index) if profile.kinds else claims_of_triples(counterfactual(profile, scene, index))
            )
            results = {
                "clean": _bears_out(seen[b], scene),
                "counterfactual": _right(seen[b], other),
                "noisy": _bears_out(noisy[b], scene),
                "shifted": _bears_out(shifted[b], scene),
            }
            for name, right in results.items():
                totals[name] += right
                if right == (name == "counterfactual"):
                    shown = {"noisy": noisy, "shifted": shifted}.get(name, seen)[b]
                    objects = ", ".join(f"{o.colour} {o.shape}, {o.cell}" for o in shown.objects)
                    texts = ", ".join(f'"{t.text}", {t.row}' for t in shown.texts)
                    wanted = other if name == "counterfactual" else scene_claims(scene)
                    wrong.append(f"{name} {index}: {wanted} -> {objects or 'no objects'}{'; ' + texts if texts else ''}")
    return Trials(count, totals["clean"], totals["counterfactual"], totals["noisy"], totals["shifted"], tuple(wrong[:10]))


def scene_claims(scene: Scene) -> Claims:
    """Everything that can be said of a scene's objects one by one, and its text."""
    return Claims(objects=claims_of_triples(scene.triples()).objects, texts=scene.claims().texts)


def _bears_out(seen: Seen, scene: Scene) -> bool:
    """Both what the scene's captions say and what could be said of each object."""
    return _right(seen, scene_claims(scene)) and _right(seen, scene.claims())


def _right(seen: Seen, claims: Claims) -> bool:
    if claims.counts or claims.relations or claims.texts or seen.texts:
        return judge_claims(seen.objects, seen.texts, claims).right
    if all(o.colour and o.cell for o in claims.objects):
        return judge(seen.objects, [Triple(*o) for o in claims.objects]).right
    return judge_claims(seen.objects, seen.texts, claims).right


def counterfactual_claims(profile: Profile, scene: Scene, index: int) -> Claims:
    """Claims that differ from the scene in one thing, by its nearest alternative; what can be changed takes turns."""
    told, everything = scene.claims(), scene_claims(scene)
    turns = [*ATTRIBUTES]
    turns += ["count", "count"] if told.counts else []
    turns += ["relation", "order"] if told.relations else []
    turns += ["glyph", "row", "silence"] if scene.sign else []
    turn = turns[index % len(turns)]
    if turn in ATTRIBUTES:
        changed = counterfactual(profile, scene, 3 * (index // len(turns)) + ATTRIBUTES.index(turn))
        return Claims(objects=claims_of_triples(changed).objects, texts=told.texts)
    if turn == "count":
        count = told.counts[0]
        return Claims(counts=(count._replace(count=count.count + (1 if index % 2 else -1)),), texts=told.texts)
    if turn in ("relation", "order"):
        subject, relation, other = told.relations[0]
        if turn == "relation":
            return Claims(relations=(told.relations[0]._replace(relation=OPPOSITE[relation]),), texts=told.texts)
        return Claims(relations=(told.relations[0]._replace(subject=other, object=subject),), texts=told.texts)
    (text, row) = told.texts[0]
    if turn == "silence":
        return Claims(objects=everything.objects)
    if turn == "row":
        return Claims(objects=everything.objects, texts=(TextClaim(text, TEXT_ROWS[(TEXT_ROWS.index(row) + 1) % len(TEXT_ROWS)]),))
    at = index % len(text)
    return Claims(objects=everything.objects, texts=(TextClaim(text[:at] + nearest_glyph(text[at]) + text[at + 1 :], row),))


def nearest_glyph(glyph: str) -> str:
    """The other glyph that differs from this one in the fewest dots."""
    return min((g for g in ALPHABET if g != glyph), key=lambda g: float(np.abs(GLYPHS[g] - GLYPHS[glyph]).sum()))


def counterfactual(profile: Profile, scene: Scene, index: int) -> tuple[Triple, ...]:
    """The scene's triples with one attribute of one object replaced by its nearest alternative; attributes and objects take turns."""
    triples = list(scene.triples())
    which = (index // len(ATTRIBUTES)) % len(triples)
    attribute = ATTRIBUTES[index % len(ATTRIBUTES)]
    triple = triples[which]
    taken = {t.cell for t in triples}
    if attribute == "colour":
        lab = palette_lab(profile.colours)
        far = np.linalg.norm(lab - lab[profile.colours.index(triple.colour)], axis=-1)
        triples[which] = triple._replace(colour=_nearest(profile.colours, far, {triple.colour}))
    elif attribute == "shape":
        triples[which] = triple._replace(shape=_nearest(profile.shapes, 1 - template_iou(triple.shape, profile.shapes), {triple.shape}))
    else:
        here = np.array(profile.cells[triple.cell])
        far = np.linalg.norm(np.array(list(profile.cells.values())) - here, axis=-1)
        triples[which] = triple._replace(cell=_nearest(tuple(profile.cells), far, taken))
    return tuple(triples)


def template_iou(shape: str, others: Sequence[str]) -> NDArray[np.float32]:
    """Intersection over union of a shape with others of equal area and centroid, at 64 px: how alike they look to the verifier."""

    def template(name: str) -> NDArray[np.float32]:
        geometry = GEOMETRY[name]
        size = np.sqrt(0.2 / geometry.area)
        return coverage(name, np.array([[0.5, 0.5 - geometry.centroid_y * size]]), np.array([size]), 64)[0]

    mine = template(shape)
    return np.array([np.minimum(mine, t).sum() / np.maximum(mine, t).sum() for t in map(template, others)], np.float32)


def add_noise(pixels_BHW3: NDArray[np.uint8], *, seed: int, first: int, sigma: float = NOISE_SIGMA) -> NDArray[np.uint8]:
    """Independent Gaussian noise per channel, clipped. ``first``: index of the first picture, which keys its draws."""
    draws = Rng(seed).at("shapes/noise", 0)
    noise = np.stack([draws.normal(first + i, p.shape) for i, p in enumerate(pixels_BHW3)])
    return np.rint(np.clip(pixels_BHW3 + 255 * sigma * noise, 0, 255)).astype(np.uint8)


def shift(pixels_BHW3: NDArray[np.uint8], *, first: int) -> NDArray[np.uint8]:
    """Move each picture by one pixel, in eight directions by turns; what comes in repeats the border."""
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    padded = np.pad(pixels_BHW3, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    h, w = pixels_BHW3.shape[1:3]
    moved = [
        padded[i, 1 + dy : 1 + dy + h, 1 + dx : 1 + dx + w] for i, (dy, dx) in enumerate(steps[(first + j) % 8] for j in range(len(padded)))
    ]
    return np.stack(moved)


def _nearest(names: Sequence[str], distance: NDArray, excluded: set[str]) -> str:
    return min((n for n in names if n not in excluded), key=lambda n: (round(float(distance[names.index(n)]), 6), n))
