"""Raw sets with planted defects and known truth, so that what curation finds can be counted against what is there.

``OUT/pictures`` is a plain folder of pictures with ``metadata.jsonl``, as a user's would be; ``OUT/truth.jsonl`` lies outside it and says for every
file what it shows, what its captions should claim, its quality, its defect and, for a copy, which file it copies.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_core.api import ConfigError, to_plain
from ernie_core.io import commit_folder
from ernie_core.rng import Rng
from ernie_data.shapes.claims import Claims
from ernie_data.shapes.entries import DefectPlan
from ernie_data.shapes.flaws import FLAWS, Flaw
from ernie_data.shapes.judge import shows
from ernie_data.shapes.phrases import claims_by_style, scene_captions
from ernie_data.shapes.profile import Profile, profile
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import Bias, Scene, draw_scene
from ernie_data.shapes.writer import FACTS, check_same, encode_png, scene_facts

COPIES = ("jpeg 60", "jpeg 75", "jpeg 90", "smaller", "larger", "brighter", "darker", "cropped")
DAMAGES = ("truncated", "zeros", "not a picture", "header bit")
_PICTURES_PER_FOLDER = 1000
_PNG_HEADER_BYTES = 33  # signature and the chunk with width and height


@dataclass(frozen=True)
class Planned:
    """One file. ``scene``: what its picture shows. ``of``: the index of the file it copies."""

    scene: Scene
    captions: Mapping[str, str]
    defect: str = ""
    detail: str = ""
    of: int | None = None


def write_defective_set(out: Path, plan: DefectPlan, *, progress: Callable[[int], object] = lambda done: None) -> bool:
    """Write the set a plan describes; ``out`` appears whole or not at all. A whole set of the same plan is kept.

    Returns:
        whether anything was written.

    Raises:
        DataError: ``out`` holds something else, or a set of another plan or with damaged files.
        ConfigError: the plan's bias leaves no scene that can be drawn.
        StorageError: see ``ernie_core.io``.
    """
    facts = {**to_plain(plan), "what": "defective set", "version": 1}
    if out.exists():
        check_same(out, facts)
        return False
    files = plan_files(plan)
    names = [_name(i, f) for i, f in enumerate(files)]
    metadata, truth = [], []
    with commit_folder(out, needed_bytes=plan.count * 4 * plan.size_px**2 // 2, facts={FACTS: facts}) as folder:
        for index, (file, name) in enumerate(zip(files, names)):
            folder.add_bytes(f"pictures/{name}", _encoded(file, plan, index))
            named = {f"text_{style}": text for style, text in file.captions.items()}
            metadata.append({"file_name": name, "text": file.captions["request"], **named})
            truth.append({"file_name": name, **_truth(file, index, names)})
            progress(index + 1)
        for path, rows in (("pictures/metadata.jsonl", metadata), ("truth.jsonl", truth)):
            folder.add_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return True


def plan_files(plan: DefectPlan) -> list[Planned]:
    """Every file of the set, a pure function of the plan.

    Raises:
        ConfigError: see ``write_defective_set``.
    """
    chosen = profile(plan.profile)
    bias = plan_bias(plan, chosen)
    scenes = [_with_quality(draw_scene(chosen, seed=plan.seed, split=plan.split, index=i, bias=bias), plan, i) for i in range(plan.count)]
    files = [Planned(s, scene_captions(s, index=i)) for i, s in enumerate(scenes)]
    generator = Rng(plan.seed).at("shapes/defects", 0).generator(0)
    order = generator.permutation(plan.count).tolist()

    def take(share: float) -> list[int]:
        taken, order[:] = order[: round(share * plan.count)], order[round(share * plan.count) :]
        return taken

    wrong, copies, near = take(plan.wrong_captions), take(plan.duplicates), take(plan.near_duplicates)
    corrupt, low = take(plan.corrupt), take(plan.low_quality)
    sound = sorted(order)
    for i in wrong:
        files[i] = _wrongly_captioned(i, scenes, generator)
    for n, i in enumerate(corrupt):
        files[i] = replace(files[i], defect="corrupt", detail=DAMAGES[n % len(DAMAGES)])
    for n, i in enumerate(low):
        flaw = Flaw(FLAWS[n % len(FLAWS)], float(generator.uniform(0.5, 1)), i)
        files[i] = replace(files[i], scene=replace(scenes[i], flaw=flaw), defect="low_quality", detail=flaw.kind)
    signed = [i for i in sound if scenes[i].sign is not None]
    for i in generator.permutation(signed)[: round(plan.missing_text * len(signed))].tolist():
        told = scenes[i].claims()
        silent = claims_by_style(Claims(told.objects, told.counts, told.relations), index=i)
        files[i] = replace(files[i], captions=silent, defect="missing_text")
    sound = [i for i in sound if not files[i].defect]
    for n, (i, kind) in enumerate([*((i, "duplicate") for i in copies), *((i, "near_duplicate") for i in near)]):
        of = sound[int(generator.integers(len(sound)))]
        detail = COPIES[n % len(COPIES)] if kind == "near_duplicate" else ""
        files[i] = Planned(files[of].scene, files[of].captions, kind, detail, of)
    return files


def plan_bias(plan: DefectPlan, chosen: Profile) -> Bias | None:
    """The weights of what scenes show, or None for uniform draws.

    Over-representation adds to a pair's weight until it has the planned share of all.
    """
    pairs: dict[tuple[str, str], float] = {}
    if plan.zipf > 0 or plan.over_represented > 0:
        every = list(itertools.product(chosen.shapes, chosen.colours))
        ranks = Rng(plan.seed).at("shapes/zipf", 0).generator(0).permutation(len(every)) + 1
        weights = ranks.astype(float) ** -plan.zipf
        pairs = {p: float((1 - plan.over_represented) * w / weights.sum()) for p, w in zip(every, weights)}
        if plan.over_represented > 0:
            over = (plan.over_shape, plan.over_colour)
            if over not in pairs:
                raise ConfigError(f"over_represented: profile {chosen.name} has no {over[1]} {over[0]}")
            pairs[over] += plan.over_represented
    counts = {n: (n - 1) ** -plan.counts_zipf for n in range(2, chosen.max_objects + 1)} if plan.counts_zipf > 0 else {}
    return Bias(pairs, counts) if pairs or counts else None


def near_copy(pixels_HW3: NDArray[np.uint8], kind: str) -> bytes:
    """The encoded picture, changed as ``COPIES`` says; JPEG keeps colour at full resolution, everything else is PNG."""
    image = Image.fromarray(pixels_HW3)
    if kind.startswith("jpeg"):
        encoded = io.BytesIO()
        image.save(encoded, format="JPEG", quality=int(kind.split()[1]), subsampling=0)
        return encoded.getvalue()
    side = len(pixels_HW3)
    if kind in ("smaller", "larger"):
        other = side + max(1, round(0.05 * side)) * (1 if kind == "larger" else -1)
        return encode_png(np.asarray(image.resize((other, other), Image.Resampling.BICUBIC)))
    if kind == "cropped":
        return encode_png(pixels_HW3[1:-1, 1:-1])
    changed = pixels_HW3 * (1.04 if kind == "brighter" else 0.94)
    return encode_png(np.rint(np.clip(changed, 0, 255)).astype(np.uint8))


def damaged(data: bytes, kind: str, *, index: int) -> bytes:
    """A PNG file that no decoder should accept as a whole picture."""
    if kind == "truncated":
        return data[: len(data) * (2 + index % 5) // 8]
    if kind == "zeros":
        return data[:_PNG_HEADER_BYTES] + bytes(len(data) - _PNG_HEADER_BYTES)
    if kind == "not a picture":
        return b"<!doctype html><title>404</title><p>The picture is not here any more.</p>\n"
    # Signature, length, name, width and height: 24 bytes, guarded by the header's checksum.
    position, bit = index % 24, (index // 24) % 8
    return data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]


def _with_quality(scene: Scene, plan: DefectPlan, index: int) -> Scene:
    if plan.sound_quality == 1.0:
        return scene
    generator = Rng(plan.seed).at("shapes/sound_quality", 0).generator(index)
    strength = float(generator.uniform(0, 1 - plan.sound_quality))
    return replace(scene, flaw=Flaw(FLAWS[int(generator.integers(len(FLAWS)))], strength, index))


def _wrongly_captioned(index: int, scenes: Sequence[Scene], generator: np.random.Generator) -> Planned:
    """The captions of another scene whose claims this scene does not meet."""
    mine = scenes[index]
    for other in generator.permutation(len(scenes))[:100].tolist():
        if not shows(mine, scenes[other].claims()):
            return Planned(mine, scene_captions(scenes[other], index=index), "wrong_caption", str(scenes[other].claims()))
    raise ConfigError("wrong_captions: no other scene's captions are wrong for a scene; ask for more pictures")


def _encoded(file: Planned, plan: DefectPlan, index: int) -> bytes:
    pixels = render([file.scene], plan.size_px)[0]
    if file.defect == "near_duplicate":
        return near_copy(pixels, file.detail)
    data = encode_png(pixels)
    return damaged(data, file.detail, index=index) if file.defect == "corrupt" else data


def _name(index: int, file: Planned) -> str:
    suffix = "jpg" if file.detail.startswith("jpeg") else "png"
    return f"{index // _PICTURES_PER_FOLDER:03d}/{index:06d}.{suffix}"


def _truth(file: Planned, index: int, names: Sequence[str]) -> dict[str, object]:
    scene = file.scene
    return {
        **scene_facts(scene),
        "category": scene.category,
        "captions": scene_captions(scene, index=index if file.of is None else file.of),
        "quality": round(scene.quality, 6),
        "flaw": None if scene.flaw is None else scene.flaw.kind,
        "defect": file.defect or None,
        "detail": file.detail or None,
        "original": None if file.of is None else names[file.of],
    }
