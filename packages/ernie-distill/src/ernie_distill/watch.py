"""The watch over a run of distillation, with its own rules and what to do about them. Light: no torch."""

from __future__ import annotations

from functools import partial

from ernie_core.api import RunView
from ernie_core.train.watch import Alarm, Rules, Watch
from ernie_distill.method_config import MtDmdConfig
from ernie_distill.telemetry import AlarmConfig, is_healthy, judge, recent

KEPT = "distill"
REMEDIES = {
    "not-finite": "a lower optimizer.learning_rate",
    "saturation": "a smaller method.guidance.weight or scale, or method.guidance.below_step = true, which leaves alone what a step has resolved already",
    "diversity": "more method.fake_steps, so that matching sees where the student has thinned out, and a lower optimizer.learning_rate",
    "fake-lost": "more method.fake_steps or fake_warmup_steps, and a lower learning rate for the student than for the fake score",
    "spear-without-shield": "more method.fake_warmup_steps, so that matching has something to say when guidance begins, or a smaller method.guidance.weight",
}


def start(run: RunView) -> None:
    """Watch a run of the method ``mt-dmd`` whose alarms are not turned off."""
    options = run.config.method.options
    if isinstance(options, MtDmdConfig) and options.alarms is not None:
        run.kept[KEPT] = watch = watch_over(run, options.alarms)
        watch.catch_up()


def watch_of(run: RunView) -> Watch | None:
    found = run.kept.get(KEPT)
    return found if isinstance(found, Watch) else None


def watch_over(run: RunView, limits: AlarmConfig) -> Watch:
    """
    Args:
        limits: the method's ``alarms``.
    """
    return Watch(run, rules(limits), _reason)


def rules(limits: AlarmConfig) -> Rules:
    return Rules(partial(judge, config=limits), partial(is_healthy, config=limits), partial(recent, config=limits))


def _reason(alarm: Alarm, good: str) -> str:
    return (
        f"{alarm.found}. That is, {alarm.meaning}. {good} another run with {REMEDIES[alarm.rule]}. The limits are "
        "method.alarms, or method.alarms = false. See `ernie distill report`"
    )
