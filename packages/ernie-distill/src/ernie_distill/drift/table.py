"""``drift.json`` as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def lines(found: Json) -> Iterator[str]:
    yield from aligned(rows(found))
    yield ""
    for title, value in figures(found):
        yield f"{title}: {value}"
    for name, domain in found["domains"].items():
        if reason := domain["retention"]["best"].get("reason"):
            yield f"{name}: {reason}"


def rows(found: Json) -> list[list[str]]:
    """A head, and a row per domain."""
    head = [
        "domain",
        "metric",
        "prompts / clusters",
        "student",
        "best teacher",
        "retained of it",
        "of the generalist",
        "worse",
        "better",
        "saturation",
        "diversity",
    ]
    table = [head]
    for name, domain in found["domains"].items():
        best = domain["best_teacher"]
        regressions = domain["regressions"]["best"]
        table.append(
            [
                name,
                domain["metric"],
                f"{domain['prompts']} / {domain['clusters']}",
                number(domain["scores"]["student"]["value"]),
                f"{best} {number(domain['scores'][best]['value'])}",
                interval(domain["retention"]["best"]),
                interval(domain["retention"]["generalist"]),
                share(regressions["worse"]),
                share(regressions["better"]),
                interval(domain["saturation"]),
                interval(domain["diversity"]),
            ]
        )
    return table


def figures(found: Json) -> list[tuple[str, str]]:
    """What is of all domains."""
    drift, spread = found["drift"], found["spread"]
    worse = {against: one["worse"] for against, one in found["regressions"].items()}
    better = {against: one["better"] for against, one in found["regressions"].items()}
    return [
        ("drift against the best teachers", interval(drift["best"]) + _in(drift["best"])),
        ("drift against the generalist", interval(drift["generalist"]) + _in(drift["generalist"])),
        ("spread over domains", f"{interval(spread['best'])}; against the generalist {interval(spread['generalist'])}"),
        (
            f"prompts worse by more than {found['settings']['delta']:g}",
            f"{share(worse['best'])} than the best teachers ({share(better['best'])} better), {share(worse['generalist'])} than the generalist "
            f"({share(better['generalist'])} better)",
        ),
        ("saturation", f"{interval(found['saturation'])} times the generalist's; {_clipped(found['clipped'])}"),
        ("diversity", f"{interval(found['diversity'])} times the generalist's"),
    ]


def interval(one: Json) -> str:
    """Value and limits; why there is none, if so."""
    if one["value"] is None:
        return "undefined"
    if one["low"] is None:
        return f"{one['value']:.3f} (no interval)"
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def share(one: Json) -> str:
    return "undefined" if one["value"] is None else f"{one['value']:.1%}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]


def _in(one: Json) -> str:
    return f", in `{one['domain']}`" if one.get("domain") else ""


def _clipped(one: Json) -> str:
    if one["value"] is None:
        return "clipped values: unknown"
    return f"{one['student']:.1%} of its values are clipped, of the generalist's {one['generalist']:.1%}"
