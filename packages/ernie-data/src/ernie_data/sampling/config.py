"""The knobs of sampling, and the TOML file that holds them. Light: msgspec only.

.. code-block:: toml

    index = "curated/index"
    draws = 100_000_000
    alpha = 0.5
    max_repeats = 4
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from ernie_core.api import Config, ConfigError, Count, Fraction, NonNegative, Positive, PositiveInt, Problem

NO_CAP = math.inf


class SamplingConfig(Config):
    """Which pictures are drawn how often. Scores ``A`` are the raw ones of the score stage; ``z`` is a score normalised within its category."""

    strategy: str = "hierarchical"
    """``hierarchical``, or a comparator: ``uniform-image``, ``class-balanced``, ``hard-threshold``, ``dual-axis``, ``staged-filters``."""
    alpha: NonNegative = 0.5
    """Power of a category's size: 1 draws categories as they are found, 0 draws all alike."""
    tau_c: Positive = 2.0
    """Temperature between categories, in raw score units; ``inf`` ignores their quality."""
    tau_i: Positive = 1.0
    """Temperature within a category, in units of z; ``inf`` ignores scores."""
    uniform: Fraction = 0.1
    """Share u of the uniform distribution mixed in within a category, so that no picture is lost."""
    kappa: NonNegative = 50.0
    """A category's mean score counts as if this many pictures of the overall mean were added."""
    floor: Fraction = 1e-6
    """Least weight of a category, as a share of the heaviest one's."""
    max_repeats: Positive = 4.0
    """No picture is expected more often than this over ``draws``: 4 for pre-training, 20 for SFT; ``inf``: no cap."""
    draws: Count = 0
    """Draws T of the whole run, that is steps times pictures per batch. 0: not yet known, no cap is applied."""
    min_score: float = -math.inf
    """For ``hard-threshold``: the raw score that a score bin must reach on average to be kept."""
    filters: tuple[tuple[PositiveInt, float], ...] = ()
    """For ``staged-filters``: (side in pixels, least raw score) of each stage, both rising: filters tighten with the resolution."""
    size_px: Count = 0
    """For ``staged-filters``: the side of the stage that is sampled for; the last filter of ``filters`` up to it applies. 0: in training the stage's own
    side, in a plan none."""
    domains: dict[str, Positive] = {}
    """For ``staged-filters``: share of the draws for the categories whose name fits a pattern such as ``"design/*"``; the first that fits counts.
    Shares are taken relative to their sum. Empty: pictures are drawn alike whatever their category."""

    def __post_init__(self) -> None:
        if math.isnan(self.min_score):  # the ranges of the others exclude it
            raise ValueError("expected a number")
        if math.isinf(self.alpha) or math.isinf(self.kappa):
            raise ValueError("alpha and kappa must be finite")
        if any(not math.isfinite(share) for share in self.domains.values()):
            raise ValueError("shares of `domains` must be finite")
        sizes, scores = [size for size, _ in self.filters], [score for _, score in self.filters]
        if sizes != sorted(set(sizes)) or any(not low <= high for low, high in pairwise(scores)) or not all(map(math.isfinite, scores)):
            raise ValueError("`filters` must be pairs of a side in pixels, each larger than the one before, and a finite score, none lower")


class SamplingFile(SamplingConfig):
    """A sampling config with the index it is for."""

    index: str = ""
    """Folder of the index, seen from the config's folder."""


def read_sampling(path: Path) -> SamplingFile:
    """
    Raises:
        ConfigError: every problem with file, line, key, what was expected and the nearest known key.
    """
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError([Problem(str(path), f"not valid TOML: {error}")]) from None
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(SamplingFile)}
    problems = []
    for key, value in values.items():
        where = f"{path}:{_line(text, key)}"
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else f". Known: {', '.join(fields)}"
            problems.append(Problem(where, f"unknown key `{key}`{hint}"))
        elif message := wrong_value(key, value):
            problems.append(Problem(where, f"`{key}`: {message}"))
    if problems:
        raise ConfigError(problems)
    file = msgspec.convert(values, SamplingFile)
    return msgspec.structs.replace(file, index=str(path.parent / file.index)) if file.index else file


def wrong_value(key: str, value: Any) -> str | None:
    """What is wrong with one value, or None."""
    try:
        msgspec.convert({key: value}, SamplingFile)
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at `$")[0]
        return f"{message[:1].lower()}{message[1:]}, found {value!r:.60}"
    return None


def _line(text: str, key: str) -> int:
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}\b")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)
