"""The whole assessment of a student, as ``drift.json`` holds it, from finished evaluations of student, teachers and floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ernie_core.api import DataError
from ernie_core.evaluation.read import FinishedEval
from ernie_distill.drift.measure import (
    CONFIDENCE,
    FEW_CLUSTERS,
    Estimate,
    Ratio,
    Resamples,
    Retention,
    compared,
    estimate,
    over_domains,
    regressions,
    retention,
)
from ernie_distill.drift.read import Domain, Pixels, check_comparable, cluster_labels, read_domains, read_pixels, scores

FORMAT = 1
STUDENT, GENERALIST, FLOOR = "student", "generalist", "floor"
WORST_SHOWN = 20
Json = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What is asked of the evaluations.

    Attributes:
        experts: by name; with the generalist they are the teachers.
        floor: of what counts as nothing: an untrained model, or the generalist undistilled at the student's steps; None: the floor is 0.
        domains, metric: as ``read_domains``.
        delta: by how much a prompt's score must differ to count as worse or better.
    """

    student: FinishedEval
    generalist: FinishedEval
    experts: Mapping[str, FinishedEval] = field(default_factory=dict)
    floor: FinishedEval | None = None
    domains: Mapping[str, Sequence[str]] = field(default_factory=dict)
    metric: str | None = None
    delta: float = 0.1
    resamples: int = 2000
    seed: int = 0

    def evals(self) -> dict[str, FinishedEval]:
        """All by name.

        Raises:
            DataError: an expert has a name that stands for another.
        """
        if taken := sorted({STUDENT, GENERALIST, FLOOR} & set(self.experts)):
            raise DataError(f"an expert cannot be called `{taken[0]}`, which stands for another model here")
        found = {STUDENT: self.student, GENERALIST: self.generalist, **self.experts}
        return found if self.floor is None else {**found, FLOOR: self.floor}


def assess(question: Question) -> Json:
    """
    Raises:
        DataError: evaluations that cannot be compared, a domain without prompts or without one metric, pictures that have changed.
    """
    evals = question.evals()
    notes = check_comparable(evals)
    domains = read_domains(question.student, question.domains, question.metric)
    clusters = cluster_labels(question.student)
    resamples = Resamples.draw(clusters, resamples=question.resamples, seed=question.seed)
    parts = {domain.name: _Part(domain, question, evals, clusters, resamples) for domain in domains}
    pixels = {name: read_pixels(evals[name]) for name in (STUDENT, GENERALIST)}
    whole = np.ones(len(clusters))
    found: Json = {
        "format": FORMAT,
        "suite": question.student.asked.get("suite"),
        "settings": {"delta": question.delta, "confidence": CONFIDENCE, "resamples": question.resamples, "seed": question.seed},
        "models": {name: _about(one) for name, one in evals.items()},
        "prompts": question.student.prompts,
        "samples_per_prompt": question.student.samples_per_prompt,
        "clusters": resamples.clusters,
        "domains": {
            name: {**part.to_json(), **_pixels_json(pixels, part.domain.prompts_P.astype(float), resamples, part.clusters)}
            for name, part in parts.items()
        },
    }
    for against in ("best", GENERALIST):
        drift, spread, worst = over_domains({name: part.retained[against] for name, part in parts.items()}, clusters=resamples.clusters)
        found.setdefault("drift", {})[against] = {**drift.to_json(), "domain": worst}
        found.setdefault("spread", {})[against] = spread.to_json()
    found.update(_pixels_json(pixels, whole, resamples, resamples.clusters))
    found["regressions"] = _all_regressions(question, parts, resamples)
    found["worst_prompts"] = _worst(question, parts)
    found["notes"] = [*notes, *_notes(question, evals, parts, resamples.clusters)]
    return found


class _Part:
    """One domain."""

    def __init__(
        self, domain: Domain, question: Question, evals: Mapping[str, FinishedEval], clusters: Sequence[str], resamples: Resamples
    ) -> None:
        self.domain, self._question, self._resamples = domain, question, resamples
        self.mine_P = domain.prompts_P.astype(np.float64)
        self.clusters = len({label for label, mine in zip(clusters, domain.prompts_P) if mine})
        self.scores_P = {name: scores(one, domain.metric) for name, one in evals.items()}
        self.means = {name: Ratio.of(self.mine_P * values_P, self.mine_P, resamples) for name, values_P in self.scores_P.items()}
        teachers = {name: mean for name, mean in self.means.items() if name not in (STUDENT, FLOOR)}
        floor = self.means.get(FLOOR)
        self.retained: dict[str, Retention] = {
            "best": retention(self.means[STUDENT], teachers, floor),
            GENERALIST: retention(self.means[STUDENT], {GENERALIST: self.means[GENERALIST]}, floor),
        }

    @property
    def best(self) -> str:
        return self.retained["best"].teacher

    def to_json(self) -> Json:
        return {
            "tags": list(self.domain.tags),
            "metric": self.domain.metric,
            "prompts": int(self.domain.prompts_P.sum()),
            "clusters": self.clusters,
            "scores": {name: self._estimate(mean.value, mean.found_R).to_json() for name, mean in self.means.items()},
            "best_teacher": self.best,
            "retention": {against: self._estimate(one.value, one.found_R, one.reason).to_json() for against, one in self.retained.items()},
            "regressions": {against: self._regressions(one.teacher) for against, one in self.retained.items()},
        }

    def _estimate(self, value: float | None, found_R: NDArray[np.float64], reason: str = "") -> Estimate:
        return estimate(value, found_R, clusters=self.clusters, reason=reason)

    def _regressions(self, teacher: str) -> Json:
        student_P, teacher_P = self.scores_P[STUDENT], self.scores_P[teacher]
        found = regressions(student_P, teacher_P, self.mine_P, self._resamples, delta=self._question.delta, clusters=self.clusters)
        return {"worse": found.worse.to_json(), "better": found.better.to_json()}


