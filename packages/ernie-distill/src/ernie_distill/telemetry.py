"""The metrics that distillation logs, and the rules by which it is stopped. Light: no torch.

What the student's loss says is nothing: it is the size of a direction. What tells are its pictures, against the guided teacher's at the same noise (saturation:
too vivid or too grey; diversity: all alike), whether the fake score still knows the student's distribution, and whether matching still answers guidance.
Rows of the fake score's warm-up are not judged, as the student stands still in them: the warm-up is over with the first row of a student's turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ernie_core.api import Config, Positive, PositiveInt
from ernie_core.train.watch import Alarm, Row, step_of

LOSS = "loss"
FAKE_LOSS = "distill/fake_loss"
MATCH_NORM = "distill/match_norm"
GUIDANCE_NORM = "distill/guidance_norm"
"""Root mean square of g_DM and of g_CA, before they are normalised."""
RATIO = "distill/ratio"
"""Mean over samples of rms(w_CA g_CA / n_CA) / rms(g_DM / n_DM): how much stronger guidance pulls than matching holds."""
MATCH_SCALE = "distill/match_scale"
GUIDANCE_SCALE = "distill/guidance_scale"
STUDENT_STD = "distill/student_std"
"""Standard deviation of the student's clean samples over places, mean over channels."""
REWARD = "distill/reward"
GATE = "gate/{}/{}"
"""With the objective, "dm" or "ca", and the teacher's name: its mean weight. Followed by ``/<domain>`` or ``/sigma-<decile>``: that of such samples."""

VALIDATION = "validation/"
"""Stands before the name of every metric of a validation. The following are logged in validations only, of pictures from fixed noise, two of each prompt."""
TEACHER_STD = "distill/teacher_std"
STUDENT_SPREAD = "distill/student_spread"
"""Standard deviation over the noises of a prompt."""
TEACHER_SPREAD = "distill/teacher_spread"
SATURATION = "distill/saturation"
"""The student's standard deviation over the guided generalist's."""
DIVERSITY = "distill/diversity"
"""The student's spread over the guided generalist's."""


class AlarmConfig(Config):
    """When distillation stops itself. What is not finite always stops it. Steps are optimiser steps; with five of the fake score to one of the student, 300 of
    them move the student 50 times."""

    saturation_above: Positive = 1.5
    """Stop when the student's standard deviation over the teacher's stays above this: what a deterministic sampler makes of a student that was trained with
    renoising is 1.65 to 1.76, what guidance without matching makes has no bound ..."""
    saturation_below: Positive = 0.5
    """... or below this: pictures turn grey ..."""
    saturation_steps: PositiveInt = 300
    """... from one validation to another so many steps later."""
    diversity_below: Positive = 0.3
    """Stop when the spread over the student's pictures stays below this share of the teacher's: nearly one picture of a prompt, whatever the noise ..."""
    diversity_steps: PositiveInt = 300
    """... from one validation to another so many steps later."""
    fake_ratio: Positive = 3.0
    """Stop when the fake score's loss is this many times the least it has been: it has lost the student, and matching points anywhere. A student that takes on
    the teacher's guidance changes it by less than its variance, saturation squared ..."""
    fake_steps: PositiveInt = 100
    """... both as means over so many steps, since a single batch's loss depends on its noise levels."""
    ratio: Positive = 20.0
    """Stop when guidance pulls so many times harder than matching holds. In balance the two are about equal; right after the warm-up the ratio is large, as a
    fake score that still equals the teacher gives matching nothing to do ..."""
    ratio_steps: PositiveInt = 600
    """... in every student's turn of so many steps: 100 turns at the default ratio of turns."""

    def __post_init__(self) -> None:
        if self.saturation_below >= self.saturation_above:
            raise ValueError(
                f"saturation_below = {self.saturation_below:g} is not below saturation_above = {self.saturation_above:g}: every student would be stopped"
            )
        if self.fake_ratio <= 1:
            raise ValueError(f"fake_ratio = {self.fake_ratio:g}: the loss is always above its own least; expected more than 1")


