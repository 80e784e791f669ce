"""Pictures to captions from pixels alone: what the CPU captioner is built on.

Neither profile nor size is known: objects are read with all shapes and colours there are, and how large they are says on which grid of cells they stand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_core.api import DataError
from ernie_data.shapes.claims import Claims, CountClaim, ObjectClaim, RelationClaim, TextClaim
from ernie_data.shapes.judge import RELATION_LEAST
from ernie_data.shapes.phrases import NUMBERS, PLURALS, claims_by_style
from ernie_data.shapes.profile import PROFILES, Profile
from ernie_data.shapes.verify import Seen, SeenObject, look_all, nearest_cell

MIN_SIDE_PX, MAX_SIDE_PX = 16, 128
"""Larger pictures are reduced to the second before reading: nothing is gained by reading them larger."""
MAX_ASPECT = 1.1
"""ShapeBench is square; a picture a little off it was cropped."""
QUICK_LEAST_SIZE = 0.42
"""An only object at least this large stands on the coarse grid of profile quick, whose objects begin at .54; the others' end at .28."""
_ALIGNED_MOST = 0.1


@dataclass(frozen=True)
class ReadObject:
    """One object. ``box``: left, top, right, bottom in pixels of the given picture; a value is None where nothing fits."""

    shape: str | None
    colour: str | None
    cell: str | None
    centre: tuple[float, float]  # in picture sides
    box: tuple[int, int, int, int]
    fit: float  # intersection over union with the shape's template

    @property
    def named(self) -> bool:
        return None not in (self.shape, self.colour, self.cell)


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    Attributes:
        objects: in reading order, by rows and then from the left.
        texts: text and row of each sign, from the top.
        relations: between every two named objects that stand in one row or column and differ in shape or colour.
        background: median RGB of the light pixels.
        profile: whose grid of cells was used.
    """

    objects: tuple[ReadObject, ...]
    texts: tuple[TextClaim, ...]
    relations: tuple[RelationClaim, ...]
    background: tuple[int, int, int]
    profile: str
    complete: bool
    """Something was seen, and all of it has a name. Captions of an incomplete reading do not tell everything."""

    def claims(self) -> Claims:
        """Every named object with its cell, and the text."""
        objects = tuple(ObjectClaim(o.shape, o.colour, o.cell) for o in self.objects if o.named and o.shape)
        return Claims(objects=objects, texts=self.texts)

    def short_claims(self) -> Claims:
        """As people say it: equal objects by their number, two objects in a row or column by their relation, otherwise as ``claims``."""
        full = self.claims()
        kinds = Counter((o.shape, o.colour) for o in full.objects)
        if len(full.objects) == 2 and self.relations:
            return Claims(relations=self.relations[:1], texts=self.texts)
        if len(kinds) == 1 and len(full.objects) in NUMBERS:
            ((shape, colour),) = kinds
            return Claims(counts=(CountClaim(len(full.objects), shape, colour),), texts=self.texts)
        return full

    def captions(self, *, index: int = 0, short: bool = False) -> dict[str, str]:
        """One caption per style, empty if nothing was recognised. ``index`` turns the wordings, as for scenes."""
        claims = self.short_claims() if short else self.claims()
        return claims_by_style(claims, index=index) if claims.each() else {}

    def structured(self) -> dict[str, object]:
        """Subject, attributes, relations, text verbatim, lighting, composition and style, as a large captioner would give them."""
        named = [o for o in self.objects if o.named]
        groups = Counter((o.colour, o.shape) for o in named)
        subject = [f"{NUMBERS.get(n, n)} {c} {PLURALS[s]}" if n > 1 else f"{c} {s}" for (c, s), n in groups.items() if s]
        level = sum(self.background) / 3
        return {
            "subject": " and ".join(subject),
            "attributes": [{"shape": o.shape, "colour": o.colour, "cell": o.cell, "box": list(o.box)} for o in named],
            "relations": [str(r) for r in self.relations],
            "text": [t.text for t in self.texts],
            "lighting": "even, bright" if level >= 200 else "even, dim",
            "composition": "; ".join(
                [*(f"{o.colour} {o.shape} in cell {o.cell}" for o in named), *(f"a sign at the {t.row}" for t in self.texts)]
            ),
            "style": "flat geometric shapes on a plain background",
        }


def read_picture(pixels_HW3: NDArray[np.uint8]) -> Reading:
    """Read one picture; a picture of something else gives a reading that is not ``complete``, usually without objects.

    Raises:
        DataError: not uint8 [H, W, 3], or a side below 16 pixels.
    """
    if pixels_HW3.ndim != 3 or pixels_HW3.shape[2] != 3 or pixels_HW3.dtype != np.uint8 or min(pixels_HW3.shape[:2]) < MIN_SIDE_PX:
        raise DataError(
            f"the reader takes uint8 pictures [H, W, 3] of at least {MIN_SIDE_PX} px, found {pixels_HW3.dtype} {list(pixels_HW3.shape)}"
        )
    height, width = pixels_HW3.shape[:2]
    light = pixels_HW3[pixels_HW3.min(axis=-1) >= np.median(pixels_HW3.min(axis=-1))]
    r, g, b = (int(v) for v in np.median(light, axis=0))
    bench = PROFILES["bench"]
    if max(height, width) > MAX_ASPECT * min(height, width):
        return Reading((), (), (), (r, g, b), bench.name, complete=False)
    side = min(max(height, width), MAX_SIDE_PX)
    square = pixels_HW3
    if (height, width) != (side, side):
        square = np.asarray(Image.fromarray(pixels_HW3).resize((side, side), Image.Resampling.BOX))
    (seen,) = look_all(square[None], bench)
    return _reading(seen, bench, (width, height), (r, g, b))


def _reading(seen: Seen, bench: Profile, size_px: tuple[int, int], background: tuple[int, int, int]) -> Reading:
    quick = len(seen.objects) == 1 and not seen.texts and seen.objects[0].size >= QUICK_LEAST_SIZE
    grid = PROFILES["quick"] if quick else bench
    objects = tuple(sorted((_object(o, grid, size_px) for o in seen.objects), key=lambda o: (round(3 * o.centre[1] - 0.5), o.centre[0])))
    texts = tuple(TextClaim(t.text, t.row) for t in seen.texts if t.text is not None)
    complete = bool(objects) and all(o.named for o in objects) and all(t.text is not None and t.row is not None for t in seen.texts)
    return Reading(objects, texts, _relations(objects), background, grid.name, complete)


def _object(seen: SeenObject, grid: Profile, size_px: tuple[int, int]) -> ReadObject:
    (x, y), (w, h) = seen.centre, size_px
    half = seen.size / 2
    box = (round(max(x - half, 0) * w), round(max(y - half, 0) * h), round(min(x + half, 1) * w), round(min(y + half, 1) * h))
    return ReadObject(seen.shape, seen.colour, nearest_cell(seen.centre, grid), seen.centre, box, seen.iou)


def _relations(objects: tuple[ReadObject, ...]) -> tuple[RelationClaim, ...]:
    found = []
    for one, other in combinations([o for o in objects if o.named], 2):
        (x, y), (u, v) = one.centre, other.centre
        a, b = ObjectClaim(one.shape or "", one.colour), ObjectClaim(other.shape or "", other.colour)
        if a == b:
            continue
        if abs(y - v) <= _ALIGNED_MOST and abs(x - u) >= RELATION_LEAST:
            found.append(RelationClaim(a, "left of" if x < u else "right of", b))
        elif abs(x - u) <= _ALIGNED_MOST and abs(y - v) >= RELATION_LEAST:
            found.append(RelationClaim(a, "above" if y < v else "below", b))
    return tuple(found)
