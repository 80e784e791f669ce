"""``ernie data report``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ernie_core import io
from ernie_data.reading.dataset import Dataset, open_dataset
from ernie_data.reasons import ReasonCode
from ernie_data.report.content import make_content
from ernie_data.report.page import report_html
from ernie_data.report.truth import Found, copies_found, flagged, matched_names, read_truth
from ernie_data.sampling.config import SamplingConfig, read_sampling
from ernie_data.tables import KEY, Row

if TYPE_CHECKING:
    from ernie_core.api import App

DAMAGED = (ReasonCode.EMPTY_FILE, ReasonCode.NOT_A_PICTURE, ReasonCode.HEADER_DAMAGED, ReasonCode.PICTURE_DAMAGED)
_QUOTED = re.compile(r"[\"“”„«‹「『‘][^\"“”„«»‹›「」『』‘’]+[\"”“»›」』’]")
AGREES_FROM = 0.5
"""A caption with a lower ``caption_agreement`` is taken for a wrong one."""


def run(arguments: argparse.Namespace, app: App) -> int:
    """Exit code 0.

    Raises:
        DataError: no build, damaged tables, or a truth file of something else.
        ConfigError: a wrong sampling config.
        StorageError: the page cannot be written.
    """
    dataset = open_dataset(arguments.folder)
    config: SamplingConfig = read_sampling(arguments.config) if arguments.config else SamplingConfig()
    if arguments.draws:
        config = msgspec.structs.replace(config, draws=arguments.draws)
    truth = list(_truth(dataset, arguments.truth)) if arguments.truth else []
    content = make_content(dataset, config, truth)
    out: Path = arguments.out or arguments.folder / "report.html"
    page = report_html(content)
    io.write_text(out, page)
    app.out(f"{out}: {content.records} records = {content.facts.accepted} accepted + {content.records - content.facts.accepted} rejected")
    for found in truth:
        app.out(f"  {found.kind}: {_words(found)}")
    return 0


def _words(found: Found) -> str:
    shares = (("precision", found.precision), ("recall", found.recall))
    parts = [f"{name} {i.value:.3f} [{i.low:.3f}, {i.high:.3f}]" if i else f"{name} -" for name, i in shares]
    return f"{', '.join(parts)}; {found.hits} found, {found.misses} missed, {found.false_alarms} false alarms"


def _truth(dataset: Dataset, path: Path) -> Iterator[Found]:
    """Each kind of defect that a stage of this build looks for."""
    planted = read_truth(path)
    wanted = [
        n
        for n in ("error", "stage", "detail", "pixel_sha256", "caption_agreement", "captions", "source_captions", "ocr_text")
        if n in dataset.columns
    ]
    rows: dict[str, Row] = {row[KEY]: row for row in dataset.rows([KEY, *wanted], which="all")}
    names = matched_names(rows, planted, path)
    named = {names[key]: row for key, row in rows.items() if key in names}
    yield flagged("corrupt", planted, _those(named, lambda row: row.get("error") in DAMAGED), asked=named)
    removed = _those(named, lambda row: row.get("error") == ReasonCode.DUPLICATE)
    order = [stage.name for stage in dataset.stages]
    refusing = {named[name]["stage"] for name in removed}
    if refusing:
        first = min(order.index(stage) for stage in refusing)
        asked = _those(named, lambda row: "error" not in row or order.index(row["stage"]) >= first)
        pixels = {name: row["pixel_sha256"] for name, row in named.items() if "pixel_sha256" in row}
        yield copies_found(planted, removed, asked=asked, pixels=pixels)
    judged = _those(named, lambda row: "caption_agreement" in row)
    if judged:
        yield flagged("wrong_caption", planted, _those(named, lambda row: row.get("caption_agreement", 1.0) < AGREES_FROM), asked=judged)
    if "ocr_text" in dataset.columns:
        # Of a picture with another's captions, these rightly say nothing: it is neither a hit nor a false alarm.
        others = {p.name for p in planted if p.defect == "wrong_caption"}
        read = _those(named, lambda row: "ocr_text" in row) - others
        yield flagged("missing_text", planted, _those(named, _says_nothing_of_its_text), asked=read)


def _those(rows: dict[str, Row], wanted: Callable[[Row], bool]) -> set[str]:
    return {name for name, row in rows.items() if wanted(row)}


def _says_nothing_of_its_text(row: Row) -> bool:
    """Text was read in the picture, and no caption that came with it quotes anything or holds any of that text."""
    captions = row.get("source_captions") or row.get("captions") or {}
    told = " ".join(" ".join(captions.values()).casefold().split())
    texts = [text for text in (" ".join(text.casefold().split()) for text in row.get("ocr_text", ())) if text]
    return bool(texts) and not _QUOTED.search(told) and not any(text in told for text in texts)
