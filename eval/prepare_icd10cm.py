"""ICD-10-CM from the package simple-icd-10-cm → a label set with gold that needs no download.

Out: labels.jsonl {"id", "name"}: the 26,592 categories and subcategories of up to five characters
     (the dot not counted), id the dotted code, name its description, no synonyms (the package
     lists 26,631, but names 39 codes twice: a block of one category bears the category's code);
     terms.jsonl {"id", "text", "labels"}: each inclusion term of these codes (a synonym that the
     tabular list gives) with the codes that list it: names and gold worded differently;
     notes.jsonl: documents of three to five terms of different chapters, one sentence a term,
     drawn with a seed; gold: the terms' own codes, so near siblings count as wrong.

    python eval/prepare_icd10cm.py --output DIR [--seed 0] [--notes 300]
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preparation import parser, report, run, write_jsonl

from irr.errors import ConfigurationError

MAX_CHARACTERS = 5
TERMS_PER_NOTE = (3, 5)


@dataclass(frozen=True)
class Term:
    """An inclusion term, the codes that list it, and the chapters of these codes."""

    text: str
    codes: tuple[str, ...]
    chapters: frozenset[str]


def read_codes() -> tuple[list[tuple[str, str]], list[Term]]:
    """(code, description) of every label, and the terms, both in the order of the tabular list."""
    try:
        import simple_icd_10_cm as icd
    except ImportError:
        message = "simple-icd-10-cm is not installed: pip install simple-icd-10-cm"
        raise ConfigurationError(message) from None

    labels: list[tuple[str, str]] = []
    codes: dict[str, list[str]] = {}
    chapters: dict[str, set[str]] = {}
    for code in dict.fromkeys(icd.get_all_codes(with_dots=True)):
        if not icd.is_category_or_subcategory(code) or len(code.replace(".", "")) > MAX_CHARACTERS:
            continue
        labels.append((code, icd.get_description(code)))
        for term in icd.get_inclusion_term(code):
            codes.setdefault(term, []).append(code)
            chapters.setdefault(term, set()).add(icd.get_ancestors(code)[-1])
    return labels, [Term(t, tuple(c), frozenset(chapters[t])) for t, c in codes.items()]


def draw_note(terms: Sequence[Term], draw: random.Random) -> list[Term]:
    """Three to five terms, no two of which share a chapter."""
    wanted = draw.randint(*TERMS_PER_NOTE)
    note: list[Term] = []
    while len(note) < wanted:
        term = draw.choice(terms)
        if not any(term.chapters & other.chapters for other in note):
            note.append(term)
    return note


def note_row(number: int, note: Sequence[Term]) -> dict[str, object]:
    text = ". ".join(term.text.rstrip(".") for term in note) + "."
    codes = dict.fromkeys(code for term in note for code in term.codes)
    return {"id": f"note-{number}", "text": text, "labels": list(codes)}


def prepare(output: Path, seed: int, notes: int) -> None:
    """Writes the three files; the same seed gives the same notes."""
    if notes < 0:
        raise ConfigurationError(f"--notes must be 0 or more, not {notes}")
    labels, terms = read_codes()
    draw = random.Random(seed)
    drawn = [draw_note(terms, draw) for _ in range(notes)]

    output.mkdir(parents=True, exist_ok=True)
    write_jsonl(output / "labels.jsonl", ({"id": code, "name": name} for code, name in labels))
    numbered = enumerate(terms, start=1)
    rows = ({"id": f"term-{i}", "text": t.text, "labels": list(t.codes)} for i, t in numbered)
    write_jsonl(output / "terms.jsonl", rows)
    note_rows = (note_row(i, note) for i, note in enumerate(drawn, start=1))
    write_jsonl(output / "notes.jsonl", note_rows)
    report(f"{len(labels)} labels, {len(terms)} terms, {len(drawn)} notes in {output}")


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0, help="seed of the notes (default 0)")
    options.add_argument("--notes", type=int, default=300, help="how many notes (default 300)")
    given = options.parse_args(argv)
    return run(lambda: prepare(given.output, given.seed, given.notes), given.output)


if __name__ == "__main__":
    sys.exit(main())
