"""What `distill_effect.py` found: figures from the folders of verdicts, by the definitions of `ernie distill drift`, as rows and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from distill_arms import DOMAINS, FAKE_STEPS, GENERALIST, GUIDANCE
from experiment import table
from numpy.typing import NDArray

from ernie_core.evaluation.read import FinishedEval, read_finished
from ernie_distill.drift.measure import Estimate, Ratio, Resamples, Retention, compared, estimate, over_domains, retention
from ernie_distill.drift.read import check_comparable, cluster_labels, read_pixels, scores

PARTS = ("right", "colour", "shape", "position")
FLOOR = "floor"
Json = dict[str, Any]


class Scores:
    """Scores of all models by prompt, for a bootstrap in which all lose and gain the same prompts; the seeds of an arm are averaged.

    Args:
        models: folders of `ernie eval` of the teachers, the floor and others that there is one of.
        arms: folders of each seed.
    """

    def __init__(self, models: Mapping[str, Path], arms: Mapping[str, Sequence[Path]]) -> None:
        evals = {name: [read_finished(folder)] for name, folder in models.items()}
        evals |= {name: [read_finished(folder) for folder in folders] for name, folders in arms.items()}
        check_comparable({f"{name}-{n}": one for name, every in evals.items() for n, one in enumerate(every)})
        self._evals = evals
        clusters = cluster_labels(evals[GENERALIST][0])
        self._resamples = Resamples.draw(clusters)
        self._clusters = len(set(clusters))
        self._mine = {name: np.array([float(any(s in c for s in shapes)) for c in clusters]) for name, shapes in DOMAINS.items()}
        self._pixels = {name: [read_pixels(one) for one in every] for name, every in evals.items()}

    def about(self, name: str) -> Json:
        """Shares of pictures in which a part holds, retention by domain and the worst drift, looks against the generalist's."""
        whole = np.ones(len(self._resamples.counts_RP[0]))
        drift, retained, _ = self._drift(self._evals[name])
        found: Json = {part: self._json(self._mean(self._evals[name], part, whole)) for part in PARTS}
        found |= {domain: self._json(self._mean(self._evals[name], "right", mine)) for domain, mine in self._mine.items()}
        ours, generalist = (self._mean(self._evals[each], "right", whole) for each in (name, GENERALIST))
        return {
            **found,
            "over_generalist": compared(ours, generalist, clusters=self._clusters).to_json(),
            "retention": {domain: one.value for domain, one in retained.items()},
            "drift": drift.to_json(),
            "right_by_seed": [self._mean([one], "right", whole).value for one in self._evals[name]],
            "drift_by_seed": [self._drift([one])[0].value for one in self._evals[name]],
            "saturation": self._looks(name, "std_P", "pictures_P"),
            "diversity": self._looks(name, "distance_P", "has_distance_P"),
        }

    def drift_of_gated_minus(self, name: str) -> Json:
        """Negative: the gated committee drifted less."""
        (ours, our_R), (theirs, their_R) = (self._drift(self._evals[each])[::2] for each in ("gated", name))
        value = None if ours.value is None or theirs.value is None else ours.value - theirs.value
        return estimate(value, our_R - their_R, clusters=self._clusters).to_json()

    def _mean(self, evals: Sequence[FinishedEval], part: str, mine_P: NDArray[np.float64]) -> Ratio:
        return Ratio.of(mine_P * np.mean([scores(one, part) for one in evals], axis=0), mine_P, self._resamples)

    def _drift(self, evals: Sequence[FinishedEval]) -> tuple[Estimate, Mapping[str, Retention], NDArray[np.float64]]:
        """Of the mean of these evaluations: the worst domain's, the domains, and the worst in each resample."""
        retained = {}
        for domain, mine_P in self._mine.items():
            teachers = {name: self._mean(self._evals[name], "right", mine_P) for name in (GENERALIST, *DOMAINS)}
            retained[domain] = retention(self._mean(evals, "right", mine_P), teachers, self._mean(self._evals[FLOOR], "right", mine_P))
        drift, _, _ = over_domains(retained, clusters=self._clusters)
        return drift, retained, np.max([1 - one.found_R for one in retained.values()], axis=0)

    def _looks(self, name: str, total: str, number: str) -> float:
        ours, generalist = (
            sum(getattr(one, total).sum() for one in self._pixels[each]) / sum(getattr(one, number).sum() for one in self._pixels[each])
            for each in (name, GENERALIST)
        )
        return float(ours / generalist)

    def _json(self, mean: Ratio) -> Json:
        return estimate(mean.value, mean.found_R, clusters=self._clusters).to_json()


