"""From finished evaluations to arrays: that they can be compared, which prompts a domain has, scores and pixels per prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.evaluation.read import FinishedEval, mismatch
from ernie_distill.drift.pictures import mean_distance, pixel_facts


@dataclass(frozen=True)
class Domain:
    """``prompts_P``: which of the suite's prompts it has. ``metric``: what they are scored by."""

    name: str
    tags: tuple[str, ...]
    metric: str
    prompts_P: NDArray[np.bool_]


@dataclass(frozen=True)
class Pixels:
    """Per prompt [P]: sums over its readable pictures of std and of clipped share, their number, and the mean distance of its pictures with 1 or 0 for whether
    it has one."""

    std_P: NDArray[np.float64]
    clipped_P: NDArray[np.float64]
    pictures_P: NDArray[np.float64]
    distance_P: NDArray[np.float64]
    has_distance_P: NDArray[np.float64]


def check_comparable(evals: Mapping[str, FinishedEval]) -> list[str]:
    """Notes on what cannot be known about them.

    Raises:
        DataError: two of them are of other suites, prompts, noise or sizes; names the first difference of each.
    """
    names = list(evals)
    for name in names[1:]:
        if found := mismatch(evals[names[0]], evals[name]):
            raise DataError(
                f"{names[0]} ({evals[names[0]].folder}) and {name} ({evals[name].folder}) cannot be compared: {'; '.join(found[:3])}. Evaluate all with the "
                "same suite, --seed, --samples-per-prompt, --limit and --size"
            )
    return [f"{name}: its pictures were given, so their noise and sampler are not known" for name, one in evals.items() if not one.used]


def cluster_labels(found: FinishedEval) -> list[str]:
    return [found.verdicts[p].cluster for p in range(found.prompts)]


def read_domains(found: FinishedEval, wanted: Mapping[str, Sequence[str]], metric: str | None) -> list[Domain]:
    """
    Args:
        wanted: tags by the domain's name; a prompt with any of them belongs to it. Empty: each tag of the suite is a domain.
        metric: the name of the score; None: the first one of each prompt, which must be the same in a whole domain.

    Raises:
        DataError: a domain without prompts, or whose prompts have not one metric.
    """
    first = [found.verdicts[p] for p in range(found.prompts)]
    tags = list(dict.fromkeys(tag for verdict in first for tag in verdict.tags))
    if not tags and not wanted:
        raise DataError(f"{found.folder}: the prompts of this suite have no tags, so it has no domains; choose a suite that has")
    domains = []
    for name, its_tags in (wanted or {tag: (tag,) for tag in tags}).items():
        prompts_P = np.array([bool(set(its_tags) & set(verdict.tags)) for verdict in first])
        asked = ", ".join(its_tags)
        if not prompts_P.any():
            raise DataError(f"domain `{name}` has no prompts: none has the tag {asked}. Tags of this suite: {', '.join(tags) or 'none'}")
        mine = [verdict for verdict, is_mine in zip(first, prompts_P) if is_mine]
        if metric is None:
            metrics = list(dict.fromkeys(next(iter(verdict.metrics)) for verdict in mine))
            if len(metrics) > 1:
                raise DataError(
                    f"domain `{name}` mixes prompts that are scored by {' and by '.join(metrics[:3])}; choose one with --metric, or other tags"
                )
        elif lacking := [verdict.id for verdict in mine if metric not in verdict.metrics]:
            known = ", ".join(dict.fromkeys(each for verdict in mine for each in verdict.metrics))
            raise DataError(
                f"domain `{name}`: {len(lacking)} of {len(mine)} prompts have no metric `{metric}`, such as {lacking[0]}. Its metrics: {known}"
            )
        domains.append(Domain(name, tuple(its_tags), metric or metrics[0], prompts_P))
    return domains


def scores(found: FinishedEval, metric: str) -> NDArray[np.float64]:
    """Mean score of each prompt over its samples [P]; 0 for one that is not scored by it."""
    table = np.array([verdict.metrics.get(metric, 0.0) for verdict in found.verdicts], np.float64)
    return table.reshape(found.samples_per_prompt, found.prompts).mean(axis=0)


def read_pixels(found: FinishedEval) -> Pixels:
    """
    Raises:
        DataError: a picture is not the one that was judged.
    """
    columns = np.zeros((5, found.prompts))
    for p in range(found.prompts):
        facts = [pixel_facts(pixels) for verdict in found.samples(p) if (pixels := found.picture(verdict)) is not None]
        distance = mean_distance(facts)
        columns[:, p] = (
            sum(one.std for one in facts),
            sum(one.clipped for one in facts),
            len(facts),
            distance or 0.0,
            distance is not None,
        )
    return Pixels(*columns)
