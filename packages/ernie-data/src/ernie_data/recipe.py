"""The config of ``ernie data build``: sources, stages, and how the work is run. Light: no torch, no Pillow.

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

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from ernie_core.api import Config, ConfigError, Count, Entry, Positive, PositiveInt, Problem
from ernie_data.stages.entries import STAGES

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
C = TypeVar("C", bound=Config)


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


class RunOptions(Config):
    """How the work is run. Nothing here changes a byte of the output."""

    workers: Count = 0
    """Worker processes; 0: one per usable core."""
    memory_mib: Count = 2048
    """Address space of each worker; 0: no limit."""
    record_timeout_s: Positive = 20.0
    """A worker silent for longer inside one record is ended, and the record refused if it happens again."""


class Settings(Config):
    """The plain keys of a config."""

    unit_rows: PositiveInt = 256
    """About how many records are one piece of work and one shard."""


@dataclass(frozen=True)
class Recipe:
    """A checked config. ``stages``: name and options of those after the scan, in order."""

    sources: tuple[FolderInput | TarInput, ...]
    stages: tuple[tuple[str, Config], ...]
    unit_rows: int = 256
    run: RunOptions = field(default_factory=RunOptions)


INPUTS: Mapping[str, type[FolderInput] | type[TarInput]] = {"folder": FolderInput, "tar": TarInput}
DEFAULT_STAGES = ({"use": "decode"}, {"use": "size"})


def load_recipe(path: Path) -> Recipe:
    """
    Raises:
        ConfigError: every problem with its place, what was expected and the nearest known name.
    """
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem(str(path), f"not valid TOML: {error}")]) from None
    return read_recipe(values, str(path), folder=path.parent)


def read_recipe(values: Mapping[str, Any], where: str, *, folder: Path) -> Recipe:
    """Check a config given as tables. Relative paths of sources are seen from ``folder``."""
    problems: list[Problem] = []
    known = ("sources", "stages", "unit_rows", "run")
    problems += [Problem(where, f"unknown key `{name}`{_hint(name, known)}") for name in values if name not in known]
    inputs = {name: Entry(name, "source", struct, "ernie_data.sources.listing:list_sources") for name, struct in INPUTS.items()}
    sources = _selected(values.get("sources", []), "sources", inputs, where, problems)
    stages = _selected(values.get("stages", list(DEFAULT_STAGES)), "stages", STAGES, where, problems)
    settings = _struct(Settings, {k: values[k] for k in ("unit_rows",) if k in values}, "", where, problems)
    run = _struct(RunOptions, values.get("run", {}), "run", where, problems)
    if not sources and not problems:
        problems.append(Problem(where, 'no `[[sources]]`: expected at least one table such as { use = "folder", path = "..." }'))
    names = [options.name for _, options in sources]
    problems += [
        Problem(where, f"`sources`: two are named {n!r}; give each its own `name`")
        for n in sorted({n for n in names if names.count(n) > 1})
    ]
    used = [name for name, _ in stages]
    problems += [Problem(where, f"`stages`: `{n}` stands more than once") for n in sorted({n for n in used if used.count(n) > 1})]
    if used and used[0] != "decode" and not problems:
        problems.append(Problem(where, f"`stages`: the first must be `decode`, which the others read from, found `{used[0]}`"))
    if problems or settings is None or run is None:
        raise ConfigError(problems)
    placed = [msgspec.structs.replace(options, path=str(folder / options.path)) for _, options in sources]
    return Recipe(tuple(placed), tuple(stages), settings.unit_rows, run)


def _selected(tables: Any, key: str, entries: Mapping[str, Entry], where: str, problems: list[Problem]) -> list[tuple[str, Any]]:
    if not isinstance(tables, Sequence) or isinstance(tables, str):
        problems.append(Problem(where, f"`{key}`: expected a list of tables ([[{key}]])"))
        return []
    chosen = []
    for number, table in enumerate(tables):
        place = f"{key}[{number}]"
        name = table.get("use") if isinstance(table, Mapping) else None
        if not isinstance(name, str):
            problems.append(Problem(where, f'`{place}`: expected a table with `use = "name"`; known: {", ".join(sorted(entries))}'))
        elif name not in entries:
            problems.append(
                Problem(where, f'`{place}.use`: nothing is called "{name}"{_hint(name, entries)} Known: {", ".join(sorted(entries))}')
            )
        else:
            options = _struct(entries[name].config, {k: v for k, v in table.items() if k != "use"}, place, where, problems)
            if options is not None:
                chosen.append((name, options))
    return chosen


def _struct(struct: type[C], values: Any, place: str, where: str, problems: list[Problem]) -> C | None:
    if not isinstance(values, Mapping):
        problems.append(Problem(where, f"`{place}`: expected a table, found {values!r:.80}"))
        return None
    fields = [field.encode_name for field in msgspec.structs.fields(struct)]
    dot = f"{place}." if place else ""
    if unknown := [name for name in values if name not in fields]:
        problems += [Problem(where, f"unknown key `{dot}{name}`{_hint(name, fields)}") for name in unknown]
        return None
    try:
        return msgspec.convert(dict(values), struct)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        key = (dot + re.sub(r"^\.", "", path.rstrip("`"))).rstrip(".")
        problems.append(Problem(where, f"`{key}`: {text[:1].lower()}{text[1:]}" if key else text))
        return None


def _hint(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name[:80], list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else "."
