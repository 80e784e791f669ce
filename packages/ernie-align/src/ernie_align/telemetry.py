"""The metrics that preference training logs, and the rules by which it is stopped. Light: no torch.

Implicit accuracy says nothing by itself: preference training without anchors that has lost the data's manifold still reports 1.00, since the rejected picture's
error rises faster than the chosen one's. What tells is the chosen picture's error over the reference's, which a healthy run brings below 1. The rejected one's
ratio rises in healthy runs as well and is no alarm by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ernie_core.api import Config, NonNegative, Positive, PositiveInt
from ernie_core.train.watch import Alarm, Row, step_of

LOSS = "loss"
MARGIN = "dpo/margin"
MARGIN_SQUARED = "dpo/margin_squared"
IMPLICIT_ACCURACY = "dpo/implicit_accuracy"
POLICY_WIN = "dpo/policy_win"
POLICY_LOSE = "dpo/policy_lose"
REFERENCE_WIN = "dpo/reference_win"
REFERENCE_LOSE = "dpo/reference_lose"
SATURATION = "dpo/saturation"
LOSER_COEFFICIENT = "dpo/loser_coefficient"
BETA_EFF = "dpo/beta_eff"
DRIFT = "dpo/drift-sigma-{}"
"""With the decile of sigma, 0 to 9; only in validation."""
VALIDATION = "validation/"
"""Stands before the name of every metric of a validation."""


class AlarmConfig(Config):
    """When preference training stops itself. An error that is not finite always stops it."""

    win_ratio: Positive = 1.0
    """Stop when the chosen pictures' error over the reference's stays above this ..."""
    win_steps: PositiveInt = 50
    """... for so many steps."""
    lose_ratio: Positive = 1.5
    """Stop sooner when the rejected pictures' error over the reference's is above this, and the chosen ones' above win_ratio ..."""
    lose_steps: PositiveInt = 10
    """... for so many steps."""
    slack: NonNegative = 0.001
    """A ratio is above a limit from so much above it on: at the start policy and reference differ by rounding only."""


def ratios(row: Row) -> tuple[float | None, float | None]:
    """The errors on chosen and on rejected pictures over the reference's; None where the row has none."""
    return _ratio(row, POLICY_WIN, REFERENCE_WIN), _ratio(row, POLICY_LOSE, REFERENCE_LOSE)


def judge(history: Sequence[Row], config: AlarmConfig | None = None) -> Alarm | None:
    """What is wrong at the end of a history, if anything is. Pure: the same rows give the same answer, however they were come by.

    Args:
        history: logged rows in order, of training and validation, from the start or at least from longer ago than the rules' steps. A row speaks for the steps
            since the last row that has errors, the first one for the steps since 0.
        config: the limits; None: the defaults.
    """
    limits = config or AlarmConfig()
    if not history:
        return None
    step = step_of(history[-1])
    if odd := sorted(name for name, value in history[-1].items() if _watched(name) and not _finite(value)):
        found = ", ".join(odd[:4]) + (f" and {len(odd) - 4} more" if len(odd) > 4 else "")
        before = step_of(history[-2]) if len(history) > 1 else 0
        return Alarm(
            "not-finite",
            step,
            before,
            f"not finite: {found}",
            "the policy's errors have overflowed, or its weights are no numbers any more",
        )
    since_both = _bad_since(history, limits, both=True)
    if since_both is not None and step - since_both >= limits.lose_steps:
        win, lose = (_mean_ratio(history, since_both, side) for side in (0, 1))
        return Alarm(
            "both-rise",
            step,
            since_both,
            f"over {step - since_both} steps the error on rejected pictures was {lose:.4g} times the reference's (limit {limits.lose_ratio:g}) and that on chosen "
            f"ones {win:.4g} times (limit {limits.win_ratio:g})",
            "the policy pushes rejected pictures away and drags the chosen ones along: it is leaving the manifold of pictures",
        )
    since_win = _bad_since(history, limits, both=False)
    if since_win is not None and step - since_win >= limits.win_steps:
        win = _mean_ratio(history, since_win, 0)
        return Alarm(
            "chosen-rises",
            step,
            since_win,
            f"over {step - since_win} steps the error on chosen pictures was {win:.4g} times the reference's (limit {limits.win_ratio:g})",
            "the policy is worse than its reference even on the pictures it should prefer, however good its implicit accuracy looks",
        )
    return None


def is_healthy(history: Sequence[Row], config: AlarmConfig | None = None) -> bool:
    """Whether not even the newest row is above a limit: a checkpoint made now is a good one."""
    return judge(history, config) is None and _bad_since(history, config or AlarmConfig(), both=False) is None


def recent(history: Sequence[Row], config: AlarmConfig | None = None) -> list[Row]:
    """The end of a history that ``judge`` needs: the same answers, with rows appended, as the whole."""
    limits = config or AlarmConfig()
    since = _bad_since(history, limits, both=False)
    return _since(history, limits, math.inf if since is None else since)


def deciding(history: Sequence[Row], config: AlarmConfig | None = None) -> list[Row]:
    """The end of a history that tells whether ``judge`` finds an alarm and by which rule, though not since when: it does not grow while an alarm stands."""
    return _since(history, config or AlarmConfig(), math.inf)


def _since(history: Sequence[Row], limits: AlarmConfig, step: float) -> list[Row]:
    """From the last row with errors that is older than the limits' steps, or from ``step`` if that is earlier."""
    if not history:
        return []
    oldest = min(step_of(history[-1]) - max(limits.win_steps, limits.lose_steps), step)
    first = max((i for i, row in enumerate(history) if step_of(row) <= oldest and ratios(row)[0] is not None), default=0)
    return list(history[first:])


def _bad_since(history: Sequence[Row], limits: AlarmConfig, *, both: bool) -> int | None:
    """The step before the unbroken run of bad rows at the end; None if the last row with errors is not bad."""
    bad = False
    for row in _with_errors_backwards(history):
        win, lose = ratios(row)
        above = win is not None and win > limits.win_ratio + limits.slack
        if both:
            above = above and lose is not None and lose > limits.lose_ratio + limits.slack
        if not above:
            return step_of(row) if bad else None
        bad = True
    return 0 if bad else None


def _mean_ratio(history: Sequence[Row], since: int, side: int) -> float:
    """Unweighted over the rows after a step."""
    found = [ratio for row in history if step_of(row) > since and (ratio := ratios(row)[side]) is not None]
    return sum(found) / len(found)


def _with_errors_backwards(history: Sequence[Row]) -> Iterator[Row]:
    """Without the rows of validation, and those of steps that were all refused."""
    return (row for row in reversed(history) if ratios(row)[0] is not None)


def _ratio(row: Row, policy: str, reference: str) -> float | None:
    above, below = row.get(policy), row.get(reference)
    if above is None or below is None or not math.isfinite(above) or not math.isfinite(below) or below <= 0:
        return None
    return above / below


def _watched(name: str) -> bool:
    return name == LOSS or name.startswith(("dpo/", VALIDATION))


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