def judge(history: Sequence[Row], config: AlarmConfig | None = None) -> Alarm | None:
    """What is wrong at the end of a history, if anything is. Pure: the same rows give the same answer, however they were come by.

    Args:
        history: logged rows in order, of training and validation, from the start or what ``recent`` left of it.
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
            "a prediction or a gradient has overflowed, or weights are no numbers any more",
        )
    for rule in (_saturation, _diversity, _fake_lost, _spear):
        if alarm := rule(history, limits):
            return alarm
    return None


def is_healthy(history: Sequence[Row], config: AlarmConfig | None = None) -> bool:
    """Whether not even the newest value of anything is beyond a limit: a checkpoint made now is a good one."""
    limits = config or AlarmConfig()
    if judge(history, limits) is not None:
        return False
    if any(_bad_since(history, name, bad) is not None for name, bad in _standing(limits)):
        return False
    least, newest = _least_block(history, limits), _newest(history, FAKE_LOSS)
    return least is None or newest is None or newest <= limits.fake_ratio * least[1]


def recent(history: Sequence[Row], config: AlarmConfig | None = None) -> list[Row]:
    """As much of a history as ``judge`` and ``is_healthy`` need: the same answers, with rows appended, as the whole.

    That is the first row of a student's turn, the block of steps in which the fake score's loss was least, the last whole block and what follows; and of each
    other value the last good row, and the first and the last of the bad ones after it, each with its whole block.
    """
    if not history:
        return []
    limits = config or AlarmConfig()
    first = _first_turn(history)
    if first is None:
        return list(history[-2:])  # in the warm-up only the newest row is judged, which must be finite
    wanted = {first, len(history) - 1, max(len(history) - 2, 0)}
    blocks = _blocks(history, limits)
    if blocks:
        least = min(blocks[:-1], key=lambda block: block[1], default=blocks[-1])
        for _, _, places in (least, *blocks[-2:]):
            wanted.update(places)
    for name, bad in _standing(limits):
        places = [i for i, row in enumerate(history) if i >= first and row.get(name) is not None]
        good = max((i for i in places if not bad(_value(history[i], name))), default=-1)
        after = [i for i in places if i > good]
        wanted.update(after[:1] + after[-1:] + [i for i in places if i == good])
    for _, _, places in blocks:
        if wanted.intersection(places):
            wanted.update(places)  # a block of which a part was left would have another mean
    return [history[i] for i in sorted(wanted)]


# ---- the rules ----


def _saturation(history: Sequence[Row], limits: AlarmConfig) -> Alarm | None:
    name, step = VALIDATION + SATURATION, step_of(history[-1])
    for bad, side, limit, meaning in (
        (
            _above(limits.saturation_above),
            "above",
            limits.saturation_above,
            "guidance is amplified without end: colours and contrasts leave the teacher's",
        ),
        (_below(limits.saturation_below), "below", limits.saturation_below, "the student's pictures fade to a mean of what it has learnt"),
    ):
        since = _bad_since(history, name, bad)
        if since is not None and _last_step(history, name) - since >= limits.saturation_steps:
            newest = _newest(history, name)
            return Alarm(
                "saturation",
                step,
                since,
                f"since the validation at step {since} the student's standard deviation has been {side} {limit:g} times the "
                f"teacher's, now {newest:.4g}",
                meaning,
            )
    return None


def _diversity(history: Sequence[Row], limits: AlarmConfig) -> Alarm | None:
    name = VALIDATION + DIVERSITY
    since = _bad_since(history, name, _below(limits.diversity_below))
    if since is None or _last_step(history, name) - since < limits.diversity_steps:
        return None
    return Alarm(
        "diversity",
        step_of(history[-1]),
        since,
        f"since the validation at step {since} the spread over the student's pictures has been below {limits.diversity_below:g} times the teacher's, now "
        f"{_newest(history, name):.4g}",
        "the student paints nearly one picture of a prompt, whatever the noise",
    )


def _fake_lost(history: Sequence[Row], limits: AlarmConfig) -> Alarm | None:
    blocks = _whole_blocks(history, limits)
    if not blocks:
        return None
    number, newest, _ = blocks[-1]
    least = min(loss for _, loss, _ in blocks)
    if not newest > limits.fake_ratio * least:
        return None
    return Alarm(
        "fake-lost",
        step_of(history[-1]),
        number * limits.fake_steps,
        f"the fake score's loss was {newest:.4g} over {limits.fake_steps} steps, {_times(newest, least)} its least of {least:.4g} (limit {limits.fake_ratio:g})",
        "the fake score has lost the student, so that matching compares the teachers with something else",
    )


def _spear(history: Sequence[Row], limits: AlarmConfig) -> Alarm | None:
    since = _bad_since(history, RATIO, _above(limits.ratio))
    if since is None or _last_step(history, RATIO) - since < limits.ratio_steps:
        return None
    return Alarm(
        "spear-without-shield",
        step_of(history[-1]),
        since,
        f"since step {since} guidance has pulled more than {limits.ratio:g} times harder than matching held, now {_newest(history, RATIO):.4g} times",
        "guidance drives the student alone, which has no fixed point",
    )


def _standing(limits: AlarmConfig) -> tuple[tuple[str, Callable[[float], bool]], ...]:
    """The values that must not stay beyond a limit."""
    return (
        (VALIDATION + SATURATION, _above(limits.saturation_above)),
        (VALIDATION + SATURATION, _below(limits.saturation_below)),
        (VALIDATION + DIVERSITY, _below(limits.diversity_below)),
        (RATIO, _above(limits.ratio)),
    )


# ---- rows ----


def _first_turn(history: Sequence[Row]) -> int | None:
    """Place of the first row with a student's turn, when the warm-up was over."""
    return next((i for i, row in enumerate(history) if row.get(MATCH_NORM) is not None or row.get(GUIDANCE_NORM) is not None), None)


