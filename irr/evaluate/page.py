"""The page of an evaluation: its report → one HTML file that needs nothing else.

No script, no font or image from elsewhere (the page forbids them to itself). Whatever the report
lacks, the page leaves out. Every plot's numbers also stand in a table. Cells and bodies below are
HTML; texts of the report become HTML by `_word` or `escaped` alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from irr.evaluate.plots import STYLE, Bar, Series, bar_plot, escaped, line_plot, mark, point_plot

__all__ = ["page"]

Row = Mapping[str, Any]

_SHOWN = 20
_PLOTTED = 6
_TEXT_CHARS = 300
_STAGES = {"guessed": "guessed", "retrieved": "among the candidates", "picked": "picked"}
_LOST = {
    "guessed": "Not guessed",
    "retrieved": "Not among the candidates",
    "ranked": "Among the candidates, but not at the top",
}
_USAGE = {
    "failed": "Documents failed",
    "calls": "LM calls",
    "input_tokens": "Input tokens",
    "output_tokens": "Output tokens",
    "cost": "Cost",
}
_PAGE_STYLE = """
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


def page(report: Mapping[str, Any]) -> str:
    """The report as one HTML document; parts that are missing, empty or None are left out."""
    title = escaped(report.get("title") or "Evaluation")
    programs: list[Row] = list(report.get("programs") or ())
    body = (
        _headline(report, programs),
        _ceilings(programs),
        _plots(programs),
        _section("What was lost", _side_by_side(map(_lost, programs))),
        _unknown(report.get("unknown_gold") or {}),
        _differences(report.get("differences") or ()),
        _published(report.get("published") or ()),
        _made(report.get("made") or {}),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{_PAGE_STYLE}{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1><bdi>{title}</bdi></h1>\n"
        + "\n".join(filter(None, body))
        + "\n</main>\n</body>\n</html>\n"
    )


def _headline(report: Row, programs: Sequence[Row]) -> str:
    counted = {"documents": "documents", "labels": "labels", "without_gold": "without gold labels"}
    parts = [f"{_count(report[k])} {word}" for k, word in counted.items() if _is(report.get(k))]
    intro = f'<p class="soft">{" · ".join(parts)}</p>' if parts else ""
    metrics = _union(p.get("metrics") or {} for p in programs)
    rows = [_metric_row(m, programs, report.get("differences") or ()) for m in metrics]
    for key, word in _USAGE.items():
        if any(_is(p.get(key)) for p in programs):
            show = _dollars if key == "cost" else _count
            rows.append([word, *(f"<td>{show(p.get(key))}</td>" for p in programs)])
    if not rows:
        return intro
    note = "Means over documents in percent, below them the 95% interval." if metrics else ""
    if any('class="best"' in cell for row in rows for cell in row):
        note += " Marked: better than every other program, by a difference whose interval"
        note += " excludes zero."
    header = ["Metric" if metrics else "", *map(_named, range(len(programs)), programs)]
    table = _table(note, header, rows)
    return intro + _section("Scores", _side_by_side([table, _scores(metrics, programs)]))


def _scores(metrics: Sequence[str], programs: Sequence[Row]) -> str:
    groups = []
    for metric in metrics[:_PLOTTED]:
        known = [(n, p, (p.get("metrics") or {}).get(metric) or {}) for n, p in enumerate(programs)]
        bars = [
            Bar(n, _name(p), s["mean"], _interval(s)) for n, p, s in known if _is(s.get("mean"))
        ]
        groups += [(metric, bars)] if bars else []
    about = "Bars: the scores of the table, with 95% intervals"
    return f"<figure>{bar_plot(groups, about)}</figure>" if groups else ""


def _metric_row(metric: str, programs: Sequence[Row], differences: Iterable[Row]) -> list[str]:
    best = _best(metric, programs, differences)
    row = [_word(metric)]
    for program in programs:
        score = (program.get("metrics") or {}).get(metric) or {}
        interval = _interval(score)
        small = " to ".join(map(_percent, interval)) if interval else ""
        kind = ' class="best"' if program is best else ""
        row.append(f"<td{kind}>{_percent(score.get('mean'))}<small>{small}</small></td>")
    return row


def _best(metric: str, programs: Sequence[Row], differences: Iterable[Row]) -> Row | None:
    """The program that beats every other one by a difference whose interval excludes zero."""
    won = set()
    for row in differences:
        interval = _interval(row)
        if row.get("metric") == metric and interval:
            won |= {(row.get("a"), row.get("b"))} if interval[0] > 0 else set()
            won |= {(row.get("b"), row.get("a"))} if interval[1] < 0 else set()
    for one in programs:
        others = [p for p in programs if p is not one and metric in (p.get("metrics") or {})]
        if others and all((one.get("name"), p.get("name")) in won for p in others):
            return one
    return None


def _ceilings(programs: Sequence[Row]) -> str:
    """Of 100 gold labels, how many are left after each stage."""
    sentences, shares = [], []
    for number, program in enumerate(programs):
        stages = program.get("stages") or {}
        gold = _number(stages.get("gold"))
        if not gold:
            continue
        words = _STAGES | {"top_k": f"in the top {stages.get('k') or 'labels'}"}
        found = [(words[s], stages[s]) for s in words if _is(stages.get(s))]
        sentences.append(_sentence(program, found, gold, stages.get("perfect_rank") or {}))
        shares += [(w, number, program, 100 * n / gold, n, gold) for w, n in found]
    groups = [(w, [s for s in shares if s[0] == w]) for w in dict.fromkeys(s[0] for s in shares)]
    if not groups:
        return ""
    bars = [
        (_capital(w), [Bar(n, _name(p), share) for _, n, p, share, *_ in group])
        for w, group in groups
    ]
    rows = [
        [_word(w), _named(n, p), _counted(c), _counted(g), _cell(share)]
        for w, group in groups
        for _, n, p, share, c, g in group
    ]
    table = _table("", ["Gold labels", "Program", "Count", "Of", "Percent"], rows, words={1})
    plot = bar_plot(bars, "Bars: of 100 gold labels, how many are left after each stage")
    figure = _figure("Gold labels left after each stage", "Of 100 gold labels.", plot, table)
    return _section("Where gold labels are lost", _side_by_side([figure, "".join(sentences)]))


def _sentence(
    program: Row, found: Sequence[tuple[str, float]], gold: float, perfect: Mapping[str, Any]
) -> str:
    parts = [f"{100 * count / gold:.0f} {word}" for word, count in found]
    told = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + "".join(parts[-1:])
    told = told.replace(" ", " were ", 1)
    reach = [f"{escaped(m)} {_percent(score)}" for m, score in perfect.items() if _is(score)]
    ideal = f"a perfect Rank would reach {', '.join(reach)}" if reach else ""
    said = "; ".join(filter(None, [f"of 100 gold labels {told}" if told else "", ideal]))
    return f"<h3>{_word(_name(program))}</h3><p>{_capital(said)}.</p>" if said else ""


def _plots(programs: Sequence[Row]) -> str:
    drawn = (_recall(programs), _bands(programs), _calibration(programs), _costs(programs))
    return _section("Plots", _side_by_side(drawn))


def _recall(programs: Sequence[Row]) -> str:
    series = []
    for number, program in enumerate(programs):
        rows = program.get("recall_by_candidates") or ()
        points = sorted((float(n), float(r)) for n, r in rows if _is(n) and _is(r) and n > 0)
        if points:
            series.append(Series(number, _name(program), points))
    if not series:
        return ""
    about = "Lines: recall of gold labels by number of candidates"
    plot = line_plot(series, about, ("Candidates", "Recall, %"), log=True)
    known = {(s.number, x): y for s in series for x, y in s.points}
    rows = [
        [_count(x), *(_cell(known.get((s.number, x))) for s in series)]
        for x in sorted({x for _, x in known})
    ]
    header = ["Candidates", *(_named(s.number, programs[s.number]) for s in series)]
    note = "Share of gold labels among the first candidates."
    return _figure("Recall by number of candidates", note, plot, _table("", header, rows))


def _bands(programs: Sequence[Row]) -> str:
    rows = [
        (str(band.get("band") or "–"), number, program, band)
        for number, program in enumerate(programs)
        for band in program.get("bands") or ()
    ]
    bars: dict[str, list[Bar]] = {}
    for name, number, program, band in rows:
        if _is(band.get("recall")):
            bars.setdefault(_capital(name), []).append(Bar(number, _name(program), band["recall"]))
    if not bars:
        return ""
    counts = [k for k in ("labels", "gold") if any(_is(b.get(k)) for *_, b in rows)]
    cells = [
        [
            _word(name),
            _named(n, p),
            *map(_counted, (b.get(k) for k in counts)),
            _cell(b.get("recall")),
        ]
        for name, n, p, b in rows
    ]
    table = _table("", ["Band", "Program", *map(str.title, counts), "Recall"], cells, words={1})
    plot = bar_plot(list(bars.items()), "Bars: recall by how often a label was seen in training")
    note = "Recall of gold labels by how often the label occurs in training, percent."
    return _figure("Score by frequency", note, plot, table)


def _calibration(programs: Sequence[Row]) -> str:
    rows = [
        (number, program, b)
        for number, program in enumerate(programs)
        for b in program.get("calibration") or ()
        if _is(b.get("from")) and _is(b.get("to"))
    ]
    series = []
    for number, group in groupby(rows, key=lambda row: row[0]):
        bins = [b for *_, b in group if _is(b.get("correct"))]
        bins.sort(key=lambda b: float(b["from"]))
        points = [((b["from"] + b["to"]) / 2, b["correct"]) for b in bins]
        weights = [_number(b.get("predictions")) or 0.0 for b in bins]
        if points:
            series.append(Series(number, _name(programs[number]), points, weights))
    if not series:
        return ""
    cells = [
        [_bin(b), _named(n, p), _counted(b.get("predictions")), _cell(b.get("correct"))]
        for n, p, b in rows
    ]
    table = _table("", ["Score", "Program", "Predictions", "Correct, %"], cells, words={1})
    about = "Lines: share of correct predictions by score"
    plot = line_plot(series, about, ("Score", "Correct, %"))
    note = "Larger marks stand for more predictions. On the dotted line a score is the share that "
    return _figure("Calibration", note + "is correct.", plot, table)


def _bin(row: Row) -> str:
    return f"{row['from']:.6g} to {row['to']:.6g}"


def _costs(programs: Sequence[Row]) -> str:
    scored = _union(p.get("metrics") or {} for p in programs)
    metric = "RP@10" if "RP@10" in scored else next(iter(scored), "")
    for key, what in (("cost", "Cost, dollars"), ("calls", "LM calls")):
        series = []
        for number, program in enumerate(programs):
            score = (program.get("metrics") or {}).get(metric) or {}
            # What calls no LM costs nothing.
            spent = 0.0 if program.get("calls") == 0 else _number(program.get(key))
            mean = _number(score.get("mean"))
            if spent is not None and mean is not None:
                point = [(spent, mean)]
                series.append(Series(number, _name(program), point, (), _interval(score)))
        if len(series) >= 2 and any(s.points[0][0] > 0 for s in series):
            about = f"Points: {what} against {metric}; the numbers are in the table of scores"
            plot = point_plot(series, about, (what, f"{metric}, %"))
            return _figure("Cost against quality", "With 95% intervals.", plot)
    return ""


def _lost(program: Row) -> str:
    lists = []
    for stage, words in _LOST.items():
        labels = (program.get("lost") or {}).get(stage) or ()
        rows = [[_word(r.get("label")), _counted(r.get("count"))] for r in labels]
        table = _table("", ["Label", "Times"], rows[:_SHOWN])
        totals = (program.get("lost_totals") or {}).get(stage) or {}
        count = totals.get("labels") or len(rows)
        table += _more(rows, count)
        lists.append(_folded(f"{words}: {_plural(count, 'label')}", table) if rows else "")
        lost = [d for d in program.get("lost_documents") or () if d.get("stage") == stage]
        articles = "".join(map(_document, lost[:_SHOWN])) + _more(lost, totals.get("documents"))
        head = f"{words}: {_plural(totals.get('documents') or len(lost), 'document')}"
        lists.append(_folded(head, articles) if lost else "")
    body = "".join(lists)
    return f"<h3>{_word(_name(program))}</h3>{body}" if body else ""


def _document(row: Row) -> str:
    text = " ".join(str(row.get("text") or "").split())
    text = text if len(text) <= _TEXT_CHARS else text[:_TEXT_CHARS] + "…"
    missed = "; ".join(_word(label) for label in row.get("missed") or ())
    return (
        f"<article><small>{_word(row.get('id'))}</small><p>{_word(text)}</p>"
        f'<p class="missed">Missed: {missed}</p></article>'
    )


def _unknown(unknown: Mapping[str, int]) -> str:
    ranked = sorted(unknown.items(), key=lambda item: -(item[1] or 0))
    rows = [[_word(name), _counted(count)] for name, count in ranked]
    note = (
        "Gold labels that are not in the label set: nothing can find them, so they count as lost."
    )
    table = _table(note, ["Label", "Times"], rows[:_SHOWN]) + _more(rows)
    return _section("Unknown gold labels", table) if rows else ""


def _differences(differences: Sequence[Row]) -> str:
    rows = []
    for row in differences:
        interval = _interval(row)
        low, high = interval or (0.0, 0.0)
        a, b = _word(row.get("a")), _word(row.get("b"))
        small = " to ".join(map(_signed, interval or ()))
        shown = f"<td>{_signed(row.get('mean'))}<small>{small}</small></td>"
        verdict = f"{a} is better" if low > 0 else f"{b} is better" if high < 0 else "undecided"
        rows.append([f"{a} over {b}", _word(row.get("metric")), shown, verdict])
    note = (
        "Paired, on the same documents, in points of percent, with 95% intervals; undecided: the "
    )
    note += "interval holds zero."
    header = ["Programs", "Metric", "Difference", "Verdict"]
    return _section("Differences", _table(note, header, rows, words={1, 3})) if rows else ""


def _published(published: Sequence[Row]) -> str:
    """Figures that others have published on the same task, as the task file tells them."""
    keys = _union(published)
    rows = [[_word(row.get(key)) for key in keys] for row in published]
    table = _table("", [_word(key) for key in keys], rows, words=range(len(keys)))
    return _section("Published figures", table) if rows and keys else ""


def _made(made: Mapping[str, Any]) -> str:
    parts = [f"{escaped(k)} {_word(v)}" for k, v in made.items() if k != "command" and _is(v)]
    command = f"<pre>{escaped(made['command'])}</pre>" if made.get("command") else ""
    about = f"<p>{', '.join(parts)}</p>" if parts else ""
    return _section("How this was made", about + command)


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def _side_by_side(parts: Iterable[str]) -> str:
    """Parts beside each other where there is room; empty ones are left out."""
    filled = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div class="plots">{filled}</div>' if filled else ""


def _figure(title: str, note: str, plot: str, table: str = "") -> str:
    numbers = _folded("The numbers", table) if table else ""
    caption = f"<figcaption>{escaped(title)}<span>{escaped(note)}</span></figcaption>"
    return f"<figure>{caption}{plot}{numbers}</figure>"


def _folded(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>{body}</details>"


def _table(
    note: str, header: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = ()
) -> str:
    """A table; the first cell of a row is its header, cells that are not `<td>` yet become one.

    Columns numbered in `words` hold text and are left aligned.
    """
    note = f'<p class="soft note">{note}</p>' if note else ""
    kinds = (' class="words"' if n in words else "" for n in range(len(header)))
    heads = (f'<th scope="col"{k}>{h}</th>' for k, h in zip(kinds, header, strict=True))
    lines = (
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(c if c.startswith("<td") else f'<td class="words">{c}</td>' for c in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'{note}<div class="wide"><table><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _more(rows: Sequence[object], total: int | None = None) -> str:
    left = max(total or 0, len(rows)) - _SHOWN
    return f"<p>… and {left:,} more</p>" if left > 0 else ""


def _named(number: int, program: Row) -> str:
    """A program's name with its mark, as in the plots."""
    key = f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{mark(number, 6, 6)}</svg>'
    return key + re.sub(r"([_./-])(?!bdi)", r"\1<wbr>", _word(_name(program)))


def _name(program: Row) -> str:
    return str(program.get("name") or "program")


def _word(text: object) -> str:
    """A text of the report, kept from turning the direction of what stands beside it."""
    return f"<bdi>{escaped('–' if text is None else text)}</bdi>"


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _is(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _number(value: Any) -> float | None:
    return float(value) if _is(value) else None


def _interval(score: Row) -> tuple[float, float] | None:
    low, high = _number(score.get("low")), _number(score.get("high"))
    return None if low is None or high is None else (low, high)


def _cell(value: Any) -> str:
    return f"<td>{_percent(value)}</td>"


def _counted(value: Any) -> str:
    return f"<td>{_count(value)}</td>"


def _percent(value: Any) -> str:
    return f"{value:.1f}".replace("-", "−") if _is(value) else "–"


def _signed(value: Any) -> str:
    return f"{value:+.1f}".replace("-", "−") if _is(value) else "–"


def _count(value: Any) -> str:
    return f"{value:,.10g}" if _is(value) else "–"


def _dollars(value: Any) -> str:
    return f"${value:,.{2 if value >= 1 or value == 0 else 4}f}" if _is(value) else "–"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"
