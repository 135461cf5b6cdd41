"""The page's tables of scores: every program's, how they differ, what others have published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from irr.evaluate.page.markup import as_table, named, section, side_by_side, word
from irr.evaluate.page.values import (
    Row,
    dollars,
    interval_of,
    is_known,
    name_of,
    percent,
    signed,
    thousands,
    union,
)
from irr.evaluate.plots import Bar, bar_plot

_PLOTTED = 6
_USAGE = {
    "failed": "Documents failed",
    "calls": "LM calls",
    "input_tokens": "Input tokens",
    "output_tokens": "Output tokens",
    "cost": "Cost",
}


def headline(report: Row, programs: Sequence[Row]) -> str:
    """What was measured, and the scores and costs of all programs."""
    counted = {"documents": "documents", "labels": "labels", "without_gold": "without gold labels"}
    parts = [
        f"{thousands(report[k])} {noun}" for k, noun in counted.items() if is_known(report.get(k))
    ]
    intro = f'<p class="soft">{" · ".join(parts)}</p>' if parts else ""
    metrics = union(p.get("metrics") or {} for p in programs)
    rows = [_metric_row(m, programs, report.get("differences") or ()) for m in metrics]
    for key, words in _USAGE.items():
        if any(is_known(p.get(key)) for p in programs):
            show = dollars if key == "cost" else thousands
            rows.append([words, *(f"<td>{show(p.get(key))}</td>" for p in programs)])
    if not rows:
        return intro
    note = "Means over documents in percent, below them the 95% interval." if metrics else ""
    if any('class="best"' in cell for row in rows for cell in row):
        note += " Marked: better than every other program, by a difference whose interval"
        note += " excludes zero."
    header = ["Metric" if metrics else "", *map(named, range(len(programs)), programs)]
    table = as_table(note, header, rows)
    return intro + section("Scores", side_by_side([table, _scores(metrics, programs)]))


def _scores(metrics: Sequence[str], programs: Sequence[Row]) -> str:
    groups = []
    for metric in metrics[:_PLOTTED]:
        known = [(n, p, (p.get("metrics") or {}).get(metric) or {}) for n, p in enumerate(programs)]
        bars = [
            Bar(n, name_of(p), s["mean"], interval_of(s))
            for n, p, s in known
            if is_known(s.get("mean"))
        ]
        groups += [(metric, bars)] if bars else []
    about = "Bars: the scores of the table, with 95% intervals"
    return f"<figure>{bar_plot(groups, about)}</figure>" if groups else ""


def _metric_row(metric: str, programs: Sequence[Row], differences: Iterable[Row]) -> list[str]:
    best = _best(metric, programs, differences)
    row = [word(metric)]
    for program in programs:
        score = (program.get("metrics") or {}).get(metric) or {}
        interval = interval_of(score)
        small = " to ".join(map(percent, interval)) if interval else ""
        kind = ' class="best"' if program is best else ""
        row.append(f"<td{kind}>{percent(score.get('mean'))}<small>{small}</small></td>")
    return row


def _best(metric: str, programs: Sequence[Row], differences: Iterable[Row]) -> Row | None:
    """The program that beats every other one by a difference whose interval excludes zero."""
    won = set()
    for row in differences:
        interval = interval_of(row)
        if row.get("metric") == metric and interval:
            won |= {(row.get("a"), row.get("b"))} if interval[0] > 0 else set()
            won |= {(row.get("b"), row.get("a"))} if interval[1] < 0 else set()
    for one in programs:
        others = [p for p in programs if p is not one and metric in (p.get("metrics") or {})]
        if others and all((one.get("name"), p.get("name")) in won for p in others):
            return one
    return None


def compared(differences: Sequence[Row]) -> str:
    """Paired differences of programs, and what they decide."""
    rows = []
    for row in differences:
        interval = interval_of(row)
        low, high = interval or (0.0, 0.0)
        a, b = word(row.get("a")), word(row.get("b"))
        small = " to ".join(map(signed, interval or ()))
        shown = f"<td>{signed(row.get('mean'))}<small>{small}</small></td>"
        verdict = f"{a} is better" if low > 0 else f"{b} is better" if high < 0 else "undecided"
        rows.append([f"{a} over {b}", word(row.get("metric")), shown, verdict])
    note = (
        "Paired, on the same documents, in points of percent, with 95% intervals; undecided: the "
    )
    note += "interval holds zero."
    header = ["Programs", "Metric", "Difference", "Verdict"]
    return section("Differences", as_table(note, header, rows, words={1, 3})) if rows else ""


def published_figures(published: Sequence[Row]) -> str:
    """Figures that others have published on the same task, as the task file tells them."""
    keys = union(published)
    rows = [[word(row.get(key)) for key in keys] for row in published]
    table = as_table("", [word(key) for key in keys], rows, words=range(len(keys)))
    return section("Published figures", table) if rows and keys else ""
