"""What `align_effect.py` found: figures from the folders of runs and verdicts, as rows and as Markdown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from align_arms import Arm
from experiment import table
from PIL import Image

from ernie_align.telemetry import judge, ratios
from ernie_core.stats import mean_interval, non_inferiority, paired_difference
from ernie_core.train.watch import read_rows
from ernie_data.shapes.quality import HIGHEST, LOWEST, noise_sigma, quality_of

LAW = ("colour", "position")
METRICS = ("score", "right", "count", "shape", *LAW)
"""`score` is what pairs are made by, the scorer `shapes-agreement` over colour and place; `right` is all that the prompt says and nothing else, `count` that
there is exactly one object."""
LOOK = ("quality", "grain", "clipped")
"""Of the pictures of the first noise, which the verifier of contents does not see: the known quality law from 0 to 1, the grain's deviation and the share of
values at the ends of the range."""
MARGIN = 0.03
ONE_OBJECT, CLIPPED = 0.9, 0.5
"""A model has collapsed if its pictures show exactly one object more rarely, or are clipped more, on average. The base is far from both."""
LAST_STEPS = 50


@dataclass(frozen=True)
class Picture:
    """A judged picture: ``cluster`` is what it shows, the same in all wordings."""

    cluster: str
    held_out: bool
    metrics: Mapping[str, float]


def verdicts(folder: Path) -> dict[str, Picture]:
    """By prompt and number of the noise, which `ernie eval` leaves out where there is only one."""
    found = {}
    for line in (folder / "verdicts.jsonl").read_text().splitlines():
        row = json.loads(line)
        name = row["id"] if re.search(r"-\d{4}-\d+$", row["id"]) else f"{row['id']}-0"
        look = look_of(folder / "pictures" / f"{row['id']}.png") if name.endswith("-0") else {}
        score = float(np.mean([row["metrics"][part] for part in LAW]))
        found[name] = Picture(row["cluster"], "held-out" in row["tags"], {"score": score, **row["metrics"], **look})
    return dict(sorted(found.items()))


def look_of(file: Path) -> dict[str, float]:
    pixels_HW3 = np.asarray(Image.open(file).convert("RGB"))
    return {
        "quality": (quality_of(pixels_HW3) - LOWEST) / (HIGHEST - LOWEST),
        "grain": noise_sigma(pixels_HW3.astype(np.float32)),
        "clipped": float(((pixels_HW3 == 0) | (pixels_HW3 == 255)).mean()),
    }


def share_of(pictures: Iterable[Picture], metric: str) -> dict[str, Any]:
    """Mean with its interval, over those that have the metric."""
    having = [picture for picture in pictures if metric in picture.metrics]
    return mean_interval([p.metrics[metric] for p in having], [p.cluster for p in having], bounds=(0.0, 1.0)).to_json()


def mean_of(judged: Mapping[str, Picture], metric: str) -> float:
    return float(np.mean([picture.metrics[metric] for picture in judged.values() if metric in picture.metrics]))


def paired(first: Sequence[Mapping[str, Picture]], second: Sequence[Mapping[str, Picture]]) -> list[tuple[Picture, Picture]]:
    """Pictures of the same prompts from the same noise, seed by seed."""
    return [(one[name], other[name]) for one, other in zip(first, second, strict=True) for name in one if name in other]


def difference(pairs: Iterable[tuple[Picture, Picture]], metric: str) -> dict[str, Any]:
    """Mean of first minus second with its interval over what is shown, the p value, and whether the first is not worse by ``MARGIN``."""
    pairs = [(one, other) for one, other in pairs if metric in one.metrics]
    first, second = ([picture.metrics[metric] for picture in side] for side in zip(*pairs))
    clusters = [one.cluster for one, _ in pairs]
    found = paired_difference(first, second, clusters)
    held = non_inferiority(first, second, clusters, margin=MARGIN)
    return {**found.interval.to_json(), "p_value": found.p_value, "not_worse_by_3_points": bool(held.shown), "one_sided_low": held.low}


def errors(run: Path) -> dict[str, Any]:
    """Of the last steps of a preference run: errors over the reference's, and what the loss did. ``alarm``: the step at which the watch would have stopped it."""
    rows = [row for row in read_rows(run / "metrics.jsonl") if "dpo/policy_win" in row]
    if not rows:
        return {}
    last = [row for row in rows if int(row["step"] or 0) > int(rows[-1]["step"] or 0) - LAST_STEPS]
    alarms = (judge(rows[: n + 1]) for n in range(len(rows)))
    names = {"accuracy": "dpo/implicit_accuracy", "loser_coefficient": "dpo/loser_coefficient", "beta_eff": "dpo/beta_eff"}
    return {
        "win_ratio": _mean(ratios(row)[0] for row in last),
        "lose_ratio": _mean(ratios(row)[1] for row in last),
        **{name: _mean(row.get(key) for row in last) for name, key in names.items()},
        "alarm": next((alarm.step for alarm in alarms if alarm), None),
    }