def columns_of(judged: Path, count: int) -> list[tuple[str, str]]:
    """Names of pictures of the first noise and what they should show, evenly over the shapes."""
    rows = [json.loads(line) for line in (judged / "verdicts.jsonl").read_text().splitlines()]
    first = {row["prompt"]: row for row in reversed(rows)}
    shown = {row["id"]: row["cluster"].removeprefix("single: ").partition(",")[0] for row in first.values()}
    seen = sorted(shown, key=lambda name: (shown[name].split()[::-1], name))
    picked = [seen[len(seen) * n // count] for n in range(min(count, len(seen)))]
    return [(name, shown[name].replace(" ", "\n")) for name in picked]


def markdown(found: Json, picture: str) -> Iterator[str]:
    settings, rows = found["settings"], found["rows"]
    steps = settings["warmup"] + (FAKE_STEPS + 1) * settings["updates"]
    yield "# What distillation to eight steps keeps"
    yield ""
    yield f"`{found['command']}` ({found['date']}, {found['versions']['device']}, torch {found['versions']['torch']})"
    yield ""
    yield (
        f"Students: {settings['updates']} updates in {steps} steps of {settings['batch']} prompts, seeds {', '.join(map(str, settings['seeds']))}. "
        f"Teachers: 50 steps, guidance {GUIDANCE:g}. Floor: the generalist at 8 steps without guidance. `right`: everything at once, in per cent of "
        f"{settings['samples']} pictures for each of {settings['prompts']} prompts, with 95 % intervals over resampled prompts, the same for all models; the "
        "seeds of an arm are averaged. Retained: (student - floor) / (best teacher - floor). Drift: the worst domain's 1 - retained. Saturation and diversity are "
        "ratios to the generalist's."
    )
    yield ""
    yield "## What there is to keep"
    yield ""
    yield from table(
        ["model", "right", *DOMAINS, "colour", "shape", "position", "saturation", "diversity"],
        [
            [name, *(_share(one[part]) for part in ("right", *DOMAINS, "colour", "shape", "position")), *_looks(one)]
            for name, one in found["models"].items()
        ],
    )
    yield ""
    yield "## What students keep"
    yield ""
    yield from table(
        [
            "arm",
            "",
            "right",
            *DOMAINS,
            "over generalist",
            *(f"retained, {name}" for name in DOMAINS),
            "drift",
            "by seed",
            "gated - this",
            "saturation",
            "diversity",
            "stopped",
            "minutes",
        ],
        [_row(row) for row in rows],
    )
    yield ""
    yield f"![the same prompts and noise for each model, seed {settings['seeds'][0]}]({picture})"
    yield ""


def _row(row: Json) -> list[str]:
    minutes = [one["wall_s"] / 60 for one in row["ended"]]
    return [
        row["arm"],
        row["about"],
        *(_share(row[part]) for part in ("right", *DOMAINS)),
        _share(row["over_generalist"]),
        *(_number(row["retention"][name]) for name in DOMAINS),
        _figure(row["drift"]),
        ", ".join(map(_number, row["drift_by_seed"])),
        _figure(row["gated_drift_minus_this"]) if row["gated_drift_minus_this"] else "-",
        *_looks(row),
        f"{sum(one['exit_code'] == 1 for one in row['ended'])} of {len(row['ended'])}",
        f"{min(minutes):.1f} to {max(minutes):.1f}",
    ]


def _looks(one: Json) -> list[str]:
    return [f"{one[name]:.2f}" for name in ("saturation", "diversity")]


def _share(one: Json) -> str:
    return "undefined" if one["low"] is None else f"{100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"


def _figure(one: Json) -> str:
    return "undefined" if one["low"] is None else f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
