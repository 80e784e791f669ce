"""Write a ShapeBench set to disk: PNG files and ``metadata.jsonl``, readable by the data source `folder` and by other tools."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ernie_core.api import DataError
from ernie_core.io import commit_folder, read_manifest, verify_folder
from ernie_data.shapes.phrases import scene_captions
from ernie_data.shapes.profile import Profile
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import Scene, draw_scene

FACTS = "shapebench"
_PICTURES_PER_FOLDER = 1000
_CHUNK = 64


def write_set(
    out: Path, profile: Profile, *, count: int, size_px: int, seed: int, split: str, progress: Callable[[int], object] = lambda done: None
) -> bool:
    """Write ``count`` pictures under ``out``, which appears whole or not at all. A whole set with the same settings is kept.

    Returns:
        whether anything was written.

    Raises:
        DataError: ``out`` holds something else, or a set with other settings or damaged files.
        StorageError: see ``ernie_core.io``.
    """
    facts = {"profile": profile.name, "count": count, "size_px": size_px, "seed": seed, "split": split, "version": 1}
    if out.exists():
        check_same(out, facts)
        return False
    lines = []
    with commit_folder(out, needed_bytes=count * 4 * size_px**2 // 2, facts={FACTS: facts}) as folder:
        for start in range(0, count, _CHUNK):
            indices = range(start, min(start + _CHUNK, count))
            scenes = [draw_scene(profile, seed=seed, split=split, index=i) for i in indices]
            for index, scene, pixels in zip(indices, scenes, render(scenes, size_px)):
                name = f"{index // _PICTURES_PER_FOLDER:03d}/{index:06d}.png"
                folder.add_bytes(name, encode_png(pixels))
                styles = scene_captions(scene, index=index)
                row = {
                    "file_name": name,
                    "text": styles["request"],
                    **{f"text_{style}": text for style, text in styles.items()},
                    **scene_facts(scene),
                }
                lines.append(json.dumps(row, ensure_ascii=False))
            progress(len(lines))
        folder.add_bytes("metadata.jsonl", ("\n".join(lines) + "\n").encode())
    return True


def encode_png(pixels_HW3: NDArray[np.uint8]) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels_HW3).save(encoded, format="PNG")
    return encoded.getvalue()


def scene_facts(scene: Scene) -> dict[str, object]:
    """What a scene shows, as JSON: its objects and, for a profile with kinds of scenes, kind, relations and text."""
    facts: dict[str, object] = {"objects": [t._asdict() for t in scene.triples()]}
    if scene.told is not None:
        facts["kind"] = scene.kind
        facts["category"] = scene.category
        facts["relations"] = [str(r) for r in scene.told.relations]
        facts["sign"] = None if scene.sign is None else {"text": scene.sign.text, "row": scene.sign.row}
    return facts


def check_same(out: Path, facts: dict[str, object]) -> None:
    """A finished set is kept only if it is whole and was written with the same settings.

    Raises:
        DataError: saying what differs, or what is damaged.
    """
    if not (out / "manifest.json").is_file() or FACTS not in read_manifest(out):
        raise DataError(f"{out}: exists and is no ShapeBench set; choose another folder")
    found = read_manifest(out)[FACTS]
    if found != facts:
        different = ", ".join(f"{k} = {found.get(k)!r} (asked for: {v!r})" for k, v in facts.items() if found.get(k) != v)
        raise DataError(f"{out}: holds a ShapeBench set with {different}; choose another folder, or remove it")
    if problem := verify_folder(out):
        raise DataError(f"{problem}. The set was not used; remove {out} and run the command again.")
