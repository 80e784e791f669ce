"""What a run's loss amounted to: its strengths with their units, and the margin at which it is content."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ernie_align.losses import LINEAR_SLOPE, stopping_margin
from ernie_align.telemetry import BETA_EFF, Row

_ANCHORED = ("anchored-dpo", "hinge-anchors")
_NOT_ITS_OWN = ("use",)
_ALWAYS_TOWARDS = "none: beta_eff is not above anchor_lose, so the rejected picture is always trained towards (a weighted fine-tuning)"
_HINGE_OUTWEIGHS = (
    "none: the rejected picture is repelled until its error lies above the reference's, and there the anchor outweighs the repulsion"
)


def strengths(method: Mapping[str, Any], training: Sequence[Row]) -> list[tuple[str, str]]:
    """Rows of a table, names and values, as plain text."""
    loss = method.get("loss", {})
    rows = [("loss", str(loss.get("use", "?")))]
    rows += [(f"loss.{name}", _shown(value)) for name, value in loss.items() if name not in _NOT_ITS_OWN]
    effective = effective_strengths(training)
    if effective:
        unit = "errors of the anchors" if loss.get("use") in _ANCHORED else "mean errors"
        rows.append(("beta_eff", f"{', then '.join(f'{value:.6g}' for value in effective)} in {unit}"))
    rows.append(("M*", content_margin(loss, effective)))
    reference = method.get("reference", {})
    rows.append(("reference", ", ".join(f"{name} {_shown(value)}" for name, value in reference.items() if value is not False)))
    adapter = method.get("adapter", {})
    rows.append(("trained", "all weights" if adapter is False else "an adapter: " + _shown(adapter)))
    return rows


def effective_strengths(training: Sequence[Row]) -> list[float]:
    """The different values of beta_eff, one per resolution. They are logged as means, whose last bits differ with the number of steps in a row."""
    return list(dict.fromkeys(float(f"{value:.6g}") for row in training if (value := row.get(BETA_EFF)) is not None))


def content_margin(loss: Mapping[str, Any], effective: Sequence[float]) -> str:
    """M*, in words with its units."""
    found = [mean_margin(loss, beta_eff) for beta_eff in effective or (math.nan,)]
    figures = [f"{value:.3g}" for value in found if value is not None and math.isfinite(value)]
    hinge = loss.get("use") == "hinge-anchors"
    if figures:
        before = ", once the rejected error lies above the reference's: until then it is repelled at any margin" if hinge else ""
        return f"{', then '.join(figures)} in mean errors{before}"
    if loss.get("use") in _ANCHORED:
        never = _HINGE_OUTWEIGHS if hinge else _ALWAYS_TOWARDS
        lose = float(loss.get("anchor_lose", 0.0))
        if lose == 0:
            return "none: nothing anchors the rejected picture, which is repelled without end"
        if loss.get("anchor_reduction") == "sum":
            margins = [stopping_margin(beta_eff, lose) for beta_eff in effective]
            return ", then ".join(never if m is None else f"{m:.3g} in summed errors" for m in margins)
        return never
    return "none: the rejected picture is repelled without end"


def mean_margin(loss: Mapping[str, Any], beta_eff: float) -> float | None:
    """M* in mean errors; None where there is none, or where the number of elements that a sum is over is not known."""
    use = loss.get("use")
    if use in _ANCHORED and loss.get("anchor_reduction") != "sum" and math.isfinite(beta_eff):
        return stopping_margin(beta_eff, float(loss.get("anchor_lose", 0.0)))
    if use == "linear-dpo" and loss.get("floor") == 0:
        return 0.5 / (LINEAR_SLOPE * float(loss["beta"]))
    if use == "ipo":
        return 1 / (2 * float(loss["beta"]))
    return None


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " ".join(_shown(inner) for inner in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
