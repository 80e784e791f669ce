"""Teacher and student side by side: pictures of the same prompts, from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ernie_core.api import DataError
from ernie_core.evaluation.read import FinishedEval, mismatch, read_finished
from ernie_core.report.pictures import SMALL_PX, embedded_pixels

_SHOWN, _WORST_SHOWN = 12, 6
_SIDE_PX = 384


@dataclass(frozen=True)
class Sides:
    """``worst``: ids of prompts at which the student falls furthest behind."""

    teacher: FinishedEval
    student: FinishedEval
    worst: tuple[str, ...] = ()


def read_sides(teacher: Path, student: Path, *, worst: Sequence[str] = ()) -> Sides:
    """
    Raises:
        RunFolderError: no finished evaluations.
        DataError: they are of other prompts or another noise.
    """
    found = Sides(read_finished(teacher), read_finished(student), tuple(dict.fromkeys(worst)))
    if differs := mismatch(found.teacher, found.student):
        raise DataError(f"{teacher} and {student} cannot be shown side by side: {'; '.join(differs[:3])}")
    return found


def sides_section(sides: Sides) -> str:
    """The suite's first prompts, whose tags take turns, and the worst ones.

    Raises:
        DataError: a picture is not the one that was judged.
    """
    ids = {sides.student.prompt_id(p): p for p in range(sides.student.prompts)}
    worst = [ids[name] for name in sides.worst if name in ids][:_WORST_SHOWN]
    first = [p for p in range(sides.student.prompts) if p not in worst][:_SHOWN]
    words = f"Left the teacher ({_settings(sides.teacher)}), right the student ({_settings(sides.student)}), from the same noise."
    parts = [f'<p class="small">{escape(words)}</p>', _grid(sides, first)]
    if worst:
        parts += ["<h3>Where the student falls furthest behind</h3>", _grid(sides, worst)]
    return "".join(parts)


def _grid(sides: Sides, prompts: Sequence[int]) -> str:
    return f'<div class="grids">{"".join(_pair(sides, p) for p in prompts)}</div>'


def _pair(sides: Sides, prompt: int) -> str:
    shown = "".join(_picture(one, prompt, name) for name, one in (("teacher", sides.teacher), ("student", sides.student)))
    verdict = sides.student.samples(prompt)[0]
    metric = next(iter(verdict.metrics))
    values = [one.samples(prompt)[0].metrics.get(metric) for one in (sides.teacher, sides.student)]
    told = " and ".join("none" if value is None else f"{value:.3g}" for value in values)
    return f'<figure><div class="pair">{shown}</div><figcaption>{escape(verdict.prompt)} <span class="dim">{escape(metric)} {told}</span></figcaption></figure>'


def _picture(one: FinishedEval, prompt: int, name: str) -> str:
    verdict = one.samples(prompt)[0]
    pixels_HW3 = one.picture(verdict)
    if pixels_HW3 is None:
        return f'<p class="alarm">{escape(verdict.state)}</p>'
    uri, side = embedded_pixels(pixels_HW3, most_px=_SIDE_PX)
    kind = ' class="px"' if side <= SMALL_PX else ""
    return f'<img{kind} src="{uri}" alt="{name}">'


def _settings(one: FinishedEval) -> str:
    if not one.used:
        return "pictures that were given"
    guidance = one.used.get("guidance_scale", 1.0)
    return f"{one.used.get('steps', '?')} steps, " + ("no guidance" if guidance == 1 else f"guidance {guidance:g}")
