"""What the stages about captions find in a set with planted defects, counted against its truth. The truth is read here alone, never by a stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ernie_data.reading.dataset import open_dataset
from ernie_data.shapes.parse import parse_caption
from ernie_data.tables import KEY

Row = Mapping[str, Any]
STYLE = "request"


@dataclass(frozen=True)
class Hits:
    """Alarms against the truth. A precision without alarms, or a recall without anything to find, is 1."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        return self.right / (self.right + self.wrong) if self.right + self.wrong else 1.0

    @property
    def recall(self) -> float:
        return self.right / (self.right + self.missed) if self.right + self.missed else 1.0

    def to_json(self) -> dict[str, float | int]:
        return {"precision": self.precision, "recall": self.recall, "right": self.right, "wrong": self.wrong, "missed": self.missed}


@dataclass(frozen=True)
class CaptionResults:
    """
    Args:
        clean: sound pictures that reached the captioner; ``exact``: those whose caption names exactly the objects, places and text that are there.
        captioned: of all pictures that reached it, defects included.
        not_judged: pictures whose captions ``agreement`` could not judge.
    """

    pictures: int
    captioned: int
    clean: int
    exact: int
    wrong_captions: Hits
    missing_text: Hits
    not_judged: int
    inexact: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "pictures": self.pictures,
            "captioned": self.captioned,
            "clean": self.clean,
            "exact": self.exact,
            "exact_share": self.exact / self.clean if self.clean else None,
            "wrong_captions": self.wrong_captions.to_json(),
            "missing_text": self.missing_text.to_json(),
            "not_judged": self.not_judged,
            "inexact": list(self.inexact[:10]),
        }


def caption_results(build: Path, defective_set: Path) -> CaptionResults:
    """Count a build with the stages ocr, agreement, faithfulness (before the captioner) and caption over a set of ``write_defective_set``.

    A caption lacks text if the picture has a sign and the caption does not quote it, whatever else is wrong with the caption.
    """
    truth = {row["file_name"]: row for row in _json_lines(defective_set / "truth.jsonl")}
    given = {row["file_name"]: row["text"] for row in _json_lines(defective_set / "pictures" / "metadata.jsonl")}
    columns = [KEY, "captions", "captioner", "caption_agreement", "faithfulness"]
    rows = {str(row[KEY]).partition("/")[2]: row for row in open_dataset(build).rows(columns)}
    clean = [name for name in rows if truth[name]["defect"] in (None, "wrong_caption", "missing_text") and truth[name]["flaw"] is None]
    inexact = tuple(sorted(name for name in clean if not is_exact(rows[name], truth[name])))
    return CaptionResults(
        pictures=len(rows),
        captioned=sum(row.get("captioner") == "shapes" for row in rows.values()),
        clean=len(clean),
        exact=len(clean) - len(inexact),
        wrong_captions=_hits(
            rows, lambda row: row.get("caption_agreement", 1.0) < 0.5, lambda name: truth[name]["defect"] == "wrong_caption"
        ),
        missing_text=_hits(rows, lambda row: row.get("faithfulness", 1.0) < 1, lambda name: _lacks_text(truth[name], given[name])),
        not_judged=sum("caption_agreement" not in row for row in rows.values()),
        inexact=inexact,
    )


def is_exact(row: Row, truth: Row) -> bool:
    """Whether the captioner's caption, parsed, claims exactly the objects with their places and the text that the picture was drawn from."""
    claims = parse_caption(row.get("captions", {}).get(STYLE, "")) if row.get("captioner") == "shapes" else None
    if claims is None or claims.counts or claims.relations:
        return False
    objects = sorted((o["shape"], o["colour"], o["cell"]) for o in truth["objects"])
    sign = truth.get("sign")
    return sorted(claims.objects) == objects and [tuple(t) for t in claims.texts] == ([(sign["text"], sign["row"])] if sign else [])


def _lacks_text(truth: Row, caption: str) -> bool:
    sign = truth.get("sign")
    return sign is not None and f'"{sign["text"]}"' not in caption


def _hits(rows: Mapping[str, Row], alarm: Callable[[Row], bool], planted: Callable[[str], bool]) -> Hits:
    pairs = [(alarm(row), planted(name)) for name, row in rows.items()]
    return Hits(sum(a and p for a, p in pairs), sum(a and not p for a, p in pairs), sum(p and not a for a, p in pairs))


def _json_lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
