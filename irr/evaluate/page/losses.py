"""Where gold labels are lost: how many are left after each stage, and which are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from irr.evaluate.page.markup import (
    SHOWN,
    as_table,
    captioned,
    count_cell,
    folded,
    more,
    named,
    percent_cell,
    section,
    side_by_side,
    word,
)
from irr.evaluate.page.values import Row, capital, is_known, name_of, number_of, percent, plural
from irr.evaluate.plots import Bar, bar_plot, escaped

_TEXT_CHARS = 300
_STAGES = {"guessed": "guessed", "retrieved": "among the candidates", "picked": "picked"}
_LOST = {
    "guessed": "Not guessed",
    "retrieved": "Not among the candidates",
    "ranked": "Among the candidates, but not at the top",
}


def ceilings(programs: Sequence[Row]) -> str:
    """Of 100 gold labels, how many are left after each stage."""
    sentences, shares = [], []
    for number, program in enumerate(programs):
        stages = program.get("stages") or {}
        gold = number_of(stages.get("gold"))
        if not gold:
            continue
        words = _STAGES | {"top_k": f"in the top {stages.get('k') or 'labels'}"}
        found = [(words[s], stages[s]) for s in words if is_known(stages.get(s))]
        sentences.append(_sentence(program, found, gold, stages.get("perfect_rank") or {}))
        shares += [(w, number, program, 100 * n / gold, n, gold) for w, n in found]
    groups = [(w, [s for s in shares if s[0] == w]) for w in dict.fromkeys(s[0] for s in shares)]
    if not groups:
        return ""
    bars = [
        (capital(w), [Bar(n, name_of(p), share) for _, n, p, share, *_ in group])
        for w, group in groups
    ]
    rows = [
        [word(w), named(n, p), count_cell(c), count_cell(g), percent_cell(share)]
        for w, group in groups
        for _, n, p, share, c, g in group
    ]
    table = as_table("", ["Gold labels", "Program", "Count", "Of", "Percent"], rows, words={1})
    plot = bar_plot(bars, "Bars: of 100 gold labels, how many are left after each stage")
    figure = captioned("Gold labels left after each stage", "Of 100 gold labels.", plot, table)
    return section("Where gold labels are lost", side_by_side([figure, "".join(sentences)]))


def _sentence(
    program: Row, found: Sequence[tuple[str, float]], gold: float, perfect: Mapping[str, Any]
) -> str:
    parts = [f"{100 * count / gold:.0f} {place}" for place, count in found]
    told = ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + "".join(parts[-1:])
    told = told.replace(" ", " were ", 1)
    reach = [f"{escaped(m)} {percent(score)}" for m, score in perfect.items() if is_known(score)]
    ideal = f"a perfect Rank would reach {', '.join(reach)}" if reach else ""
    said = "; ".join(filter(None, [f"of 100 gold labels {told}" if told else "", ideal]))
    return f"<h3>{word(name_of(program))}</h3><p>{capital(said)}.</p>" if said else ""


def lost(programs: Iterable[Row]) -> str:
    """Labels and documents that each program lost, by the stage that lost them."""
    return section("What was lost", side_by_side(map(_lost, programs)))


def _lost(program: Row) -> str:
    lists = []
    for stage, words in _LOST.items():
        labels = (program.get("lost") or {}).get(stage) or ()
        rows = [[word(r.get("label")), count_cell(r.get("count"))] for r in labels]
        table = as_table("", ["Label", "Times"], rows[:SHOWN])
        totals = (program.get("lost_totals") or {}).get(stage) or {}
        count = totals.get("labels") or len(rows)
        table += more(rows, count)
        lists.append(folded(f"{words}: {plural(count, 'label')}", table) if rows else "")
        documents = [d for d in program.get("lost_documents") or () if d.get("stage") == stage]
        articles = "".join(map(_document, documents[:SHOWN])) + more(
            documents, totals.get("documents")
        )
        head = f"{words}: {plural(totals.get('documents') or len(documents), 'document')}"
        lists.append(folded(head, articles) if documents else "")
    body = "".join(lists)
    return f"<h3>{word(name_of(program))}</h3>{body}" if body else ""


def _document(row: Row) -> str:
    text = " ".join(str(row.get("text") or "").split())
    text = text if len(text) <= _TEXT_CHARS else text[:_TEXT_CHARS] + "…"
    missed = "; ".join(word(label) for label in row.get("missed") or ())
    return (
        f"<article><small>{word(row.get('id'))}</small><p>{word(text)}</p>"
        f'<p class="missed">Missed: {missed}</p></article>'
    )


def unknown_gold(unknown: Mapping[str, int]) -> str:
    """Gold labels that the label set lacks, the most frequent first."""
    ranked = sorted(unknown.items(), key=lambda item: -(item[1] or 0))
    rows = [[word(name), count_cell(count)] for name, count in ranked]
    note = (
        "Gold labels that are not in the label set: nothing can find them, so they count as lost."
    )
    table = as_table(note, ["Label", "Times"], rows[:SHOWN]) + more(rows)
    return section("Unknown gold labels", table) if rows else ""
