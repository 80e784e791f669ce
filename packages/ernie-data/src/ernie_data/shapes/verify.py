"""The exact verifier of ShapeBench: what is in a picture, without anything learned.

Pixels that differ from the light background in Lab form components; a component's colour is the nearest palette entry to its core; its soft mask
is compared with the analytic template of every shape, each placed by the component's own area and centroid, by intersection over union.

The limits below are wide on purpose: the verifier must read blurred, slightly miscoloured samples of a model as an eye does, and say "none" for
what an eye would not name either.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_data.shapes.components import connected_components, grow
from ernie_data.shapes.geometry import GEOMETRY, coverage
from ernie_data.shapes.lettering import TAKEN, SeenText, take_signs
from ernie_data.shapes.palette import palette_lab, to_lab
from ernie_data.shapes.profile import Profile, Triple

BACKGROUND_MIN_LIGHTNESS, BACKGROUND_MAX_CHROMA, BACKGROUND_MIN_SHARE = 75.0, 20.0, 0.15
FOREGROUND_DISTANCE, SMOOTH_FOREGROUND_DISTANCE = 26.0, 15.0
"""Lab distance from the background: of the pixel itself, and of its 3x3 binomial mean. A pixel of pure noise rarely exceeds both."""
SPECK_SHARE = 0.12
"""Components below this share of the smallest legal object's area are ignored."""
MAX_COLOUR_DISTANCE = 50.0
MIN_COLOUR_PURITY = 0.6
"""At least this share of the core's pixels must have the object's colour: a half red, half blue object has none."""
COLOUR_SLACK = 15.0
"""A pixel has the object's colour unless another palette entry is nearer by more than this: noise between blue and purple is no second colour."""
EDGE_CONTRAST = 2.0
"""Soft masks are compared after this contrast about one half: an evenly blurred outline costs little, a ragged one its full price."""
MIN_SHAPE_IOU = 0.8
"""Clean renders reach .9, noisy ones .84, well-trained samples .9; the ragged blobs of a model that has not learned shapes stay mostly below."""
_CHUNK = 128