def row_of(arm: Arm, runs: Sequence[Path], judged: Sequence[Mapping[str, Picture]], base: Mapping[str, Picture]) -> dict[str, Any]:
    """One arm over its seeds, against the base."""
    pictures = [picture for seed in judged for picture in seed.values()]
    against = paired(judged, [base] * len(judged))
    seen, held_out = ([pair for pair in against if pair[0].held_out == side] for side in (False, True))
    by_seed = {metric: [mean_of(seed, metric) for seed in judged] for metric in (*METRICS, *LOOK)}
    ended = [json.loads((run / "ended.json").read_text()) for run in runs]
    return {
        "arm": arm.name,
        "data": arm.data,
        "learning_rate": arm.rate,
        "seeds": len(runs),
        "pictures": len(pictures),
        "trained_s": [round(one["wall_s"], 1) for one in ended],
        "errors": [errors(run) for run in runs],
        "by_seed": {metric: [round(value, 4) for value in values] for metric, values in by_seed.items()},
        "collapsed": sum(count < ONE_OBJECT or clipped > CLIPPED for count, clipped in zip(by_seed["count"], by_seed["clipped"])),
        "grain_of_base": float(np.mean(by_seed["grain"])) / mean_of(base, "grain"),
        **{metric: share_of(pictures, metric) for metric in METRICS},
        "minus_base": {
            **{metric: difference(against, metric) for metric in METRICS},
            "quality": difference(against, "quality"),
            "score seen": difference(seen, "score"),
            "score held-out": difference(held_out, "score"),
        },
    }


def against_control(
    found: dict[str, Any], judged: Sequence[Mapping[str, Picture]], control: Sequence[Mapping[str, Picture]], name: str
) -> None:
    """Add the arm's difference from the better control."""
    pairs = paired(judged, control)
    by_seed = [float(np.mean([a.metrics["score"] - b.metrics["score"] for a, b in paired([x], [y])])) for x, y in zip(judged, control)]
    found["minus_control"] = {
        "control": name,
        "by_seed": [round(value, 4) for value in by_seed],
        **{m: difference(pairs, m) for m in METRICS},
    }


def markdown(rows: Sequence[Mapping[str, Any]], base: Mapping[str, Any]) -> list[str]:
    """Three tables: what collapses, what is learnt from pairs, and every part against the base. Shares in per cent with 95 % intervals."""
    lines = ["## What collapses", ""]
    lines += table(
        [
            "arm",
            "beta_eff",
            "l_w / ref",
            "l_l / ref",
            "accuracy",
            "loser coefficient",
            "alarm at step",
            "collapsed",
            "one object",
            "clipped",
            "grain / base",
            "score",
        ],
        [
            [
                "base",
                "-",
                "1",
                "1",
                "-",
                "-",
                "-",
                "-",
                _share(base["count"]),
                f"{100 * base['clipped']['value']:.0f}",
                "1",
                _share(base["score"]),
            ],
            *(_stability(row) for row in rows if row["data"] != "topdown"),
        ],
    )
    lines += ["", "## What is learnt from pairs", ""]
    lines += table(
        ["arm", "beta_eff", "pictures", "score", "score - base", "score - better control", "by seed", "right - better control"],
        [
            ["base", "-", str(base["score"]["n"]), _share(base["score"]), "-", "-", "-", "-"],
            *(_learnt(r) for r in rows if r["data"] != "topdown"),
        ],
    )
    names = list(rows[0]["minus_base"])
    lines += ["", f"## Arm minus base, part by part (`!`: not shown to be at most {100 * MARGIN:g} points worse)", ""]
    lines += table(
        ["arm", "beta_eff", *names],
        [
            [
                row["arm"],
                beta_of(row),
                *(_share(row["minus_base"][n], p=True) + ("" if row["minus_base"][n]["not_worse_by_3_points"] else " !") for n in names),
            ]
            for row in rows
        ],
    )
    return lines


def _stability(row: Mapping[str, Any]) -> list[str]:
    figures = [_figure(row["errors"], name) for name in ("win_ratio", "lose_ratio", "accuracy", "loser_coefficient")]
    alarms = ", ".join(str(error["alarm"] or "none") for error in row["errors"])
    clipped, grain = f"{100 * np.mean(row['by_seed']['clipped']):.0f}", f"{row['grain_of_base']:.1f}"
    return [
        row["arm"],
        beta_of(row),
        *figures,
        alarms,
        f"{row['collapsed']} of {row['seeds']}",
        _share(row["count"]),
        clipped,
        grain,
        _share(row["score"]),
    ]


def _learnt(row: Mapping[str, Any]) -> list[str]:
    control = row.get("minus_control")
    against = (
        [_share(control["score"], p=True), ", ".join(f"{100 * v:+.1f}" for v in control["by_seed"]), _share(control["right"], p=True)]
        if control
        else ["-"] * 3
    )
    return [row["arm"], beta_of(row), str(row["pictures"]), _share(row["score"]), _share(row["minus_base"]["score"], p=True), *against]


def beta_of(row: Mapping[str, Any]) -> str:
    """Of a row of preference training; 0 where the preference term is nothing beside the anchors."""
    told = [error["beta_eff"] for error in row["errors"] if error]
    return "-" if not told else "0" if told[0] < 1e-6 else f"{told[0]:g}"


def _mean(values: Iterable[float | None]) -> float | None:
    """None where one is missing or not finite."""
    found = list(values)
    return None if not found or any(value is None or not math.isfinite(value) for value in found) else float(np.mean(found))  # type: ignore[arg-type]


def _figure(told: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [error[name] for error in told if error]
    if not values:
        return "-"
    if None in values:
        return "not finite"
    mean = float(np.mean(values))
    return "0" if abs(mean) < 1e-6 else f"{mean:.2f}" if 0.1 <= abs(mean) < 1000 else f"{mean:.2g}"


def _share(found: Mapping[str, Any], p: bool = False) -> str:
    low, high = (math.nan if found[side] is None else 100 * found[side] for side in ("low", "high"))
    text = f"{100 * found['value']:{'+' if p else ''}.1f} [{low:.1f}, {high:.1f}]"
    return f"{text}, p {found['p_value']:.1g}" if p and found["p_value"] >= 1e-16 else f"{text}, p < 1e-16" if p else text
