"""The watch over a run of preference training, with its own rules. Light: no torch."""

from __future__ import annotations

from functools import partial

from ernie_align.method_config import DpoConfig
from ernie_align.telemetry import AlarmConfig, is_healthy, judge, recent
from ernie_core.api import RunView
from ernie_core.train.watch import Alarm, Rules, Watch

KEPT = "align"


def watch_over(run: RunView, limits: AlarmConfig) -> Watch:
    """
    Args:
        run: whose options say what could be done about an alarm.
        limits: the method's ``alarms``.
    """

    def reason(alarm: Alarm, good: str) -> str:
        return (
            f"{alarm.found}. That is, {alarm.meaning}. {good} another run with {_remedy(run)}. The limits are "
            "method.alarms, or method.alarms = false. See `ernie align report`"
        )

    return Watch(run, rules(limits), reason)


def rules(limits: AlarmConfig) -> Rules:
    return Rules(partial(judge, config=limits), partial(is_healthy, config=limits), partial(recent, config=limits))


def start(run: RunView) -> None:
    """Watch a run of the method ``dpo`` whose alarms are not turned off."""
    options = run.config.method.options
    if isinstance(options, DpoConfig) and options.alarms is not None:
        run.kept[KEPT] = watch = watch_over(run, options.alarms)
        watch.catch_up()


def watch_of(run: RunView) -> Watch | None:
    found = run.kept.get(KEPT)
    return found if isinstance(found, Watch) else None


def _remedy(run: RunView) -> str:
    options = run.config.method.options
    anchored = isinstance(options, DpoConfig) and options.loss.use in ("anchored-dpo", "hinge-anchors")
    anchors = "larger anchors (method.loss.anchor_win, anchor_lose)" if anchored else 'anchors (method.loss.use = "anchored-dpo")'
    return f"a lower optimizer.learning_rate, {anchors} or a larger method.loss.beta, which is content with a smaller margin"
