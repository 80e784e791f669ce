"""The config of ``ernie data build``: sources, stages, and how the work is run. Light: no torch, no Pillow, no pyarrow.

.. code-block:: toml

    unit_rows = 256

    [[sources]]
    use = "folder"
    path = "raw"

    [[stages]]
    use = "decode"
    format = "jpeg"
    shrink_to_px = 1024

    [run]
    record_timeout_s = 10
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from ernie_core.api import Config, Count, Entry, From, NonNegative, Positive, PositiveInt, Selection
from ernie_data.config import Aspect

if TYPE_CHECKING:
    from ernie_core.api import App

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class FolderInput(Config):
    """``use = "folder"``: pictures in a folder and below, with captions in ``a.txt`` beside ``a.png`` or in ``metadata.jsonl``."""

    path: str
    name: Name = "folder"
    """Begins every key; two sources need two names."""
    max_file_mib: PositiveInt = 256


class TarInput(Config):
    """``use = "tar"``: a WebDataset tar, or all ``*.tar`` of a folder and below. Read by position; never extracted."""

    path: str
    name: Name = "tar"
    max_file_mib: PositiveInt = 256


class ParquetInput(Config):
    """``use = "parquet"``: a Parquet file, or all ``*.parquet`` of a folder and below; a record per row."""

    path: str
    name: Name = "parquet"
    image: str = ""
    """Column with the pictures' bytes (or structs with ``bytes``), or with paths beside the file. Default: found by its usual name."""
    captions: tuple[str, ...] = ()
    """Columns of captions; ``text_<style>`` gives the style. Default: found by their usual names."""
    max_file_mib: PositiveInt = 256
    """Of files that rows name."""
    max_group_mib: PositiveInt = 256
    """Most bytes of pictures in one row group, as the file says. A worker reads a group whole and takes about five times as much memory."""


class BuildInput(Config):
    """``use = "build"``: accepted records of a finished build, with columns that it has found out. Pictures are read where they are."""

    path: str
    name: Name = "build"
    where: str = ""
    """SQL condition over the build's columns, such as ``score > 6 AND category = 'poster'``. Default: all accepted records."""
    columns: tuple[str, ...] | None = None
    """Columns to carry over. Default: all but those that are made again from the picture (``decode``, ``size``)."""


Input = FolderInput | TarInput | ParquetInput | BuildInput
INPUTS: Mapping[str, Entry] = {
    name: Entry(name, summary, struct, "ernie_data.sources.listing:list_sources")
    for name, summary, struct in (
        ("folder", "a folder of pictures", FolderInput),
        ("tar", "WebDataset tars", TarInput),
        ("parquet", "Parquet files with pictures or paths", ParquetInput),
        ("build", "accepted records of a finished build", BuildInput),
    )
}


class RunOptions(Config):
    """How the work is run. Nothing here changes a byte of the output."""

    backend: Literal["local", "ray"] = "local"
    """``local``: processes on this machine. ``ray``: on a Ray cluster (``ernie-data[ray]``) whose nodes share the file system of sources and output."""
    ray_address: str = ""
    """Address of a running cluster; empty: the one that RAY_ADDRESS names, else one started on this machine for the build."""
    gpus_per_actor: NonNegative = 0
    """For ``ray``: GPUs, or a share of one, that each process of a stage with a model is placed on."""
    workers: Count = 0
    """Worker processes; 0: one per usable core."""
    memory_mib: Count = 2048
    """Address space of each worker; 0: no limit. Stages that hold a model, and surveys, have processes of their own without it."""
    record_timeout_s: Positive = 20.0
    """A worker silent for longer inside one record is ended, and the record refused if it happens again."""
    actors: dict[str, PositiveInt] = {}
    """Processes of each stage that holds a model, by its name; 1 where nothing is said."""
    actor_timeout_s: Positive = 600.0
    """The same as ``record_timeout_s`` for these stages, which work on several records at a time."""
    gpus: tuple[str, ...] = ()
    """Devices, as CUDA_VISIBLE_DEVICES names them, that the processes of each such stage take in turn. Empty: each sees all."""


class IndexOptions(Config):
    """``[index]``: what training needs to draw from the records that passed all stages, written when they are through."""

    category: str = "category"
    """Column with a record's category; "": all are of one."""
    score: str = "score"
    """Column with the quality that sampling prefers; "": all are alike."""
    scores: tuple[str, ...] = ()
    """Further columns of numbers that training records carry."""
    bins: Annotated[int, Meta(ge=1, le=4096)] = 64
    """Score bins of each category."""
    size_px: Annotated[tuple[PositiveInt, ...], Meta(min_length=1)] = (512,)
    """The ``size_px`` of the training stages. Each has an index of its own, since aspect buckets depend on it; adding one leaves the others alone."""
    multiple_px: PositiveInt = 16
    """Sides of buckets are multiples of it: the codec's."""
    max_aspect: Aspect = 3.0
    allow_empty: bool = False
    """Take records without a caption with an empty one, which trains the unconditional model."""

    def __post_init__(self) -> None:
        if len(set(self.size_px)) < len(self.size_px):
            raise ValueError(f"size_px names a size twice: {', '.join(map(str, self.size_px))}")


class Recipe(Config):
    """What ``ernie data build`` reads."""

    sources: Annotated[tuple[Annotated[Selection, From("inputs")], ...], Meta(min_length=1)]
    stages: tuple[Annotated[Selection, From("data_stages")], ...] = (Selection("decode"), Selection("size"))
    """In the order in which records pass them; the first is ``decode``, which the others read from. Others may stand several times: the second ``select``
    is called ``select-2``."""
    unit_rows: PositiveInt = 256
    """About how many records are one piece of work and one shard."""
    index: IndexOptions | None = None
    """Without it no index is written."""
    run: RunOptions = RunOptions()

    def __post_init__(self) -> None:
        if twice := _twice(source.name for source in self.inputs):
            raise ValueError(f"two sources are named {twice!r}; give each its own `name`")
        if sum(stage.use == "decode" for stage in self.stages) > 1:
            raise ValueError("the stage `decode` stands more than once")
        if self.stages and self.stages[0].use != "decode":
            raise ValueError(f"the first stage must be `decode`, which the others read from, found `{self.stages[0].use}`")

    @property
    def inputs(self) -> tuple[Input, ...]:
        return tuple(source.options for source in self.sources if isinstance(source.options, Input))


def load_recipe(path: Path, app: App, *, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe. Relative paths of its sources are seen from its folder, those that ``overrides`` give from the working folder.

    Raises:
        ConfigError: every problem with file and line, what was expected and the nearest known name.
    """
    loaded = app.read_config(path, Recipe, overrides=overrides, local={"inputs": INPUTS})
    recipe, sources = loaded.config, []
    for number, (source, options) in enumerate(zip(recipe.sources, recipe.inputs)):
        place = loaded.place(("sources", number, "path"), options.path, beside=path.parent)
        sources.append(Selection(source.use, msgspec.structs.replace(options, path=place)))
    return msgspec.structs.replace(recipe, sources=tuple(sources))


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
