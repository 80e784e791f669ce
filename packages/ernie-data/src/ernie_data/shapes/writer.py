"""Write a ShapeBench set to disk: PNG files and ``metadata.jsonl``, readable by the data source `folder` and by other tools."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from ernie_core.api import DataError
from ernie_core.io import commit_folder, read_manifest, verify_folder
from ernie_data.shapes.captions import captions_by_style
from ernie_data.shapes.profile import Profile
from ernie_data.shapes.render import render
from ernie_data.shapes.scene import draw_scene

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
        _check_same(out, facts)
        return False
    lines = []
    with commit_folder(out, needed_bytes=count * 4 * size_px**2 // 2, facts={FACTS: facts}) as folder:
        for start in range(0, count, _CHUNK):
            indices = range(start, min(start + _CHUNK, count))
            scenes = [draw_scene(profile, seed=seed, split=split, index=i) for i in indices]
            for index, scene, pixels in zip(indices, scenes, render(scenes, size_px)):
                name = f"{index // _PICTURES_PER_FOLDER:03d}/{index:06d}.png"
                encoded = io.BytesIO()
                Image.fromarray(pixels).save(encoded, format="PNG")
                folder.add_bytes(name, encoded.getvalue())
                styles = captions_by_style(scene.triples(), index=index)
                row = {
                    "file_name": name,
                    "text": styles["request"],
                    **{f"text_{style}": text for style, text in styles.items()},
                    "objects": [t._asdict() for t in scene.triples()],
                }
                lines.append(json.dumps(row, ensure_ascii=False))
            progress(len(lines))
        folder.add_bytes("metadata.jsonl", ("\n".join(lines) + "\n").encode())
    return True


def _check_same(out: Path, facts: dict[str, object]) -> None:
    if not (out / "manifest.json").is_file() or FACTS not in read_manifest(out):
        raise DataError(f"{out}: exists and is no ShapeBench set; choose another folder")
    found = read_manifest(out)[FACTS]
    if found != facts:
        different = ", ".join(f"{k} = {found.get(k)!r} (asked for: {v!r})" for k, v in facts.items() if found.get(k) != v)
        raise DataError(f"{out}: holds a ShapeBench set with {different}; choose another folder, or remove it")
    if problem := verify_folder(out):
        raise DataError(f"{problem}. The set was not used; remove {out} and run the command again.")
