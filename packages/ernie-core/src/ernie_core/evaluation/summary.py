"""Verdicts to metrics: each over all pictures and per tag, with an interval that respects clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ernie_core.evaluation.folder import Verdict
from ernie_core.stats import Interval, clustered_interval, mean_interval

Scores = Mapping[str, Interval]


def summarise(verdicts: Sequence[Verdict]) -> tuple[Scores, dict[str, Scores]]:
    """Intervals (95 %) by metric over all pictures, and by tag in order of appearance. A metric counts where a prompt has it."""
    tags = dict.fromkeys(tag for v in verdicts for tag in v.tags)
    return _scores(verdicts), {tag: _scores([v for v in verdicts if tag in v.tags]) for tag in tags}


def _scores(verdicts: Sequence[Verdict]) -> dict[str, Interval]:
    scores = {}
    for metric in dict.fromkeys(name for v in verdicts for name in v.metrics):
        mine = [v for v in verdicts if metric in v.metrics]
        values, clusters = [v.metrics[metric] for v in mine], [v.cluster for v in mine]
        if set(values) <= {0.0, 1.0}:
            scores[metric] = clustered_interval([value == 1.0 for value in values], clusters)
        else:
            scores[metric] = mean_interval(values, clusters)
    return scores


def as_json(scores: Scores) -> dict[str, dict[str, float | int | None]]:
    return {
        metric: {("mean" if name == "value" else name): v for name, v in interval.to_json().items()} for metric, interval in scores.items()
    }


def table(overall: Scores, tags: Mapping[str, Scores]) -> list[str]:
    """One line per metric and tag: mean, interval, number of pictures and of clusters."""
    rows = [("", "metric", "mean", "95 % interval", "n", "clusters")]
    for tag, scores in {"all": overall, **tags}.items():
        for metric, i in scores.items():
            rows.append((tag, metric, f"{i.value:.4f}", f"[{i.low:.4f}, {i.high:.4f}]", str(i.n), str(i.clusters)))
    widths = [max(len(row[k]) for row in rows) for k in range(6)]
    return ["  ".join(cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths))) for row in rows]
