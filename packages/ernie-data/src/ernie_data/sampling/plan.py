"""What a sampling config will do over a whole run, before any training: epochs per picture, effective categories, repeats, and each knob's effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np

from ernie_core.api import ConfigError
from ernie_data.sampling.config import NO_CAP, SamplingConfig
from ernie_data.sampling.hierarchy import ClassTable, Law, effective_number
from ernie_data.sampling.strategies import build_law

RARELY = 0.1
_QUANTILES = {"least": 0.0, "p01": 0.01, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}

KNOBS: tuple[tuple[str, tuple[float, ...], str], ...] = (
    (
        "alpha",
        (1.0, 0.75, 0.5, 0.25, 0.0),
        "1 draws categories as found, 0 draws all alike: lower gives rare categories more, and repeats them more",
    ),
    ("tau_c", (1.0, 2.0, 4.0, float("inf")), "lower prefers categories of better pictures; inf ignores their quality"),
    ("tau_i", (0.5, 1.0, 2.0, float("inf")), "lower prefers the better pictures of a category; inf ignores scores"),
    ("uniform", (0.0, 0.1, 0.5, 1.0), "share of a category drawn whatever the score: higher loses fewer pictures"),
    ("max_repeats", (1.0, 4.0, 20.0, NO_CAP), "cap on the expected epochs of a picture: lower pushes mass back to large categories"),
)


@dataclass(frozen=True)
class Summary:
    """One config in a few numbers.

    Attributes:
        effective_categories, effective_pictures: exp(entropy).
        most_repeated: expected epochs of the most repeated picture.
        most_uncapped: the same if there were no caps.
        capped_pictures: share of pictures at the cap.
        rare_share: share of draws that go to the smaller half of the categories.
        rarely_seen: share of pictures expected less than ``RARELY`` times.
    """

    effective_categories: float
    effective_pictures: float
    most_repeated: float
    most_uncapped: float
    capped_pictures: float
    rare_share: float
    rarely_seen: float


@dataclass(frozen=True)
class Repeated:
    """Pictures of one category and score bin; all are expected ``epochs`` times, and ``uncapped`` times if there were no caps."""

    category: str
    bin: int
    pictures: int
    score: float
    epochs: float
    uncapped: float


@dataclass(frozen=True)
class Shift:
    """A category's share of the draws against its share of the pictures."""

    category: str
    pictures: int
    share_of_pictures: float
    share_of_draws: float


@dataclass(frozen=True)
class Variant:
    """The summary with one knob changed; None where the caps cannot be met."""

    knob: str
    value: float
    summary: Summary | None


@dataclass(frozen=True)
class Plan:
    draws: int
    pictures: int
    categories: int
    config: SamplingConfig
    summary: Summary
    uncapped: Summary
    moved_by_caps: float
    epochs: dict[str, float]
    repeated: tuple[Repeated, ...]
    gaining: tuple[Shift, ...]
    losing: tuple[Shift, ...]
    variants: tuple[Variant, ...]

    def to_json(self) -> dict[str, Any]:
        """Infinite numbers become null: JSON has none."""
        return _finite({**asdict(self), "config": msgspec.structs.asdict(self.config), "rarely": RARELY})


def make_plan(table: ClassTable, names: Sequence[str], config: SamplingConfig, *, top: int = 10) -> Plan:
    """
    Args:
        names: of the categories.
        config: ``draws`` is the run's number of draws, >= 1.
        top: how many repeated bins and shifted categories to list.

    Raises:
        ConfigError: no draws, an unknown strategy, or caps that cannot be met (says how many draws are feasible).
        DataError: nothing to draw.
    """
    if config.draws < 1:
        raise ConfigError(
            "a plan needs the number of draws of the run: steps times pictures per batch, as --draws T or `draws` in the config"
        )
    law, free = build_law(table, config, names), _uncapped(table, config, names)
    rows_K = table.rows_K
    return Plan(
        draws=config.draws,
        pictures=int(rows_K.sum()),
        categories=int(np.count_nonzero(rows_K)),
        config=config,
        summary=_summary(law, free, config),
        uncapped=_summary(free, free, msgspec.structs.replace(config, max_repeats=NO_CAP)),
        moved_by_caps=float(np.sum(law.rows_KJ * np.abs(law.row_KJ - free.row_KJ)) / 2),
        epochs=_epochs(law, config.draws),
        repeated=tuple(_repeated(table, law, free, names, config.draws, top)),
        gaining=tuple(_shifts(law, names, top, sign=1)),
        losing=tuple(_shifts(law, names, top, sign=-1)),
        variants=tuple(_variants(table, config)),
    )