@dataclass(frozen=True)
class SeenObject:
    """One object as the verifier reads it; a tag is None where it fits nothing."""

    shape: str | None
    colour: str | None
    cell: str | None
    iou: float  # with the best template, whether accepted or not
    colour_distance: float  # Lab, to the nearest palette entry
    colour_purity: float
    centre: tuple[float, float]  # of the bounding box, in picture sides
    size: float  # of the bounding box
    best_shape: str


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what was asked for. With another number of objects than asked for, all three tags are wrong."""

    colour: bool
    shape: bool
    position: bool
    objects: int

    @property
    def right(self) -> bool:
        return self.colour and self.shape and self.position


@dataclass(frozen=True)
class Seen:
    """Everything in a picture: objects, largest first, and signs from the top."""

    objects: tuple[SeenObject, ...]
    texts: tuple[SeenText, ...] = ()


def look(pixels_BHW3: NDArray[np.uint8], profile: Profile) -> list[tuple[SeenObject, ...]]:
    """The objects of each square uint8 picture, largest first.

    Raises:
        DataError: another shape or dtype.
    """
    return [seen.objects for seen in look_all(pixels_BHW3, profile)]


def look_all(pixels_BHW3: NDArray[np.uint8], profile: Profile) -> list[Seen]:
    """Objects and signs of each square uint8 picture. Signs are looked for if the profile has any.

    Raises:
        DataError: another shape or dtype.
    """
    if pixels_BHW3.ndim != 4 or pixels_BHW3.shape[1] != pixels_BHW3.shape[2] or pixels_BHW3.shape[3] != 3 or pixels_BHW3.dtype != np.uint8:
        raise DataError(f"the verifier reads square uint8 pictures [B, H, H, 3], found {pixels_BHW3.dtype} {list(pixels_BHW3.shape)}")
    seen: list[Seen] = []
    for start in range(0, len(pixels_BHW3), _CHUNK):
        seen += _look(pixels_BHW3[start : start + _CHUNK].astype(np.float32) / 255, profile)
    return seen


def judge(seen: Sequence[SeenObject], wanted: Sequence[Triple]) -> Verdict:
    """Compare with the objects a caption names. Several objects are matched so that most tags agree; a tag holds if all objects have it right."""
    if len(seen) != len(wanted):
        return Verdict(False, False, False, len(seen))
    tags = [
        [(s.colour == w.colour, s.shape == w.shape, s.cell == w.cell) for s, w in zip(order, wanted)]
        for order in itertools.permutations(seen)
    ]
    best = max(tags, key=lambda matched: sum(map(sum, matched)))
    colour, shape, position = (all(column) for column in zip(*best))
    return Verdict(colour, shape, position, len(seen))


def _look(rgb_BHW3: NDArray[np.float32], profile: Profile) -> list[Seen]:
    size_px = rgb_BHW3.shape[1]
    background_B3, known_B = _backgrounds(rgb_BHW3)
    base_lab = to_lab(background_B3)[:, None, None]
    distance_BHW = np.linalg.norm(to_lab(rgb_BHW3) - base_lab, axis=-1)
    smooth_BHW = np.linalg.norm(to_lab(_binomial(rgb_BHW3)) - base_lab, axis=-1)
    mask_BHW = (distance_BHW > FOREGROUND_DISTANCE) & (smooth_BHW > SMOOTH_FOREGROUND_DISTANCE) & known_B[:, None, None]
    labels_BHW = connected_components(mask_BHW)
    texts: list[tuple[SeenText, ...]] = [() for _ in rgb_BHW3]
    if profile.max_glyphs:
        labels_BHW, texts = take_signs(rgb_BHW3, labels_BHW)
    smallest_px = SPECK_SHARE * min(GEOMETRY[s].area for s in profile.shapes) * profile.object_sizes[0] ** 2 * size_px**2
    places = []  # (picture, label) of each component that is no speck
    for b, labels_HW in enumerate(labels_BHW):
        names, counts = np.unique(labels_HW[labels_HW > 0], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        places += [(b, names[i]) for i in order if counts[i] >= smallest_px]
    found: list[list[SeenObject]] = [[] for _ in rgb_BHW3]
    if places:
        of_K = np.array([b for b, _ in places])
        label_K11 = np.array([label for _, label in places])[:, None, None]
        kept_BHW = np.zeros_like(labels_BHW)
        np.maximum.at(kept_BHW, of_K, np.where(labels_BHW[of_K] == label_K11, label_K11, 0))
        kept_BHW[labels_BHW < 0] = TAKEN
        own_KHW = kept_BHW[of_K] == label_K11
        region_KHW = grow(kept_BHW, rounds=2)[of_K] == label_K11
        colours = _colours(rgb_BHW3[of_K], distance_BHW[of_K], own_KHW, profile)
        objects = _read(rgb_BHW3[of_K], background_B3[of_K], colours, region_KHW, profile)
        for b, seen in zip(of_K, objects):
            found[b].append(seen)
    return [Seen(tuple(objects), signs) for objects, signs in zip(found, texts)]


def _backgrounds(rgb_BHW3: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Median colour of each picture's light neutral pixels, and whether there are enough of them to call it a background."""
    lab = to_lab(rgb_BHW3)
    light_BHW = (lab[..., 0] > BACKGROUND_MIN_LIGHTNESS) & (np.hypot(lab[..., 1], lab[..., 2]) < BACKGROUND_MAX_CHROMA)
    known_B = light_BHW.mean(axis=(1, 2)) >= BACKGROUND_MIN_SHARE
    colours = [np.median(rgb[light], axis=0) if known else np.ones(3) for rgb, light, known in zip(rgb_BHW3, light_BHW, known_B)]
    return np.array(colours, np.float32), known_B


def _binomial(rgb_BHW3: NDArray[np.float32]) -> NDArray[np.float32]:
    """3x3 binomial mean with replicated borders."""
    p = np.pad(rgb_BHW3, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    p = (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]) / 4
    return (p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]) / 4


