"""The distributions behind the intervals: the regularised incomplete beta function, Student's t and the normal, without scipy."""

from __future__ import annotations

import math
from statistics import NormalDist


def student_quantile(p: float, degrees: float) -> float:
    """Quantile of Student's t for p > .5, from the beta distribution: t^2 / (d + t^2) ~ Beta(1/2, d/2)."""
    x = beta_quantile(2 * p - 1, 0.5, degrees / 2)
    return math.sqrt(degrees * x / max(1 - x, 1e-300))


def student_cdf(t: float, degrees: float) -> float:
    """P(T <= t) of Student's t, from the beta distribution."""
    if math.isinf(t):
        return float(t > 0)
    upper = beta_cdf(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return 1 - upper if t > 0 else upper


def normal_quantile(p: float) -> float:
    return NormalDist().inv_cdf(p)


def beta_quantile(p: float, a: float, b: float) -> float:
    """Inverse of the regularised incomplete beta function, by bisection to 1e-15."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22) evaluated with Lentz's method."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below this point
        return 1.0 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / _away(1 + term * d, tiny)
            c = _away(1 + term / c, tiny)
            step = c * d
            value *= step
        if abs(step - 1) < 1e-15:
            break
    return front * value


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
