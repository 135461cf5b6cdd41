"""ICD-10-CM as the CDC publishes it: the order file and the tabular list → `Concept`s.

In: ``icd10cm-order-2026.txt``, all codes with a long and a short description; or
``icd10cm-tabular-2026.xml``, which has inclusion terms too, but no codes of seventh characters.
Out: a concept a code, its id with the dot. Chapters and sections are no codes: they appear as
parents only.

Source: the readme files beside them, https://www.cdc.gov/nchs/icd/icd-10-cm/files.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from irr.files import TextFile
from irr.vocabularies.concept import Concept
from irr.vocabularies.problems import Problems
from irr.vocabularies.xml_elements import read_elements, text_of, texts_of

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = ["other_names", "read_order", "read_tabular"]

_LANGUAGE = "en"
# Order number, code, 1 where the code is valid for submission, short and long description.
_ORDER = re.compile(r"\d{5} ([A-Z][0-9A-Z]{2,6}) *(?<=^.{13}) [01] (.{60}) (.*\S)\s*")
# Includes notes may be whole paragraphs on when to use a code; those are no names.
_LONGEST_NAME = 120
_NONESSENTIAL = re.compile(r"\s*(?:\([^()]*\)|\[[^\[\]]*\])")


def read_order(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Read the order file, fixed width; parents are the longest codes that begin alike."""
    codes: set[str] = set()
    for line, text in file.lines():
        found = _ORDER.fullmatch(text)
        if found:
            code, short, name = found[1], found[2].strip(), found[3].strip()
            above = next(
                (code[:end] for end in range(len(code) - 1, 2, -1) if code[:end] in codes), ""
            )
            codes.add(code)
            others = ((_LANGUAGE, short),) if short and short != name else ()
            parents = (_dotted(above),) if above else ()
            yield Concept(_dotted(code), ((_LANGUAGE, name),), others, parents=parents, line=line)
        elif text.strip():
            problems.error(
                "is not of the order file's columns: number 1-5, code 7-13, 0 or 1 in 15, short "
                "description 17-76, long description from 78; mend the line or remove it",
                line,
            )


def read_tabular(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Read the tabular list; a section of a single category counts as that category."""
    above: list[str] = []
    root = chapter = waiting = None
    for event, element in read_elements(file, "ICD10CM.tabular", problems):
        root = element if root is None else root
        if event == "start":
            if element.tag in ("chapter", "section", "diag"):
                if waiting is not None:
                    yield from _enter(waiting, above, problems)
                    waiting = None
                if element.tag == "chapter":
                    chapter = element
                elif element.tag == "diag":
                    waiting = element
                elif chapter is not None:
                    above = [text_of(chapter, "name")]
                    if "-" in element.get("id", ""):
                        above.append(element.get("id", ""))
        elif element.tag == "diag":
            if waiting is not None:
                yield from _enter(waiting, above, problems)
                waiting = None
            above.pop()
            element.clear()
        elif element.tag == "chapter":
            root.clear()


def _enter(diagnosis: Element, above: list[str], problems: Problems) -> Iterator[Concept]:
    code, name = text_of(diagnosis, "name"), text_of(diagnosis, "desc")
    parents = tuple(above[-1:])
    above.append(code)
    if not code or not name:
        problems.error(f"a diag ({code or name or 'empty'}) has no name or desc: add it")
        return
    terms = texts_of(diagnosis, "inclusionTerm/note") + texts_of(diagnosis, "includes/note")
    others = tuple((_LANGUAGE, other) for other in other_names(name, terms))
    yield Concept(code, ((_LANGUAGE, name),), others, parents=parents)


def other_names(name: str, terms: list[str]) -> tuple[str, ...]:
    """Make alternative names of inclusion terms and includes notes.

    Among them is each name without the words in parentheses and brackets, which may be absent
    from a diagnosis without changing its code (ICD-10-CM Official Guidelines for Coding and
    Reporting, section I.A.7).

    >>> other_names("Angina", ["hypertension (arterial) (benign)"])
    ('hypertension (arterial) (benign)', 'hypertension')
    """
    names = {name.casefold(): name}
    for term in _with_variants([name, *terms]):
        if term and len(term) <= _LONGEST_NAME:
            names.setdefault(term.casefold(), term)
    return tuple(names.values())[1:]


def _with_variants(terms: list[str]) -> Iterator[str]:
    for term in terms:
        yield term.strip()
        yield _NONESSENTIAL.sub("", term).strip()


def _dotted(code: str) -> str:
    return f"{code[:3]}.{code[3:]}" if len(code) > 3 else code
