"""What the caption stages find on ShapeBench with planted defects, and how many captions from pixels are exact.

    python tools/bench/captions.py [--count 2000] [--size 64] [--seed 0] [--out tools/bench/results/captions.json]

A set with wrong captions, captions without their text, copies, corrupt and flawed pictures is written, then built with the stages decode, ocr,
agreement, faithfulness and caption, all with the backend ``shapes``: from pixels and source captions alone. The truth is read afterwards.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import tempfile
import time
from pathlib import Path

import PIL

from ernie_core import io
from ernie_core.api import Selection
from ernie_data.captioning.entries import AgreementConfig, CaptionConfig, FaithfulnessConfig
from ernie_data.captioning.planted import caption_results
from ernie_data.engine.build import build_dataset
from ernie_data.ocr.entries import OcrConfig
from ernie_data.recipe import FolderInput, Recipe, RunOptions
from ernie_data.shapes.defects import write_defective_set
from ernie_data.shapes.entries import DefectPlan

STAGES = (
    Selection("decode"),
    Selection("ocr", OcrConfig(backend="shapes")),
    Selection("agreement", AgreementConfig()),
    Selection("faithfulness", FaithfulnessConfig()),
    Selection("caption", CaptionConfig()),
)


def about(options: argparse.Namespace) -> dict[str, str]:
    """What a result needs to be read later: command, day, machine and versions."""
    given = []
    for name, value in vars(options).items():
        if name not in ("out", "showcases") and value not in (None, False):
            given.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return {
        "command": f"python tools/bench/captions.py {' '.join(given)}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"CPU, {platform.machine()}",
        "python": platform.python_version(),
        "pillow": PIL.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Captions from pixels, and wrong captions found, on ShapeBench with planted defects.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    plan = DefectPlan(
        count=options.count,
        size_px=options.size,
        seed=options.seed,
        wrong_captions=0.1,
        missing_text=0.2,
        duplicates=0.03,
        near_duplicates=0.03,
        corrupt=0.02,
        low_quality=0.05,
    )
    with tempfile.TemporaryDirectory() as scratch:
        raw, built = Path(scratch) / "raw", Path(scratch) / "built"
        write_defective_set(raw, plan)
        source = Selection("folder", FolderInput(path=str(raw / "pictures")))
        started = time.perf_counter()
        build_dataset(Recipe(sources=(source,), stages=STAGES, run=RunOptions(workers=options.workers)), built)
        elapsed_s = time.perf_counter() - started
        results = caption_results(built, raw).to_json()
    report = {
        **about(options),
        "count": options.count,
        "size_px": options.size,
        "seed": options.seed,
        "build_s": round(elapsed_s, 1),
        **results,
    }
    print(json.dumps(report, indent=2))
    if options.out:
        io.write_text(options.out, json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
