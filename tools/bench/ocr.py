"""Character error rates of the ``ocr`` stage's Tesseract backend.

    python tools/bench/ocr.py --rendered [--pages 200] [--showcases DIR] [--out tools/bench/results/ocr.json]

--rendered: pages of our own in English and Chinese, with known truth; errors of all characters but white space, lines in order.
--showcases DIR: pictures with ``prompts.jsonl`` (``image``, ``prompt``). What a prompt puts in quotation marks should be in its picture, and nothing is
known of whether it is, nor of other text in it: so the report gives, for each quoted text, the error rate of the part of the reading that is nearest
(Sellers 1980), and how many are there letter by letter. It says how well prompt, picture *and* reading agree. Pictures without a prompt, or without
quotes, list what was read. Variants of one punctuation mark count as equal; letter case does not.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import PIL
from PIL import Image

from ernie_core import io
from ernie_data.captioning.quotes import quoted_parts
from ernie_data.ocr.entries import OcrConfig
from ernie_data.ocr.error_rate import distance, plain
from ernie_data.ocr.lines import Line
from ernie_data.ocr.reader import read_text
from ernie_data.ocr.rendered import render_pages
from ernie_data.ocr.tesseract import Tesseract, TesseractFailed, find_tesseract

CONFIG = OcrConfig()
_LOOSE = re.compile(r"['\"‘“]([^'\"‘’“”]+)['\"’”]")  # opened by one mark and closed by another, as people type


def read(picture: Image.Image, tesseract: Tesseract, timeout_s: float) -> list[Line]:
    config = msgspec.structs.replace(CONFIG.tesseract, timeout_s=timeout_s)
    return read_text(picture.convert("RGB"), tesseract, config, least_confidence=CONFIG.least_confidence)


def rendered(tesseract: Tesseract, pages: int, seed: int, timeout_s: float) -> dict[str, Any]:
    report = {}
    for language in ("en", "zh"):
        errors = characters = 0
        by_font: dict[str, Counter[str]] = {}
        worst: list[tuple[float, dict[str, Any]]] = []
        started = time.perf_counter()
        for page in render_pages(language, count=pages, seed=seed):
            found = "".join(line.text for line in read(page.picture, tesseract, timeout_s))
            truth = plain("".join(page.lines))
            wrong = distance(truth, plain(found))
            errors, characters = errors + wrong, characters + len(truth)
            by_font.setdefault(page.font, Counter()).update(errors=wrong, characters=len(truth))
            about = {"size_px": page.size_px, "font": page.font, "colours": page.colours, "truth": list(page.lines), "found": found}
            worst.append((wrong / len(truth), about))
        worst.sort(key=lambda one: -one[0])
        report[language] = {
            "pages": pages,
            "characters": characters,
            "errors": errors,
            "error_rate": errors / characters,
            "by_font": {font: counts["errors"] / counts["characters"] for font, counts in sorted(by_font.items())},
            "s_per_page": (time.perf_counter() - started) / pages,
            "worst": [{"error_rate": rate, **about} for rate, about in worst[:3] if rate > 0],
        }
    return report


def showcases(folder: Path, tesseract: Tesseract, timeout_s: float) -> dict[str, Any]:
    prompts = {}
    for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompts[row["image"]] = row["prompt"]
    report: dict[str, Any] = {}
    totals: Counter[str] = Counter()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png")):
        started = time.perf_counter()
        try:
            with Image.open(path) as picture:
                lines = read(picture, tesseract, timeout_s)
        except TesseractFailed as failure:
            report[path.name] = {"error": str(failure)}
            continue
        prompt = prompts.get(path.name, "")
        wanted = list(dict.fromkeys(quoted_parts(prompt) or _LOOSE.findall(prompt)))
        whole = plain("".join(line.text for line in lines))
        errors = {text: distance(plain(text), whole, within=True) for text in wanted}
        characters = sum(len(plain(text)) for text in wanted)
        report[path.name] = {
            "quoted": len(wanted),
            "found_exactly": sum(not wrong for wrong in errors.values()),
            "error_rate": sum(errors.values()) / characters if wanted else None,
            "not_exact": {text: wrong for text, wrong in errors.items() if wrong},
            "read": [f"{line.text} ({line.confidence:.2f})" for line in lines],
            "s": time.perf_counter() - started,
        }
        totals.update(
            quoted=len(wanted), found_exactly=report[path.name]["found_exactly"], errors=sum(errors.values()), characters=characters
        )
    rate = totals["errors"] / totals["characters"] if totals["characters"] else None
    return {"pictures": report, "total": {**totals, "error_rate": rate}}


def about(options: argparse.Namespace) -> dict[str, str]:
    """What a result needs to be read later: command, day, machine and versions."""
    given = []
    for name, value in vars(options).items():
        if name not in ("out", "showcases") and value not in (None, False):
            given.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return {
        "command": f"python tools/bench/ocr.py {' '.join(given)}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"CPU, {platform.machine()}",
        "python": platform.python_version(),
        "pillow": PIL.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Character error rates of the Tesseract backend.")
    parser.add_argument("--rendered", action="store_true", help="on pages drawn by ourselves")
    parser.add_argument("--pages", type=int, default=200, help="of each language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--showcases", type=Path, metavar="DIR", help="on pictures with prompts that quote their text")
    parser.add_argument("--timeout-s", type=float, default=120.0, help="for one picture")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    if not options.rendered and options.showcases is None:
        parser.error("nothing to measure: give --rendered, --showcases DIR, or both")
    tesseract = find_tesseract(CONFIG.tesseract.languages)
    report: dict[str, Any] = {**about(options), "tesseract": tesseract.code}
    if options.rendered:
        report["rendered"] = rendered(tesseract, options.pages, options.seed, options.timeout_s)
        for language, row in report["rendered"].items():
            print(
                f"rendered {language}: error rate {row['error_rate']:.4f} over {row['characters']} characters, {row['s_per_page']:.2f} s per page"
            )
    if options.showcases is not None:
        report["showcases"] = showcases(options.showcases, tesseract, options.timeout_s)
        for name, row in report["showcases"]["pictures"].items():
            if "error" in row:
                print(f"{name}: {row['error']}")
            elif row["quoted"]:
                print(
                    f"{name}: error rate {row['error_rate']:.3f}, {row['found_exactly']} of {row['quoted']} quoted texts exact, {row['s']:.1f} s"
                )
            else:
                print(f"{name}: nothing is quoted; read {len(row['read'])} lines, {row['s']:.1f} s")
        total = report["showcases"]["total"]
        rate = "-" if total["error_rate"] is None else f"{total['error_rate']:.3f}"
        print(f"showcases in all: error rate {rate}, {total['found_exactly']} of {total['quoted']} exact")
    if options.out:
        io.write_text(options.out, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
