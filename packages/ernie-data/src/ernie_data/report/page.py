"""``report.html`` from its content: one file that loads nothing and holds no time, so that equal builds give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape

import numpy as np

from ernie_core.stats import Interval
from ernie_data.report.bars import Balance, before_and_after, boxes, counted
from ernie_data.report.charts import histogram, number
from ernie_data.report.content import AGREEMENTS, Content
from ernie_data.report.flow import flow
from ernie_data.report.gallery import conflicts_section, duplicates_section, rejected_section, samples_section
from ernie_data.report.style import POLICY, STYLE

_CATEGORIES_SHOWN = 24
_SIZES = ("width", "height", "megapixels", "aspect", "enlarged")
_RATIOS = ("megapixels", "aspect", "width", "height", "bytes", "enlarged")
_NO_SCORES = (*_SIZES, *AGREEMENTS, "bytes")


def report_html(content: Content) -> str:
    """The whole page."""
    sections = [(name, title, body) for name, title, body in _sections(content) if body]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{text}</section>' for name, title, text in sections)
    title = escape(content.name)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY, quote=True)}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}: dataset report</title><style>{STYLE}</style></head>\n'
        f"<body>{_header(content, title)}<main><nav>{links}</nav>{body}</main>"
        "<footer>Written by <code>ernie data report</code>. Every record of the sources is either accepted or rejected with a reason; "
        "<code>ernie data query</code> and <code>ernie data inspect --key</code> answer further questions.</footer></body></html>\n"
    )


def _header(content: Content, title: str) -> str:
    accepted = content.facts.accepted
    rejected = sum(sum(reasons.values()) for *_, reasons in content.stages)
    tiles = [
        ("", f"{content.records:,}", "records in"),
        ("good", f"{accepted:,}", f"accepted, {accepted / max(content.records, 1):.1%}"),
        ("bad", f"{rejected:,}", f"rejected, {rejected / max(content.records, 1):.1%}"),
    ]
    if content.facts.categories:
        tiles.append(("", f"{len(content.facts.categories):,}", "categories"))
    tiles.append(("", f"{len(content.stages)}", "stages"))
    tiles.append(("", _size(content.bytes_stored), "in pictures and tables"))
    shown = "".join(f'<div class="tile {kind}"><b>{value}</b><span>{words}</span></div>' for kind, value, words in tiles)
    sums = f"{content.records:,} = {accepted:,} accepted + {rejected:,} rejected"
    state = ""
    if not content.finished:
        state = f'<p class="warn">This build is not finished: {content.pieces_done:,} of {content.pieces:,} begun pieces have passed all stages.</p>'
    return f'<header><h1>{title}</h1><p class="dim">Dataset report. {sums}.</p>{state}<div class="tiles">{shown}</div></header>'


def _sections(content: Content) -> Iterator[tuple[str, str, str]]:
    yield "flow", "From source to dataset", flow(content.stages, content.records) + _ignored(content)
    yield "truth", "Planted defects found", _truth(content)
    yield "categories", "Categories before and after sampling", _categories(content)
    yield "scores", "Scores", _scores(content)
    yield "captions", "Captions and text", _captions(content)
    yield "sizes", "Resolution and aspect", _resolution(content)
    yield "duplicates", "Duplicates", duplicates_section(content)
    yield "samples", "Samples", samples_section(content)
    yield "rejected", "Rejected", rejected_section(content)
    yield "versions", "How it was made", _versions(content)


def _ignored(content: Content) -> str:
    lines = []
    if content.ignored:
        kinds = ", ".join(f"{escape(kind)} {n:,}" for kind, n in content.ignored.items())
        lines.append(f"Files of other kinds in the sources, not read: {kinds}.")
    if content.captions_not_used:
        lines.append(
            f"Captions that could not be used: {content.captions_not_used:,}; their pictures were (column <code>caption_error</code>)."
        )
    return "".join(f'<p class="dim">{line}</p>' for line in lines)


def _truth(content: Content) -> str:
    if not content.truth:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(f.kind)}</th><td class="n">{f.hits + f.misses:,}</td><td class="n">{f.hits:,}</td><td class="n">{f.misses:,}</td>'
        f'<td class="n">{f.false_alarms:,}</td><td class="n">{_interval(f.precision)}</td><td class="n">{_interval(f.recall)}</td></tr>'
        for f in content.truth
    )
    return (
        '<div class="scroll"><table><thead><tr><th>defect</th><th class="n">planted</th><th class="n">found</th><th class="n">missed</th>'
        f'<th class="n">false alarms</th><th class="n">precision</th><th class="n">recall</th></tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="small">Wilson intervals, 95&#8239;%. Copies are counted by group: of a picture and its copies all but one should go. Planted defects '
        "that never reached the stage that decides count nowhere.</p>"
    )


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return '<span class="dim">-</span>'
    return f'{interval.value:.3f} <span class="dim">[{interval.low:.3f}, {interval.high:.3f}]</span>'


def _categories(content: Content) -> str:
    sampled = content.sampled
    if sampled is None or not content.facts.categories:
        return ""
    order = sorted(range(len(sampled.categories)), key=lambda k: (-int(sampled.rows_K[k]), sampled.categories[k]))
    rows = [Balance(sampled.categories[k], int(sampled.rows_K[k]), float(sampled.found_K[k]), float(sampled.drawn_K[k])) for k in order]
    shown, half = rows, _CATEGORIES_SHOWN // 2
    if len(rows) > _CATEGORIES_SHOWN:
        middle = rows[half:-half]
        sums = (sum(row.records for row in middle), sum(row.found for row in middle), sum(row.drawn for row in middle))
        shown = [*rows[:half], Balance(f"... {len(middle):,} more ...", *sums, summed=True), *rows[-half:]]
    smaller = rows[len(rows) - len(rows) // 2 :]
    config = sampled.config
    knobs = f"{config.strategy}, alpha {config.alpha:g}, tau_c {config.tau_c:g}, tau_i {config.tau_i:g}, uniform {config.uniform:g}"
    caps = (
        f"at most {config.max_repeats:g} times each over {config.draws:,} draws"
        if config.draws
        else "no caps, since the number of draws is not given"
    )
    return (
        f"<p>Sampling: {escape(knobs)}; {caps}. Effective categories (exp of the entropy): {sampled.effective_found:.1f} as found, "
        f"<b>{sampled.effective_drawn:.1f}</b> as drawn. The smaller half of the categories holds {sum(row.found for row in smaller):.1%} of the records "
        f"and gets <b>{sum(row.drawn for row in smaller):.1%}</b> of the draws.</p>{before_and_after(shown)}"
    )


def _scores(content: Content) -> str:
    facts = content.facts
    named = [name for name in facts.numbers if name not in _NO_SCORES]
    if not named:
        return ""
    charts = (
        '<div class="charts">'
        + "".join(histogram(name, facts.numbers[name]) for name in sorted(named, key=lambda n: (n != facts.score, n)))
        + "</div>"
    )
    score_N = facts.score_N
    if score_N is None or not facts.categories:
        return charts
    seen_N = np.isfinite(score_N)
    counts_K = np.bincount(facts.category_N[seen_N], minlength=len(facts.categories))
    largest = sorted(range(len(facts.categories)), key=lambda k: (-int(counts_K[k]), facts.categories[k]))[:_CATEGORIES_SHOWN]
    rows = [(facts.categories[k], score_N[seen_N & (facts.category_N == k)]) for k in largest if counts_K[k]]
    rows.sort(key=lambda row: -float(np.median(row[1])))
    low, high = float(np.nanmin(score_N)), float(np.nanmax(score_N))
    rest = len(facts.categories) - len(rows)
    note = f'<p class="small">The {len(rows)} largest categories; {rest:,} more.</p>' if rest > 0 else ""
    return (
        f"{charts}<h3>By category, the best first</h3><p class='dim'>5th to 95th percentile, quartiles and median.</p>"
        f"{boxes(rows, low=low, high=high)}{note}"
    )


def _captions(content: Content) -> str:
    facts = content.facts
    if not facts.lengths:
        return ""
    accepted = max(facts.accepted, 1)
    styles = sorted(((style, len(lengths)) for style, lengths in facts.lengths.items()), key=lambda item: (-item[1], item[0]))
    words = f"<p>{facts.captioned:,} of {facts.accepted:,} accepted records have a caption ({facts.captioned / accepted:.1%})"
    words += f"; text was read in {facts.lettered:,} pictures" if facts.lettered else ""
    lengths = "".join(histogram(f"{style}: length", values.astype(float), note="characters") for style, values in facts.lengths.items())
    agreement = "".join(histogram(name, facts.numbers[name], bins=20) for name in AGREEMENTS if name in facts.numbers)
    return f'{words}.</p>{counted("Styles", styles, of=facts.accepted)}<h3>Distributions</h3><div class="charts">{agreement}{lengths}</div>{conflicts_section(content)}'


def _resolution(content: Content) -> str:
    facts = content.facts
    if not any(name in facts.numbers for name in _SIZES):
        return ""
    notes = {
        "megapixels": "",
        "aspect": "width / height",
        "enlarged": "factor to fill its bucket; above 1 the picture is too small",
        "bytes": "of the source file",
    }
    charts = "".join(
        histogram(name, facts.numbers[name], log=True, note=notes.get(name, "px")) for name in _RATIOS if name in facts.numbers
    )
    buckets = sorted(facts.buckets.items(), key=lambda item: (-item[1], item[0]))[:_CATEGORIES_SHOWN]
    return f'<div class="charts">{charts}</div>' + (f"<h3>Buckets</h3>{counted('', buckets, of=facts.accepted)}" if buckets else "")


def _versions(content: Content) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(stage)}</th><td><code>{escape(json.dumps(options, sort_keys=True, ensure_ascii=False))}</code></td>'
        f"<td><code>{escape(code)}</code></td></tr>"
        for stage, code, options in content.versions
    )
    return f'<div class="scroll"><table><thead><tr><th>stage</th><th>options</th><th>versions</th></tr></thead><tbody>{rows}</tbody></table></div>'


def _size(size_bytes: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{number(size_bytes / scale)} {unit}"
    return f"{size_bytes} B"
