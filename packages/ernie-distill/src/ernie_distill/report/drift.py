"""What ``ernie distill drift`` found, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from ernie_core.report.page import facts_table
from ernie_distill.drift.table import figures, number, rows


def drift_section(found: Mapping[str, Any]) -> str:
    return "".join((_table(found), facts_table(figures(found)), _worst(found), _notes(found)))


def _table(found: Mapping[str, Any]) -> str:
    head, *body = rows(found)
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    shown = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>' for row in body
    )
    reasons = "".join(
        f'<p class="small">{escape(name)}: {escape(str(reason))}</p>'
        for name, domain in found["domains"].items()
        if (reason := domain["retention"]["best"].get("reason"))
    )
    return f'<div class="scroll"><table class="wide"><thead><tr>{heads}</tr></thead><tbody>{shown}</tbody></table></div>{reasons}'


def _worst(found: Mapping[str, Any]) -> str:
    if not found["worst_prompts"]:
        return ""
    heads = "".join(f'<th scope="col">{text}</th>' for text in ("prompt", "domain", "student", "best teacher"))
    shown = "".join(
        f'<tr><td>{escape(str(one["prompt"]))}</td><td>{escape(str(one["domain"]))}</td><td class="n">{number(one["student"])}</td>'
        f"<td>{escape(str(one['best_teacher']))} {number(one['teacher'])}</td></tr>"
        for one in found["worst_prompts"]
    )
    return f'<h3>Prompts that lost most</h3><div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{shown}</tbody></table></div>'


def _notes(found: Mapping[str, Any]) -> str:
    return "".join(f'<p class="small">{escape(str(note))}.</p>' for note in found["notes"])