def _judged(history: Sequence[Row], name: str) -> list[Row]:
    """Rows that have a value, from the end of the warm-up on."""
    first = _first_turn(history)
    return [] if first is None else [row for row in history[first:] if row.get(name) is not None]


def _bad_since(history: Sequence[Row], name: str, bad: Callable[[float], bool]) -> int | None:
    """Step of the first row of the unbroken run of bad ones at the end; None if the last row with a value is not bad."""
    since = None
    for row in reversed(_judged(history, name)):
        if not bad(_value(row, name)):
            break
        since = step_of(row)
    return since


def _newest(history: Sequence[Row], name: str) -> float | None:
    rows = _judged(history, name)
    return _value(rows[-1], name) if rows else None


def _last_step(history: Sequence[Row], name: str) -> int:
    return step_of(_judged(history, name)[-1])


Block = tuple[int, float, list[int]]
"""Number, mean loss of the fake score, and the places of its rows. Block n is of the steps n N + 1 to (n + 1) N, N = fake_steps."""


def _blocks(history: Sequence[Row], limits: AlarmConfig) -> list[Block]:
    """All from the end of the warm-up on but the one that it ended in; the last one may be growing still."""
    first = _first_turn(history)
    if first is None:
        return []
    begun = (step_of(history[first]) - 1) // limits.fake_steps
    rows: dict[int, list[int]] = {}
    for i in range(first, len(history)):
        number = (step_of(history[i]) - 1) // limits.fake_steps
        if number > begun and history[i].get(FAKE_LOSS) is not None:
            rows.setdefault(number, []).append(i)
    return [(number, sum(_value(history[i], FAKE_LOSS) for i in places) / len(places), places) for number, places in rows.items()]


def _whole_blocks(history: Sequence[Row], limits: AlarmConfig) -> list[Block]:
    step = step_of(history[-1])
    return [block for block in _blocks(history, limits) if step >= (block[0] + 1) * limits.fake_steps]


def _least_block(history: Sequence[Row], limits: AlarmConfig) -> Block | None:
    return min(_whole_blocks(history, limits), key=lambda block: block[1], default=None) if history else None


def _above(limit: float) -> Callable[[float], bool]:
    return lambda value: value > limit


def _below(limit: float) -> Callable[[float], bool]:
    return lambda value: value < limit


def _value(row: Row, name: str) -> float:
    value = row[name]
    if value is None:
        raise ValueError(f"a logged row without {name}")
    return value


def _times(value: float, least: float) -> str:
    return f"{value / least:.3g} times" if least > 0 else "above"


def _watched(name: str) -> bool:
    return name == LOSS or name.startswith(("distill/", "gate/", VALIDATION))


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
