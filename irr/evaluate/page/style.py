"""How the page looks: its stylesheet, without that of the plots."""

PAGE_STYLE = """
:root { --ink: #1a1d21; --soft: #59616b; --rule: #d5d9de; --paper: #fff; --best: #e6eefa; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb5;
  --rule: #3a4149; --paper: #14171b; --best: #1f3350; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
bdi, pre { overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
section { margin-top: 2.2rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
p { margin: .4rem 0; max-width: 46rem; }
.soft, small, figcaption span { color: var(--soft); }
small { font-size: .8rem; display: block; font-weight: 400; white-space: nowrap; }
.note { font-size: .875rem; line-height: 1.45; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 2rem 3rem; align-items: start; }
.plots > div { min-width: 0; } .plots > div > h3:first-child { margin-top: 0; }
figure { margin: 0; break-inside: avoid; }
figcaption { margin-bottom: .8rem; font-weight: 600; }
figcaption span { display: block; font-weight: 400; font-size: .875rem; line-height: 1.45; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; line-height: 1.4; }
th, td { padding: .35rem 0 .35rem 1.2rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
th:has(bdi), td:has(bdi) { min-width: 5rem; }
th:first-child, .words { text-align: left; } th:first-child { padding-left: 0; }
th { font-weight: 600; }
thead th { vertical-align: bottom; } tbody th { font-weight: 400; }
td.best { font-weight: 700; background: var(--best); box-shadow: .4rem 0 0 var(--best); }
.key { width: .8em; height: .8em; margin-right: .35em; }
summary { cursor: pointer; padding: .35rem 0; } details { margin: .3rem 0; }
article { border-bottom: 1px solid var(--rule); padding: .6rem 0; max-width: 46rem; }
article p { margin: .15rem 0; } .missed { padding-left: 1rem; border-left: 3px solid var(--s1); }
pre { white-space: pre-wrap; background: var(--track); padding: .8rem; border-radius: .3rem; }
@media (max-width: 30rem) { table { font-size: .86rem; } small { font-size: .75rem; }
  th, td { padding-left: .7rem; } }
@media print {
  body { padding: 0; max-width: none; font-size: 9pt; } * { print-color-adjust: exact; }
  h2, h3, figcaption { break-after: avoid; } figure { break-inside: auto; }
  svg.plot, figcaption, tr, article { break-inside: avoid; }
  .plots { display: block; } section svg.plot { max-width: 22rem; margin-bottom: 1rem; }
  details::details-content { content-visibility: visible; block-size: auto; } }
"""
