"""How the page looks: one stylesheet for light and dark, wide and narrow screens, and paper. It loads nothing."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1d1f22;--dim:#666b73;--line:#e3e4e0;--bad:#bb3325;--good:#1c7f50;--span:#bb332522;
--c0:#2a62c9;--c1:#c7631a;--c2:#1c8a66;--c3:#8a3fb0;--c4:#5b7a99;--c5:#b08a2a}
@media (prefers-color-scheme:dark){:root{--page:#15171a;--card:#1e2125;--ink:#e9e9e6;--dim:#9ba1a9;--line:#34383e;--bad:#ff8573;--good:#54cc92;
--span:#ff857326;--c0:#77a6ff;--c1:#f2a15b;--c2:#4fcfa3;--c3:#cf94f0;--c4:#9dbad8;--c5:#e0bd62}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer{max-width:1220px;margin:0 auto;padding:0 20px}header{padding-top:28px}footer{padding-bottom:36px;color:var(--dim);font-size:12.5px}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:0 0 10px}p{margin:6px 0 10px;max-width:54rem}
.dim,.small{color:var(--dim)}.small{font-size:12.5px;margin:2px 0 0}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;margin:16px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:16px 0 4px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}.tile span{color:var(--dim);font-size:12.5px;display:block}
.tile b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}.tile.bad b,.bad{color:var(--bad)}.tile.good b,.good{color:var(--good)}
.alarm{border-left:4px solid var(--bad);padding:6px 12px;margin:8px 0;overflow-wrap:anywhere}
.calm{border-left:4px solid var(--good);padding:6px 12px;margin:8px 0}
.charts{columns:2 480px;column-gap:28px}.chart{margin:0 0 22px;break-inside:avoid}
figcaption{font-size:13.5px;margin-bottom:4px}.legend span{color:var(--dim);font-size:12.5px;white-space:nowrap}
.key{display:inline-block;width:11px;height:3px;margin:0 4px 3px 8px;background:var(--c0)}
.key.c1{background:var(--c1)}.key.c2{background:var(--c2)}.key.c3{background:var(--c3)}.key.c4{background:var(--c4)}.key.c5{background:var(--c5)}
svg{display:block;width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--dim)}svg .y{text-anchor:end}svg .x{text-anchor:middle}
svg .grid{stroke:var(--line);fill:none}svg .mark{stroke:var(--bad);stroke-dasharray:5 4;fill:none}svg .label{fill:var(--bad)}svg .span{fill:var(--span)}
svg .line{fill:none;stroke-width:1.7;stroke-linejoin:round}svg .band{opacity:.16;stroke:none}
.line.c0{stroke:var(--c0)}.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}.line.c4{stroke:var(--c4)}.line.c5{stroke:var(--c5)}
.band.c2{fill:var(--c2)}.band.c0,.dot.c0{fill:var(--c0)}.dot.c1{fill:var(--c1)}.dot.c2{fill:var(--c2)}.dot.c3{fill:var(--c3)}.dot.c4{fill:var(--c4)}.dot.c5{fill:var(--c5)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13.5px}th,td{padding:4px 18px 4px 0;border-bottom:1px solid var(--line);text-align:left;
vertical-align:top;font-weight:400;overflow-wrap:anywhere}tbody th{color:var(--dim);white-space:nowrap}td.n{text-align:right;
white-space:nowrap;font-variant-numeric:tabular-nums}
.grids{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,260px),1fr));gap:16px}.grids figure{margin:0}
.grids img{width:100%;display:block;border:1px solid var(--line);border-radius:4px}.grids img.px{image-rendering:pixelated}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:2px}.grids figcaption{margin-top:4px;overflow-wrap:anywhere}h3{font-size:.95rem;margin:16px 0 8px}
.wide td,.wide th{white-space:nowrap;padding-right:10px}.heat{margin:0 0 14px}.heat td,.heat th{padding:4px 9px}
thead th{color:var(--dim);vertical-align:bottom;white-space:nowrap}
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}ol{margin:6px 0;padding-left:24px;font-size:13.5px}
@media (max-width:620px){header,main,footer{padding-left:12px;padding-right:12px}section{padding:12px}}
@media print{section{break-inside:avoid;border:none}}
"""
