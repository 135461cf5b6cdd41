"""The pieces that the page is put together from: sections, figures, tables, cells, names.

In: HTML, and texts of the report, which become HTML here. Out: HTML.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from irr.evaluate.page.values import Row, name_of, percent, thousands
from irr.evaluate.plots import escaped, mark

SHOWN = 20
"""How many rows of a long list are shown."""


def section(title: str, body: str) -> str:
    """A part of the page under a heading; empty where its body is."""
    return f"<section>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def side_by_side(parts: Iterable[str]) -> str:
    """Parts beside each other where there is room; empty ones are left out."""
    filled = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div class="plots">{filled}</div>' if filled else ""


def captioned(title: str, note: str, plot: str, table: str = "") -> str:
    """A plot under its title and note, with its numbers to unfold. Title and note are texts."""
    numbers = folded("The numbers", table) if table else ""
    caption = f"<figcaption>{escaped(title)}<span>{escaped(note)}</span></figcaption>"
    return f"<figure>{caption}{plot}{numbers}</figure>"


def folded(summary: str, body: str) -> str:
    """What a reader unfolds."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def as_table(
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


def more(rows: Sequence[object], total: int | None = None) -> str:
    """How many rows beyond the first `SHOWN` there are, of `total` where `rows` are not all."""
    left = max(total or 0, len(rows)) - SHOWN
    return f"<p>… and {left:,} more</p>" if left > 0 else ""


def named(number: int, program: Row) -> str:
    """A program's name with its mark, as in the plots."""
    key = f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{mark(number, 6, 6)}</svg>'
    return key + re.sub(r"([_./-])(?!bdi)", r"\1<wbr>", word(name_of(program)))


def word(text: object) -> str:
    """A text of the report, kept from turning the direction of what stands beside it."""
    return f"<bdi>{escaped('–' if text is None else text)}</bdi>"


def percent_cell(value: Any) -> str:
    """A cell of a table."""
    return f"<td>{percent(value)}</td>"


def count_cell(value: Any) -> str:
    """A cell of a table."""
    return f"<td>{thousands(value)}</td>"
