"""``report.html``: one file that loads nothing. Every text that came from outside this module is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ernie_core.stats import Interval
from ernie_data.quickstart.curves import Points, line_chart
from ernie_data.quickstart.judging import TAGS, Answer, by_triple
from ernie_data.quickstart.sheets import png, seen_in_words

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c1c1c;max-width:1120px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2.2rem}p{max-width:46rem}
table{border-collapse:collapse}th,td{padding:.3rem .9rem;text-align:right;border-bottom:1px solid #ddd}th:first-child,td:first-child{text-align:left}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px}figure{margin:0}
img{image-rendering:pixelated;width:100%;display:block;border:1px solid #ccc}img.strip{width:auto;max-width:100%}
figcaption{font-size:12px;line-height:1.35;margin-top:3px;overflow-wrap:anywhere}.ok{color:#15703a}.bad{color:#b00020}.ci{color:#555;font-size:.9em}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:18px}svg text{font:11px system-ui,sans-serif;fill:currentColor}
svg .title{font-weight:600;font-size:13px}svg .y{text-anchor:end}svg .x{text-anchor:middle}svg .grid{stroke:#e3e3e3;fill:none}
pre{background:#f5f5f5;padding:.8rem;overflow-x:auto}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class ReportContent:
    """What the page shows. ``progress``: (step, PNG) of the grids made during training. ``facts``: rows of the table at the end."""

    held_out: Sequence[Answer]
    seen: Sequence[Answer]
    scores: Mapping[str, Interval]
    seen_scores: Mapping[str, Interval]
    curves: Mapping[str, Mapping[str, Points]]
    progress: Sequence[tuple[int, bytes]]
    facts: Mapping[str, str]
    commands: Sequence[str]


def report_html(content: ReportContent) -> str:
    """The whole page."""
    held = len({a.question.triple for a in content.held_out})
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>ERNIE quickstart</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY, quote=True)}">',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        "<h1>A text-to-image model, trained on this machine</h1>",
        f"<p>The model was asked for {held} combinations of colour, shape and position that were never in its training pictures, although every pair of "
        "them was. A verifier without anything learned reads each picture; one with no object, or with several, counts as wrong on all tags.</p>",
        _score_table(content),
        "<h2>Held-out prompts</h2>",
        _pictures(_first_of_each_style(content.held_out)),
        "<h2>Mistakes</h2>",
        _mistakes(content.held_out),
        "<h2>Prompts like those in training</h2>",
        _pictures(_first_of_each_style(content.seen)[:16]),
        "<h2>Training</h2>",
        '<div class="charts">' + "".join(line_chart(title, lines) for title, lines in content.curves.items()) + "</div>",
        _progress(content.progress),
        "<h2>By triple</h2>",
        _triple_table(content.held_out),
        "<h2>This run</h2>",
        _fact_table(content.facts),
        "<h2>Go on</h2><pre>" + "\n".join(escape(c) for c in content.commands) + "</pre>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _score_table(content: ReportContent) -> str:
    rows = [
        f"<tr><td>{escape(tag)}</td><td>{_interval(content.scores[tag])}</td><td>{_interval(content.seen_scores[tag])}</td></tr>"
        for tag in (*TAGS, "all")
    ]
    one = content.scores["all"]
    return (
        "<table><thead><tr><th>right</th><th>held-out triples</th><th>seen triples</th></tr></thead><tbody>"
        + "".join(rows)
        + f"</tbody></table><p class='ci'>{one.n} held-out pictures of {one.clusters} triples, {content.seen_scores['all'].n} of seen ones. "
        "Intervals hold 95 % and are clustered by triple.</p>"
    )


def _interval(interval: Interval) -> str:
    return f"{interval.value:.1%} <span class='ci'>[{interval.low:.1%}, {interval.high:.1%}]</span>"


def _first_of_each_style(judged: Sequence[Answer]) -> list[Answer]:
    """One picture of each triple, the styles taking turns."""
    groups: dict[object, list[Answer]] = {}
    for answer in judged:
        groups.setdefault(answer.question.triple, []).append(answer)
    return [group[i % len(group)] for i, group in enumerate(groups.values())]


def _mistakes(judged: Sequence[Answer]) -> str:
    wrong = [a for a in judged if not a.verdict.right]
    if not wrong:
        return "<p>None.</p>"
    return f"<p>{len(wrong)} of {len(judged)}; the first {min(len(wrong), 24)}:</p>" + _pictures(wrong[:24])


def _pictures(judged: Sequence[Answer]) -> str:
    return '<div class="grid">' + "".join(map(_figure, judged)) + "</div>"


def _figure(answer: Answer) -> str:
    verdict = "ok" if answer.verdict.right else "bad"
    return (
        f'<figure><img alt="" src="{data_uri(png(answer.pixels_HW3))}"><figcaption>{escape(answer.question.prompt)}<br>'
        f'<span class="{verdict}">{escape(seen_in_words(answer.seen))}</span></figcaption></figure>'
    )


def _progress(progress: Sequence[tuple[int, bytes]]) -> str:
    if not progress:
        return ""
    figures = "".join(
        f'<figure><img alt="" src="{data_uri(image)}"><figcaption>step {step}</figcaption></figure>' for step, image in progress
    )
    return f'<h2>The same prompts and noise while training</h2><div class="grid">{figures}</div>'


def _triple_table(judged: Sequence[Answer]) -> str:
    rows = [
        f"<tr><td>{escape(str(triple))}</td>" + "".join(f"<td>{shares[tag]:.0%}</td>" for tag in TAGS) + "</tr>"
        for triple, shares in by_triple(judged).items()
    ]
    head = "".join(f"<th>{tag}</th>" for tag in TAGS)
    return f"<table><thead><tr><th>held-out triple</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _fact_table(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f"<table><tbody>{rows}</tbody></table>"


def data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
