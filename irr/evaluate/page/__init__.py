"""The page of an evaluation: its report → one HTML file that needs nothing else.

No script, no font or image from elsewhere (the page forbids them to itself). Whatever the report
lacks, the page leaves out. Every plot's numbers also stand in a table.

The rooms: `scores`, `losses` and `figures`, each of which makes sections; `values` (what the report
holds, as words), `markup` (words as HTML) and `style`. Cells and bodies in them are HTML; texts of
the report become HTML by `markup.word` or `escaped` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irr.evaluate.page.figures import plots
from irr.evaluate.page.losses import ceilings, lost, unknown_gold
from irr.evaluate.page.markup import section, word
from irr.evaluate.page.scores import compared, headline, published_figures
from irr.evaluate.page.style import PAGE_STYLE
from irr.evaluate.page.values import Row, is_known
from irr.evaluate.plots import STYLE, escaped

__all__ = ["page"]


def page(report: Mapping[str, Any]) -> str:
    """The report as one HTML document; parts that are missing, empty or None are left out."""
    title = escaped(report.get("title") or "Evaluation")
    programs: list[Row] = list(report.get("programs") or ())
    body = (
        headline(report, programs),
        ceilings(programs),
        plots(programs),
        lost(programs),
        unknown_gold(report.get("unknown_gold") or {}),
        compared(report.get("differences") or ()),
        published_figures(report.get("published") or ()),
        _made(report.get("made") or {}),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{PAGE_STYLE}{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1><bdi>{title}</bdi></h1>\n"
        + "\n".join(filter(None, body))
        + "\n</main>\n</body>\n</html>\n"
    )


def _made(made: Mapping[str, Any]) -> str:
    parts = [f"{escaped(k)} {word(v)}" for k, v in made.items() if k != "command" and is_known(v)]
    command = f"<pre>{escaped(made['command'])}</pre>" if made.get("command") else ""
    about = f"<p>{', '.join(parts)}</p>" if parts else ""
    return section("How this was made", about + command)
