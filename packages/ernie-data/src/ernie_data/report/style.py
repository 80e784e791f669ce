"""How the report looks: one stylesheet for light and dark, wide and narrow screens, and paper. It loads no font and no picture."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1a1d23;--dim:#626b78;--line:#e2e5ea;--main:#2f6fde;--soft:#c9dcfb;--after:#e08a1e;
--bad:#c8402f;--badsoft:#f5c9c2;--good:#1f8a55}
@media (prefers-color-scheme:dark){:root{--page:#14171c;--card:#1d2128;--ink:#e8eaee;--dim:#9aa4b2;--line:#323843;--main:#6ea1ff;--soft:#2b4270;
--after:#f0a94a;--bad:#ff8474;--badsoft:#653129;--good:#55cf93}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header{max-width:1180px;margin:0 auto;padding:0 20px}header{padding-top:30px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:1.16rem;margin:0 0 10px}
h3{font-size:.95rem;margin:20px 0 8px}
p{margin:6px 0 10px;max-width:52rem}.dim,.small{color:var(--dim)}.small{font-size:12.5px;margin:2px 0 0}
nav{margin:14px 0 6px;display:flex;flex-wrap:wrap;gap:4px 14px;font-size:13.5px}nav a{color:var(--main);text-decoration:none}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:16px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:12px;margin:18px 0 8px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:1.5rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--dim);font-size:12.5px}.tile.good b{color:var(--good)}.tile.bad b{color:var(--bad)}
.warn{border-left:4px solid var(--after);padding:8px 12px;background:var(--card)}
.scroll{overflow-x:auto}svg{display:block}.bars{width:100%;height:auto}svg text{font:13px system-ui,sans-serif;fill:var(--dim)}
.flow .name{fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--card);stroke-width:5px}
.flow .count{fill:var(--dim)}.flow .lost{fill:var(--bad);font-weight:600}
.flow .why{font-size:12px}
.flow .band{fill:var(--soft)}.flow .node{fill:var(--main)}.flow .good{fill:var(--good)}.flow .drop{fill:var(--badsoft)}.flow .lead{stroke:var(--line);fill:none}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:20px 26px}.chart{margin:0}
figcaption{font-size:13px;margin-bottom:4px}
.bars rect{fill:var(--main)}.bars .median{stroke:var(--after);stroke-width:1.5}.bars .end{text-anchor:end}
table{border-collapse:collapse;font-size:13.5px;width:100%}caption{text-align:left;font-weight:600;padding-bottom:4px}
th,td{padding:4px 10px 4px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;font-weight:400}
thead th{color:var(--dim);font-size:12.5px}
tbody th{overflow-wrap:anywhere}.scroll tbody th{white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.up{color:var(--good)}.down{color:var(--dim)}
.rows td.bar{width:42%;vertical-align:middle;padding-right:14px}
.rows .bar i{display:block;height:11px;background:var(--main);border-radius:2px;min-width:1px}
.rows .two i{height:6px;margin:1px 0}.bar i.after,.key.after{background:var(--after)!important}
.key{display:inline-block;width:10px;height:10px;border-radius:2px;background:var(--main);margin:0 3px 0 6px}
.box{position:relative;height:14px}.box s,.box i,.box b{position:absolute}.box s{top:6px;height:2px;background:var(--dim)}
.rows .box i{top:1px;height:12px;background:var(--main);opacity:.75}
.box b{top:-1px;width:2px;height:16px;background:var(--after)}.right{float:right}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:14px 12px}.grid figure,.pair figure{margin:0;min-width:0}
.thumb{background:var(--page);border:1px solid var(--line);border-radius:6px;aspect-ratio:1;display:flex;align-items:center;justify-content:center;
overflow:hidden;font-size:12px;color:var(--dim);text-align:center}
.thumb img{width:100%;height:100%;object-fit:contain}.thumb img.px{image-rendering:pixelated}
.grid figcaption,.pair figcaption{font-size:12px;line-height:1.35;margin-top:4px;overflow-wrap:anywhere}
.grid code,.pair code{color:var(--dim);font-size:11px}
.grid b,.pair b{font-weight:600}.cap{display:-webkit-box;-webkit-line-clamp:4;-webkit-box-orient:vertical;overflow:hidden}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:14px}
.pair{display:flex;gap:10px;border:1px solid var(--line);border-radius:8px;padding:10px}
.pair figure{flex:1 1 0}.pair .kept .thumb{border:2px solid var(--good)}.pair .gone .thumb{border:2px solid var(--bad)}
.good{color:var(--good)}.bad{color:var(--bad)}
details summary{cursor:pointer;color:var(--main);font-size:13.5px;margin:8px 0}
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}
.conflicts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:0 26px}
.conflict{display:flex;gap:12px;border-top:1px solid var(--line);padding:10px 0}.conflict>figure{flex:0 0 112px;margin:0}
.conflict dl{margin:0;font-size:13px;min-width:0;overflow-wrap:anywhere}
dt{color:var(--dim);font-size:12px}dd{margin:0 0 5px}
footer{max-width:1180px;margin:0 auto;padding:6px 20px 40px;color:var(--dim);font-size:12.5px}
@media (max-width:620px){main,header{padding:0 12px}section{padding:14px 12px}.rows td.bar{width:30%}
.grid{grid-template-columns:repeat(auto-fill,minmax(104px,1fr))}}
@media print{section{break-inside:avoid;border:none}nav{display:none}}
"""
