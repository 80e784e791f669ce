r"""Repetition caps: no picture is expected more than R_max times over T draws.

    e_i = T P(c) p(i|c) <= R_max      that is, the probability of any picture is at most r = R_max / T

Water-filling: what lies above its cap is cut to it, and the rest is scaled by one common factor, until nothing lies above. Cutting and rescaling by
turns ends at

    filled_g = min(lambda mass_g, capacity_g),    sum_g filled_g = total

which one sort by capacity_g / mass_g finds exactly. It is done between categories, whose capacity is r times their pictures, and then within each
category, so that mass is moved out of a category only when all of it is at the cap.
"""

from __future__ import annotations

import math

import numpy as np

from ernie_core.api import ConfigError
from ernie_data.sampling.hierarchy import Floats, Law

_ROUNDING = 1e-12


def apply_caps(law: Law, *, draws: int, max_repeats: float) -> Law:
    """The law with every picture at most ``max_repeats / draws`` likely; unchanged if it is already so.

    Raises:
        ConfigError: the pictures that can be drawn are too few; says how many draws are feasible.
    """
    if math.isinf(max_repeats) or not draws:
        return law
    cap = max_repeats / draws
    if law.row_KJ.max() <= cap:
        return law
    drawable_KJ = np.where(law.row_KJ > 0, law.rows_KJ, 0)
    pictures = int(drawable_KJ.sum())
    if pictures * cap < 1 - _ROUNDING:
        raise ConfigError(
            f"max_repeats = {max_repeats:g} over {draws} draws needs at least {math.ceil(draws / max_repeats)} pictures, and {pictures} can be "
            f"drawn: at most {math.floor(pictures * max_repeats)} draws are feasible. Lower draws, raise max_repeats to {_up(draws / pictures)} or "
            "more, or add pictures."
        )
    mass_KJ = law.rows_KJ * law.row_KJ
    capacity_KJ = drawable_KJ * cap
    class_K = water_fill(mass_KJ.sum(1)[None], capacity_KJ.sum(1)[None], np.ones(1))[0]
    filled_KJ = water_fill(mass_KJ, capacity_KJ, class_K)
    return Law(law.rows_KJ, np.minimum(filled_KJ / np.maximum(law.rows_KJ, 1), cap))


def water_fill(mass_XG: Floats, capacity_XG: Floats, total_X: Floats) -> Floats:
    """min(lambda_x mass, capacity) with lambda_x such that row x sums to ``total_X``. ``total_X`` must not exceed the row's capacity where mass > 0."""
    live = mass_XG > 0
    capacity = np.where(live, capacity_XG, 0.0)
    with np.errstate(over="ignore"):
        limit = np.where(live, capacity / np.where(live, mass_XG, 1.0), np.inf)  # the factor at which a group reaches its cap
    order = np.argsort(limit, axis=1, kind="stable")
    sorted_limit = np.take_along_axis(limit, order, 1)
    sorted_capacity = np.take_along_axis(capacity, order, 1)
    sorted_mass = np.take_along_axis(np.where(live, mass_XG, 0.0), order, 1)
    full_before = np.cumsum(sorted_capacity, 1) - sorted_capacity
    mass_left = np.cumsum(sorted_mass[:, ::-1], 1)[:, ::-1]
    # With the first g groups full, the others share what is left by their mass. The first g whose factor its own group can bear is the answer.
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = (total_X[:, None] - full_before) / mass_left
    bearable = (factor <= sorted_limit) & (mass_left > 0)
    first = np.where(bearable.any(1), bearable.argmax(1), mass_XG.shape[1])
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), 1)
    full = live & (rank < first[:, None])
    open_ = live & ~full
    # Once more from plain sums: the running ones above lose digits over many groups.
    left = np.maximum(total_X - np.where(full, capacity, 0.0).sum(1), 0.0)
    share = np.where(open_, mass_XG, 0.0)
    norm = share.sum(1)
    scaled = share * (left / np.where(norm > 0, norm, 1.0))[:, None]
    return np.where(full, capacity, np.minimum(scaled, capacity))


def _up(value: float) -> str:
    """Six digits, rounded up, so that the advice works when it is followed."""
    scale = 10.0 ** (5 - math.floor(math.log10(value)))
    return f"{math.ceil(value * scale) / scale:.10g}"