def _uncapped(table: ClassTable, config: SamplingConfig, names: Sequence[str] = ()) -> Law:
    return build_law(table, msgspec.structs.replace(config, max_repeats=NO_CAP), names)


def _summary(law: Law, free: Law, config: SamplingConfig) -> Summary:
    rows_K, class_K = law.rows_KJ.sum(1), law.class_K
    live = law.rows_KJ > 0
    row, rows = law.row_KJ[live], law.rows_KJ[live]
    some = row > 0
    by_size = np.flatnonzero(rows_K)[np.argsort(rows_K[rows_K > 0], kind="stable")]
    epochs = config.draws * row
    return Summary(
        effective_categories=effective_number(class_K),
        effective_pictures=float(np.exp(-np.sum(rows[some] * row[some] * np.log(row[some])))),
        most_repeated=float(epochs.max()),
        most_uncapped=float(config.draws * free.row_KJ.max()),
        capped_pictures=float(rows[epochs >= config.max_repeats * (1 - 1e-12)].sum() / rows.sum()),
        rare_share=float(class_K[by_size[: len(by_size) // 2]].sum()),
        rarely_seen=float(rows[epochs < RARELY].sum() / rows.sum()),
    )


def _epochs(law: Law, draws: int) -> dict[str, float]:
    """Quantiles of the expected epochs over pictures, and their mean."""
    live = law.rows_KJ > 0
    epochs, rows = draws * law.row_KJ[live], law.rows_KJ[live]
    order = np.argsort(epochs, kind="stable")
    reached = np.cumsum(rows[order])
    at = {name: np.searchsorted(reached, max(np.ceil(q * reached[-1]), 1)) for name, q in _QUANTILES.items()}
    return {**{name: float(epochs[order[i]]) for name, i in at.items()}, "mean": float(draws / reached[-1])}


def _repeated(table: ClassTable, law: Law, free: Law, names: Sequence[str], draws: int, top: int) -> Iterator[Repeated]:
    """The bins with the most repeated pictures. Of those at the cap, first the ones that the caps hold back most."""
    capped, wanted = law.row_KJ.ravel(), free.row_KJ.ravel()
    raw_KJ = table.raw_KJ
    for cell in np.lexsort((-wanted, -capped))[:top]:
        c, j = divmod(int(cell), law.row_KJ.shape[1])
        if capped[cell] > 0:
            epochs, uncapped = float(draws * capped[cell]), float(draws * wanted[cell])
            yield Repeated(names[c], j, int(law.rows_KJ[c, j]), float(raw_KJ[c, j]), epochs, uncapped)


def _shifts(law: Law, names: Sequence[str], top: int, *, sign: int) -> Iterator[Shift]:
    """The categories whose share of draws differs most from their share of pictures."""
    rows_K, class_K = law.rows_KJ.sum(1), law.class_K
    found_K = rows_K / rows_K.sum()
    change_K = sign * (class_K - found_K)
    for c in np.argsort(-change_K, kind="stable")[:top]:
        if change_K[c] > 1e-12:
            yield Shift(names[c], int(rows_K[c]), float(found_K[c]), float(class_K[c]))


def _variants(table: ClassTable, config: SamplingConfig) -> Iterator[Variant]:
    if config.strategy != "hierarchical":
        return
    for knob, values, _ in KNOBS:
        for value in values:
            changed = msgspec.structs.replace(config, **{knob: value})
            try:
                yield Variant(knob, value, _summary(build_law(table, changed), _uncapped(table, changed), changed))
            except ConfigError:  # this value's caps cannot be met
                yield Variant(knob, value, None)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
