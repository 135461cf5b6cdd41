"""The page's plots: recall by candidates, score by frequency, calibration, cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from irr.evaluate.page.markup import (
    as_table,
    captioned,
    count_cell,
    named,
    percent_cell,
    section,
    side_by_side,
    word,
)
from irr.evaluate.page.values import (
    Row,
    capital,
    interval_of,
    is_known,
    name_of,
    number_of,
    thousands,
    union,
)
from irr.evaluate.plots import Bar, Series, bar_plot, line_plot, point_plot


def plots(programs: Sequence[Row]) -> str:
    """All plots but those of scores and of stages, which stand beside their tables."""
    drawn = (_recall(programs), _bands(programs), _calibration(programs), _costs(programs))
    return section("Plots", side_by_side(drawn))


def _recall(programs: Sequence[Row]) -> str:
    series = []
    for number, program in enumerate(programs):
        rows = program.get("recall_by_candidates") or ()
        points = sorted(
            (float(n), float(r)) for n, r in rows if is_known(n) and is_known(r) and n > 0
        )
        if points:
            series.append(Series(number, name_of(program), points))
    if not series:
        return ""
    about = "Lines: recall of gold labels by number of candidates"
    plot = line_plot(series, about, ("Candidates", "Recall, %"), log=True)
    known = {(s.number, x): y for s in series for x, y in s.points}
    rows = [
        [thousands(x), *(percent_cell(known.get((s.number, x))) for s in series)]
        for x in sorted({x for _, x in known})
    ]
    header = ["Candidates", *(named(s.number, programs[s.number]) for s in series)]
    note = "Share of gold labels among the first candidates."
    return captioned("Recall by number of candidates", note, plot, as_table("", header, rows))


def _bands(programs: Sequence[Row]) -> str:
    rows = [
        (str(band.get("band") or "–"), number, program, band)
        for number, program in enumerate(programs)
        for band in program.get("bands") or ()
    ]
    bars: dict[str, list[Bar]] = {}
    for name, number, program, band in rows:
        if is_known(band.get("recall")):
            bars.setdefault(capital(name), []).append(Bar(number, name_of(program), band["recall"]))
    if not bars:
        return ""
    counts = [k for k in ("labels", "gold") if any(is_known(b.get(k)) for *_, b in rows)]
    cells = [
        [
            word(name),
            named(n, p),
            *map(count_cell, (b.get(k) for k in counts)),
            percent_cell(b.get("recall")),
        ]
        for name, n, p, b in rows
    ]
    table = as_table("", ["Band", "Program", *map(str.title, counts), "Recall"], cells, words={1})
    plot = bar_plot(list(bars.items()), "Bars: recall by how often a label was seen in training")
    note = "Recall of gold labels by how often the label occurs in training, percent."
    return captioned("Score by frequency", note, plot, table)


def _calibration(programs: Sequence[Row]) -> str:
    rows = [
        (number, program, b)
        for number, program in enumerate(programs)
        for b in program.get("calibration") or ()
        if is_known(b.get("from")) and is_known(b.get("to"))
    ]
    series = []
    for number, group in groupby(rows, key=lambda row: row[0]):
        bins = [b for *_, b in group if is_known(b.get("correct"))]
        bins.sort(key=lambda b: float(b["from"]))
        points = [((b["from"] + b["to"]) / 2, b["correct"]) for b in bins]
        weights = [number_of(b.get("predictions")) or 0.0 for b in bins]
        if points:
            series.append(Series(number, name_of(programs[number]), points, weights))
    if not series:
        return ""
    cells = [
        [_bin(b), named(n, p), count_cell(b.get("predictions")), percent_cell(b.get("correct"))]
        for n, p, b in rows
    ]
    table = as_table("", ["Score", "Program", "Predictions", "Correct, %"], cells, words={1})
    about = "Lines: share of correct predictions by score"
    plot = line_plot(series, about, ("Score", "Correct, %"))
    note = "Larger marks stand for more predictions. On the dotted line a score is the share that "
    return captioned("Calibration", note + "is correct.", plot, table)


def _bin(row: Row) -> str:
    return f"{row['from']:.6g} to {row['to']:.6g}"


def _costs(programs: Sequence[Row]) -> str:
    scored = union(p.get("metrics") or {} for p in programs)
    metric = "RP@10" if "RP@10" in scored else next(iter(scored), "")
    for key, what in (("cost", "Cost, dollars"), ("calls", "LM calls")):
        series = []
        for number, program in enumerate(programs):
            score = (program.get("metrics") or {}).get(metric) or {}
            # What calls no LM costs nothing.
            spent = 0.0 if program.get("calls") == 0 else number_of(program.get(key))
            mean = number_of(score.get("mean"))
            if spent is not None and mean is not None:
                point = [(spent, mean)]
                series.append(Series(number, name_of(program), point, (), interval_of(score)))
        if len(series) >= 2 and any(s.points[0][0] > 0 for s in series):
            about = f"Points: {what} against {metric}; the numbers are in the table of scores"
            plot = point_plot(series, about, (what, f"{metric}, %"))
            return captioned("Cost against quality", "With 95% intervals.", plot)
    return ""
