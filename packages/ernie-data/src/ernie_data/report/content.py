"""Everything a report shows, before it becomes a page."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from ernie_data.reading.dataset import Dataset
from ernie_data.report.facts import Facts, Rejection, gather, groups_of
from ernie_data.report.flow import Stage
from ernie_data.report.sampled import Sampled, sample_law
from ernie_data.report.samples import Sample, extreme_rows, keys_at, load_samples, random_rows
from ernie_data.report.truth import Found
from ernie_data.sampling.config import SamplingConfig
from ernie_data.tables import KEY

_RANDOM_SHOWN = 21
_SHOWN = 14
_GROUPS_SHOWN = 12
_CONFLICTS_SHOWN = 10
AGREEMENTS = ("caption_agreement", "faithfulness")
"""Columns that say how far captions and pictures agree, 1 where they do."""


@dataclass(frozen=True)
class Gallery:
    """Some records under a title. ``note`` says how they were chosen; ``marks`` what is written at each, by key."""

    title: str
    note: str
    keys: Sequence[str]
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """What the page is made of.

    Attributes:
        groups: winner of some duplicates -> those that lost to it, the largest groups first.
        group_sizes: number of losers -> groups that have so many.
        conflicts: keys of the records whose captions agree least, and the column that says so.
        truth: precision and recall of planted defects, if the truth was given.
    """

    name: str
    finished: bool
    pieces_done: int
    pieces: int
    records: int
    stages: Sequence[Stage]
    bytes_stored: int
    ignored: Mapping[str, int]
    captions_not_used: int
    facts: Facts
    sampled: Sampled | None
    samples: Mapping[str, Sample]
    galleries: Sequence[Gallery]
    rejections: Mapping[tuple[str, str], Sequence[Rejection]]
    groups: Mapping[str, Sequence[str]]
    group_sizes: Mapping[int, int]
    conflicts: tuple[str, Sequence[str]]
    truth: Sequence[Found]
    versions: Sequence[tuple[str, str, Mapping[str, object]]]


def make_content(dataset: Dataset, config: SamplingConfig, truth: Sequence[Found] = ()) -> Content:
    """
    Raises:
        DataError: tables or shards that are damaged.
        ConfigError: a sampling config that cannot be met.
    """
    facts = gather(dataset)
    sampled = sample_law(facts, config)
    galleries = _galleries(dataset, facts, sampled)
    all_groups = groups_of(facts.duplicates, dataset)
    groups = dict(sorted(all_groups.items(), key=lambda item: (-len(item[1]), item[0]))[:_GROUPS_SHOWN])
    conflicts = _conflicts(dataset)
    shown = {key for gallery in galleries for key in gallery.keys} | set(conflicts[1])
    shown |= {r.key for some in facts.examples.values() for r in some}
    shown |= {key for winner, losers in groups.items() for key in (winner, *losers[:3])}
    sizes: dict[int, int] = {}
    for losers in all_groups.values():
        sizes[len(losers)] = sizes.get(len(losers), 0) + 1
    stages = [(stage.name, *dataset.counts(stage.name)) for stage in dataset.stages]
    return Content(
        name=dataset.out.resolve().name,
        finished=dataset.finished,
        pieces_done=sum(len(units) == len(dataset.stages) for units in dataset.pieces),
        pieces=len(dataset.pieces),
        records=dataset.records if dataset.finished else sum(units[0].receipt.entered for units in dataset.pieces),
        stages=stages,
        bytes_stored=sum(unit.size_bytes for units in dataset.pieces for unit in units),
        ignored=dataset.about.get("ignored_files", {}),
        captions_not_used=dataset.about.get("captions_not_used", 0),
        facts=facts,
        sampled=sampled,
        samples=load_samples(dataset, shown),
        galleries=galleries,
        rejections=facts.examples,
        groups=groups,
        group_sizes=dict(sorted(sizes.items())),
        conflicts=conflicts,
        truth=truth,
        versions=[(stage.name, stage.code, stage.options) for stage in dataset.stages],
    )


def _galleries(dataset: Dataset, facts: Facts, sampled: Sampled | None) -> list[Gallery]:
    chosen: list[tuple[str, str, list[int], Mapping[int, str]]] = []
    rows = random_rows(facts.accepted, most=_RANDOM_SHOWN, stream="random")
    chosen.append(("Random", "Drawn uniformly from the accepted records.", rows, {}))
    score_N = facts.score_N
    if score_N is not None:
        for title, note, highest in (
            ("Highest scores", "The best first.", True),
            ("Lowest scores", "The worst first; accepted all the same.", False),
        ):
            rows = extreme_rows(score_N, most=_SHOWN, highest=highest)
            chosen.append((title, note, rows, {row: f"score {score_N[row]:.3f}" for row in rows}))
    if sampled is not None and np.ptp(sampled.expected_N) > 0:
        rows = extreme_rows(sampled.expected_N, most=_SHOWN, highest=True)
        over = f"{sampled.config.draws:,} draws" if sampled.config.draws else f"as many draws as there are records ({facts.accepted:,})"
        marks = {row: f"×{sampled.expected_N[row]:.3g}" for row in rows}
        chosen.append(("Drawn most often", f"Expected draws of each over {over}.", rows, marks))
    keys = keys_at(dataset, (row for _, _, rows, _ in chosen for row in rows))
    return [Gallery(title, note, [keys[r] for r in rows], {keys[r]: m for r, m in marks.items()}) for title, note, rows, marks in chosen]


def _conflicts(dataset: Dataset) -> tuple[str, list[str]]:
    """The lowest values among all records, refused ones too."""
    name = next((name for name in AGREEMENTS if name in dataset.columns), "")
    lowest: list[tuple[float, str]] = []
    for table in dataset.tables([KEY, name], which="all") if name else ():
        values = table.filter(pc.less(table.column(name), 1.0))
        here = zip(values.column(name).to_pylist(), values.column(KEY).to_pylist())
        lowest = heapq.nsmallest(_CONFLICTS_SHOWN, (*lowest, *here))
    return name, [key for _, key in lowest]
