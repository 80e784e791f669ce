"""The sections of the report that show pictures. Keys, captions and details come from outside: all text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ernie_data.report.content import Content, Gallery
from ernie_data.report.samples import Sample, in_order

_CAPTION_CHARACTERS = 220
_LOSERS_SHOWN = 3
_CAPTION_STYLES = ("text", "request", "composition", "instruction", "keywords")


def samples_section(content: Content) -> str:
    return "".join(_gallery(gallery, content.samples) for gallery in content.galleries if gallery.keys)


def _gallery(gallery: Gallery, samples: Mapping[str, Sample]) -> str:
    figures = "".join(figure(sample, mark=gallery.marks.get(sample.key, "")) for sample in in_order(samples, gallery.keys))
    return f'<h3>{escape(gallery.title)}</h3><p class="dim">{escape(gallery.note)}</p><div class="grid">{figures}</div>'


def figure(sample: Sample, *, mark: str = "", note: str = "", kind: str = "", described: bool = True) -> str:
    """A picture with what is known of it."""
    words = [f"<b>{escape(mark)}</b>"] if mark else []
    category = sample.row.get("category")
    if described and category:
        words.append(f"{escape(str(category))}")
    if note:
        words.append(escape(note))
    if described and (caption := first_caption(sample.row.get("captions"))):
        words.append(f'<span class="cap">{escape(caption)}</span>')
    words.append(f"<code>{escape(_tail(sample.key))}</code>")
    lines = "".join(f"<div>{word}</div>" for word in words)
    return f'<figure class="{kind}" title="{escape(sample.key, quote=True)}">{picture(sample)}<figcaption>{lines}</figcaption></figure>'


def picture(sample: Sample) -> str:
    if not sample.uri:
        return '<div class="thumb">not stored</div>'
    size = f"{sample.size_px[0]} x {sample.size_px[1]}"
    return f'<div class="thumb"><img alt="{size}" src="{sample.uri}"{" class=px" if sample.pixelated else ""}></div>'


def first_caption(captions: object) -> str:
    if not isinstance(captions, Mapping) or not captions:
        return ""
    style = next((style for style in _CAPTION_STYLES if style in captions), min(captions))
    return _cut(str(captions[style]))


def rejected_section(content: Content) -> str:
    parts = []
    for (stage, reason), some in sorted(content.rejections.items(), key=lambda item: _position(content, item[0])):
        count = next(rejected.get(reason, 0) for name, _, _, rejected in content.stages if name == stage)
        shown = [
            figure(sample, note=rejection.detail, described=bool(sample.uri))
            for rejection in some
            if (sample := content.samples.get(rejection.key)) is not None
        ]
        if any(content.samples[r.key].uri for r in some if r.key in content.samples):
            body = f'<div class="grid">{"".join(shown)}</div>'
        else:
            lines = "".join(f"<tr><td><code>{escape(r.key)}</code></td><td>{escape(r.detail)}</td></tr>" for r in some)
            body = f'<div class="scroll"><table><tbody>{lines}</tbody></table></div>'
        head = f"{escape(stage)} &#8250; {escape(reason)} <span class='dim'>{count:,} of {content.records:,}, {count / max(content.records, 1):.2%}</span>"
        parts.append(f"<h3>{head}</h3>{body}")
    return "".join(parts) if parts else "<p>Nothing was rejected.</p>"


def _position(content: Content, where: tuple[str, str]) -> tuple[int, str]:
    return [name for name, *_ in content.stages].index(where[0]), where[1]


def duplicates_section(content: Content) -> str:
    groups = sum(content.group_sizes.values())
    losers = sum(size * n for size, n in content.group_sizes.items())
    if not groups:
        return ""
    sizes = ", ".join(f"{n:,} of {size + 1}" for size, n in content.group_sizes.items())
    pairs = []
    for winner, gone in content.groups.items():
        kept = content.samples.get(winner)
        lost = in_order(content.samples, gone[:_LOSERS_SHOWN])
        if kept is None or not lost:
            continue
        figures = figure(kept, mark="kept", note=_quality(kept), kind="kept", described=False)
        figures += "".join(figure(s, mark="refused", note=_quality(s), kind="gone", described=False) for s in lost)
        more = f'<p class="small">and {len(gone) - len(lost)} more</p>' if len(gone) > len(lost) else ""
        pairs.append(f'<div><div class="pair">{figures}</div>{more}</div>')
    words = f"<p>{losers:,} records lost to {groups:,} that were kept. Sizes of the groups: {escape(_cut(sizes))}.</p>"
    return f'{words}<div class="pairs">{"".join(pairs)}</div>'


def _quality(sample: Sample) -> str:
    score = sample.row.get("score")
    size = f"{sample.size_px[0]} x {sample.size_px[1]}" if sample.uri else ""
    return ", ".join(filter(None, [size, f"score {score:.3f}" if isinstance(score, float) else ""]))


def conflicts_section(content: Content) -> str:
    name, keys = content.conflicts
    if not keys:
        return ""
    parts = []
    for sample in in_order(content.samples, keys):
        row = sample.row
        facts = [(name, f"{row[name]:.2f}")]
        captions, source = row.get("captions"), row.get("source_captions")
        if first_caption(source):
            facts += [("came with", first_caption(source)), ("reads now", first_caption(captions))]
        else:
            facts.append(("caption", first_caption(captions)))
        if row.get("caption_conflicts"):
            facts.append(("against it", _cut(" | ".join(row["caption_conflicts"]))))
        if row.get("ocr_text"):
            facts.append(("text in the picture", _cut(" | ".join(row["ocr_text"]))))
        terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(value) or '-'}</dd>" for term, value in facts)
        parts.append(
            f'<div class="conflict"><figure>{picture(sample)}</figure><dl>{terms}<dt>record</dt><dd><code>{escape(sample.key)}</code>{_fate(row)}</dd></dl></div>'
        )
    return f'<h3>Captions that agree least</h3><p class="dim">Lowest values of {escape(name)}.</p><div class="conflicts">{"".join(parts)}</div>'


def _fate(row: Mapping[str, object]) -> str:
    return f' <span class="bad">refused by {escape(str(row["stage"]))}</span>' if "error" in row else ' <span class="good">accepted</span>'


def _tail(key: str) -> str:
    return key if len(key) <= 34 else "…" + key[-33:]


def _cut(text: str) -> str:
    return text if len(text) <= _CAPTION_CHARACTERS else text[: _CAPTION_CHARACTERS - 1] + "…"
