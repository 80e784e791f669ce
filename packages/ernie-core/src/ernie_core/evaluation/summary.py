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
    """A row per tag, sorted, and a column per metric: mean and 95 % interval. ``n``: pictures and clusters of the row's first metric."""
    rows = [["", "n", "clusters", *overall]]
    for tag, scores in [("all", overall), *sorted(tags.items())]:
        first = next(iter(scores.values()))
        cells = [_cell(scores[metric]) if metric in scores else "-" for metric in overall]
        rows.append([tag, str(first.n), str(first.clusters), *cells])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(cell.rjust(w) if k in (1, 2) else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths))).rstrip() for row in rows
    ]


def _cell(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