def _read(rgb_KHW3: NDArray, background_K3: NDArray, colours: Sequence[Colour], region_KHW: NDArray, profile: Profile) -> list[SeenObject]:
    """Shape, position and size of K objects, given their colours. ``region_KHW``: where each object's soft mask may lie."""
    size_px = rgb_KHW3.shape[1]
    colour_K3 = np.array([c.rgb for c in colours], np.float32)
    towards_K3 = colour_K3 - background_K3
    length_K = np.maximum((towards_K3**2).sum(axis=-1), 1e-6)
    alpha_KHW = np.einsum("khwc,kc->khw", rgb_KHW3 - background_K3[:, None, None], towards_K3) / length_K[:, None, None]
    alpha_KHW = np.where(region_KHW, np.clip(alpha_KHW, 0.0, 1.0), 0.0)

    at = (np.arange(size_px) + 0.5) / size_px
    mass_K = np.maximum(alpha_KHW.sum(axis=(1, 2)), 1e-6)
    x_K, y_K = (alpha_KHW.sum(axis=1) @ at) / mass_K, (alpha_KHW.sum(axis=2) @ at) / mass_K
    area_K = mass_K / size_px**2
    mask_KHW = _contrasted(alpha_KHW)
    iou_SK, centre_SK2, size_SK = [], [], []
    for shape in profile.shapes:
        geometry = GEOMETRY[shape]
        size_K = np.sqrt(area_K / geometry.area)
        centre_K2 = np.stack([x_K, y_K - geometry.centroid_y * size_K], axis=-1)
        template_KHW = _contrasted(coverage(shape, centre_K2, size_K, size_px))
        union_K = np.maximum(np.maximum(mask_KHW, template_KHW).sum(axis=(1, 2)), 1e-6)
        iou_SK.append(np.minimum(mask_KHW, template_KHW).sum(axis=(1, 2)) / union_K)
        centre_SK2.append(centre_K2)
        size_SK.append(size_K)
    best_K = np.argmax(iou_SK, axis=0)
    seen = []
    for k, (best, colour) in enumerate(zip(best_K, colours)):
        iou, centre = float(iou_SK[best][k]), (float(centre_SK2[best][k, 0]), float(centre_SK2[best][k, 1]))
        shape = profile.shapes[best]
        accepted = shape if iou >= MIN_SHAPE_IOU else None
        cell, size = nearest_cell(centre, profile), float(size_SK[best][k])
        seen.append(SeenObject(accepted, colour.name, cell, iou, colour.distance, colour.purity, centre, size, shape))
    return seen


def _contrasted(share_KHW: NDArray) -> NDArray:
    return np.clip((share_KHW - 0.5) * EDGE_CONTRAST + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class Colour:
    """An object's colour: ``rgb`` of its core, its palette name or None, the Lab distance to it and the share of the core that agrees."""

    rgb: NDArray[np.float32]
    name: str | None
    distance: float
    purity: float


def _colours(rgb_KHW3: NDArray, distance_KHW: NDArray, own_KHW: NDArray, profile: Profile) -> list[Colour]:
    """The core is what lies at least three quarters as far from the background as the object's far end: anti-aliased borders are left out."""
    palette = palette_lab(profile.colours)
    found = []
    for rgb_HW3, distance_HW, own_HW in zip(rgb_KHW3, distance_KHW, own_KHW):
        core_HW = own_HW & (distance_HW >= 0.75 * np.quantile(distance_HW[own_HW], 0.9))
        rgb = np.median(rgb_HW3[core_HW], axis=0)
        to_palette = np.linalg.norm(palette - to_lab(rgb), axis=-1)
        nearest = int(np.argmin(to_palette))
        each_NC = np.linalg.norm(to_lab(rgb_HW3[core_HW])[:, None] - palette, axis=-1)
        purity = float(np.mean(each_NC[:, nearest] <= each_NC.min(axis=1) + COLOUR_SLACK))
        accepted = to_palette[nearest] <= MAX_COLOUR_DISTANCE and purity >= MIN_COLOUR_PURITY
        found.append(Colour(rgb, profile.colours[nearest] if accepted else None, float(to_palette[nearest]), purity))
    return found


def nearest_cell(centre: tuple[float, float], profile: Profile) -> str | None:
    """The cell whose centre is within the profile's tolerance, or None between cells."""
    for cell, (x, y) in profile.cells.items():
        if max(abs(centre[0] - x), abs(centre[1] - y)) <= profile.position_tolerance:
            return cell
    return None