def _all_regressions(question: Question, parts: Mapping[str, _Part], resamples: Resamples) -> Json:
    """Over all prompts of all domains, each counted once, by the metric of the first domain that has it."""
    student_P, counted_P = np.zeros(question.student.prompts), np.zeros(question.student.prompts)
    teachers_P = {"best": np.zeros_like(student_P), GENERALIST: np.zeros_like(student_P)}
    for part in parts.values():
        new_P = part.domain.prompts_P & (counted_P == 0)
        student_P[new_P] = part.scores_P[STUDENT][new_P]
        for against, values_P in teachers_P.items():
            values_P[new_P] = part.scores_P[part.retained[against].teacher][new_P]
        counted_P[new_P] = 1
    found = {
        against: regressions(student_P, values_P, counted_P, resamples, delta=question.delta, clusters=resamples.clusters)
        for against, values_P in teachers_P.items()
    }
    return {against: {"worse": one.worse.to_json(), "better": one.better.to_json()} for against, one in found.items()}


def _pixels_json(pixels: Mapping[str, Pixels], mine_P: NDArray[np.float64], resamples: Resamples, clusters: int) -> Json:
    """Saturation and diversity against the generalist, and by how much more of the pictures is clipped."""
    student, teacher = pixels[STUDENT], pixels[GENERALIST]

    def mean(one: Pixels, totals_P: NDArray[np.float64]) -> Ratio:
        return Ratio.of(mine_P * totals_P, mine_P * one.pictures_P, resamples)

    both_P = mine_P * student.has_distance_P * teacher.has_distance_P
    distances = [Ratio.of(both_P * one.distance_P, both_P, resamples) for one in (student, teacher)]
    alone = "" if both_P.any() else "no prompt has several pictures: evaluate with --samples-per-prompt 2 or more"
    clipped = [mean(one, one.clipped_P) for one in (student, teacher)]
    return {
        "saturation": compared(mean(student, student.std_P), mean(teacher, teacher.std_P), clusters=clusters).to_json(),
        "clipped": {
            **compared(*clipped, clusters=clusters, by=np.subtract).to_json(),
            STUDENT: _plain(clipped[0].value),
            GENERALIST: _plain(clipped[1].value),
        },
        "diversity": compared(*distances, clusters=clusters, reason=alone).to_json(),
    }


def _worst(question: Question, parts: Mapping[str, _Part]) -> list[Json]:
    """The prompts at which the student falls furthest behind the best teacher of their domain."""
    found = []
    for name, part in parts.items():
        gap_P = part.scores_P[STUDENT] - part.scores_P[part.best]
        for p in np.flatnonzero(part.domain.prompts_P & (gap_P < 0)):
            about = {"id": question.student.prompt_id(p), "prompt": question.student.verdicts[p].prompt, "domain": name}
            values = {"student": float(part.scores_P[STUDENT][p]), "teacher": float(part.scores_P[part.best][p]), "gap": float(gap_P[p])}
            found.append({**about, "best_teacher": part.best, **values})
    return sorted(found, key=lambda one: (one["gap"], one["id"], one["domain"]))[:WORST_SHOWN]


def _about(one: FinishedEval) -> Json:
    failed = {state: sum(verdict.state == state for verdict in one.verdicts) for state in ("missing", "unreadable")}
    settings = {name: value for name, value in one.asked.items() if name != "suite"}
    return {"folder": str(one.folder), "settings": {**settings, "used": dict(one.used)}, **failed}


def _notes(question: Question, evals: Mapping[str, FinishedEval], parts: Mapping[str, _Part], clusters: int) -> list[str]:
    found = [] if question.floor else ["no --floor was given: the floor is 0"]
    for name, one in evals.items():
        if bad := sum(verdict.state != "judged" for verdict in one.verdicts):
            found.append(f"{name}: {bad} of {len(one.verdicts)} pictures are missing or unreadable and count as 0")
    guidance = question.student.used.get("guidance_scale", 1.0)
    if guidance != 1.0:
        found.append(f"the student was sampled with guidance {guidance:g}; a student of guided teachers is meant to be sampled with 1")
    times_P = np.sum([part.domain.prompts_P for part in parts.values()], axis=0)
    if outside := int((times_P == 0).sum()):
        found.append(f"{outside} of {len(times_P)} prompts are in no domain")
    if shared := int((times_P > 1).sum()):
        found.append(f"{shared} of {len(times_P)} prompts are in several domains")
    if few := [f"{name} {part.clusters}" for name, part in parts.items() if part.clusters < FEW_CLUSTERS]:
        found.append(f"intervals over fewer than {FEW_CLUSTERS} clusters of prompts are too narrow: {', '.join(few)} of {clusters}")
    return found


def _plain(value: float) -> float | None:
    return value if np.isfinite(value) else None
