"""What ernie-data offers to the plugin host. Light: no torch, no Pillow."""

from __future__ import annotations

from collections.abc import Iterator

from ernie_core.api import Command, Entry, hookimpl
from ernie_data.category import entries as category
from ernie_data.config import FolderConfig, ShapesConfig
from ernie_data.shapes.entries import ShapesQualityConfig
from ernie_data.stages import entries as stages

ERNIE_API = (0, 1)


@hookimpl
def ernie_register_data_sources() -> Iterator[Entry]:
    yield Entry("folder", "a folder of images with captions in a.txt or metadata.jsonl", FolderConfig, "ernie_data.sources.folder:build")
    yield Entry("shapes", "ShapeBench: procedural scenes with an exact verifier", ShapesConfig, "ernie_data.sources.shapes:build")


@hookimpl
def ernie_register_data_stages() -> Iterator[Entry]:
    for family in (stages, category):
        yield from family.STAGES


@hookimpl
def ernie_register_scorers() -> Iterator[Entry]:
    yield Entry(
        "shapes-quality", "ShapeBench's known quality law, read from pixels", ShapesQualityConfig, "ernie_data.shapes.quality:build"
    )


@hookimpl
def ernie_register_commands() -> Iterator[Command]:
    yield Command(
        "quickstart", "train, sample and measure a small text-to-image model on this machine", "ernie_data.quickstart.command:main"
    )
    yield Command("data", "write ShapeBench sets, inspect image folders, check the verifier", "ernie_data.cli:main")
