"""What ernie-data offers to the plugin host. Light: no torch, no Pillow."""

from __future__ import annotations

from collections.abc import Iterator

from ernie_core.api import Command, Entry, EnvironmentCheck, hookimpl
from ernie_data.captioning import entries as captioning
from ernie_data.category import entries as category
from ernie_data.config import FolderConfig, ShapesConfig
from ernie_data.duplicates import entries as duplicates
from ernie_data.embed import entries as embed
from ernie_data.loading import entries as loading
from ernie_data.ocr import entries as ocr
from ernie_data.rewriting import entries as rewriting
from ernie_data.scoring import entries as scoring
from ernie_data.shapes.entries import ShapeBenchConfig, ShapesAgreementConfig, ShapesQualityConfig
from ernie_data.stages import entries as stages
from ernie_data.topdown import entries as topdown

ERNIE_API = (0, 1)


@hookimpl
def ernie_register_data_sources() -> Iterator[Entry]:
    yield Entry("folder", "a folder of images with captions in a.txt or metadata.jsonl", FolderConfig, "ernie_data.sources.folder:build")
    yield Entry("shapes", "ShapeBench: procedural scenes with an exact verifier", ShapesConfig, "ernie_data.sources.shapes:build")
    yield from loading.SOURCES


@hookimpl
def ernie_register_caches() -> Iterator[Entry]:
    yield from loading.CACHES


@hookimpl
def ernie_register_data_stages() -> Iterator[Entry]:
    for family in (stages, category, ocr, captioning, duplicates, embed, scoring, topdown, rewriting):
        yield from family.STAGES


@hookimpl
def ernie_register_scorers() -> Iterator[Entry]:
    yield Entry(
        "shapes-quality", "ShapeBench's known quality law, read from pixels", ShapesQualityConfig, "ernie_data.shapes.quality:build"
    )
    yield Entry(
        "shapes-agreement",
        "how much of its prompt a ShapeBench picture bears out",
        ShapesAgreementConfig,
        "ernie_data.shapes.agreement:build",
    )


@hookimpl
def ernie_register_evaluations() -> Iterator[Entry]:
    yield Entry(
        "shapebench", "GenEval's kinds of prompts and text, judged by the exact verifier", ShapeBenchConfig, "ernie_data.shapes.suite:build"
    )


@hookimpl
def ernie_register_commands() -> Iterator[Command]:
    yield Command(
        "quickstart", "train, sample and measure a small text-to-image model on this machine", "ernie_data.quickstart.command:main"
    )
    yield Command("data", "curate, query and plan data sets, make sets for fine-tuning, write and verify ShapeBench", "ernie_data.cli:main")


@hookimpl
def ernie_doctor() -> Iterator[EnvironmentCheck]:
    from ernie_data.ocr.doctor import check_tesseract  # starts the program that it asks for

    yield check_tesseract()
