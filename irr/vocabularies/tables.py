"""Tables of labels: csv and tsv of any maker, ESCO's download, Annif's vocabularies.

In: a `TextFile`. Out: `Concept`s, a row each. A row that cannot be read is reported and left out.

Sources: ESCO's download in CSV (https://esco.ec.europa.eu/en/use-esco/download); Annif's subject
vocabulary formats (https://github.com/NatLibFi/Annif/wiki/Subject-vocabulary-formats).
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from irr.errors import InputError, LabelSetError
from irr.files import TextFile, split_cell
from irr.vocabularies.concept import Concept, Tagged
from irr.vocabularies.problems import Problems

__all__ = [
    "has_annif_columns",
    "has_esco_columns",
    "read_annif_csv",
    "read_annif_tsv",
    "read_csv",
    "read_esco",
    "read_tsv",
]

logger = logging.getLogger(__name__)

# A column may have any of these names, in any case; the first that a file has is used.
_COLUMNS = {
    "id": ("id", "uri", "code", "notation", "conceptUri"),
    "name": ("label", "name", "preferredLabel", "prefLabel", "title"),
    "alternative_names": ("alternative_names", "altLabels", "alt_labels", "synonyms"),
    "description": ("description", "definition"),
    "parents": ("parents", "broader", "parent"),
}
_UNDETERMINED = "und"
"""What BCP 47 calls a text whose language is not known."""
_ESCO_NAME = re.compile(r"(?P<kind>skills|occupations)_(?P<language>[a-z]{2,3})\.csv(?P<gz>\.gz)?")
_ESCO_PARENTS = {"skills": "SkillPillar", "occupations": "OccPillar"}

Rows = Iterator[tuple[int, dict[str, str]]]


def read_csv(file: TextFile, problems: Problems, delimiter: str = ",") -> Iterator[Concept]:
    """Read a table with a header; columns in any case and order, see `LabelSet.read`."""
    header, rows = _table(file, delimiter, problems)
    places = {field: file.column(header, names) for field, names in _COLUMNS.items()}
    if places["name"] is None:
        raise file.missing_column(header, _COLUMNS["name"])
    _mention_unused(file, {cell for i, cell in enumerate(header) if i not in places.values()})
    used = {field: place for field, place in places.items() if place is not None}
    for line, row in rows:
        yield _concept({field: row[place].strip() for field, place in used.items()}, line)


def read_tsv(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Do as `read_csv` with tabs between cells."""
    return read_csv(file, problems, "\t")


def _concept(cells: dict[str, str], line: int) -> Concept:
    description = cells.get("description", "")
    return Concept(
        id=cells.get("id", cells["name"]),
        names=(("", cells["name"]),),
        alternative_names=_tagged("", cells.get("alternative_names", ""), "|\n\r"),
        definitions=(("", description),) if description else (),
        parents=split_cell(cells.get("parents", "")),
        line=line,
    )


def has_esco_columns(header: str) -> bool:
    """Tell whether the first line of a csv file is that of ESCO's download."""
    return {"concepturi", "preferredlabel"} <= _folded(header)


def read_esco(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Read ``skills_en.csv`` or ``occupations_en.csv`` of ESCO's download.

    The language is that in the name of the file. Parents come from the table of broader relations
    where it lies beside. Concepts whose status is not "released" are left out and counted.
    """
    header, rows = _table(file, ",", problems)
    columns = {cell.casefold(): place for place, cell in enumerate(header)}
    for column in ("conceptUri", "preferredLabel"):
        if column.casefold() not in columns:
            raise file.missing_column(header, [column])
    named = _ESCO_NAME.fullmatch(Path(file.name).name.lower())
    language = named["language"] if named else ""
    parents = _esco_parents(file, named, problems)
    for line, row in rows:
        cells = {column: row[place].strip() for column, place in columns.items()}
        if cells.get("status", "released") not in ("released", ""):
            problems.count("concepts not left in ESCO's release (status)", cells["preferredlabel"])
        else:
            yield _esco_concept(cells, language, parents, line)


def _esco_concept(
    cells: dict[str, str], language: str, parents: dict[str, list[str]], line: int
) -> Concept:
    definition = cells.get("description") or cells.get("definition", "")
    notation = cells.get("code", "")
    return Concept(
        id=cells["concepturi"],
        names=((language, cells["preferredlabel"]),),
        alternative_names=_tagged(language, cells.get("altlabels", ""), "|\n\r"),
        hidden_names=_tagged(language, cells.get("hiddenlabels", ""), "|\n\r"),
        definitions=((language, definition),) if definition else (),
        scope_notes=_tagged(language, cells.get("scopenote", ""), "\0"),
        parents=tuple(parents.get(cells["concepturi"], ())),
        notations=(notation,) if notation else (),
        line=line,
    )


def _esco_parents(
    file: TextFile, named: re.Match[str] | None, problems: Problems
) -> dict[str, list[str]]:
    parents: dict[str, list[str]] = {}
    if not named:
        return parents
    folder = Path(file.name).parent
    start = f"broaderRelations{_ESCO_PARENTS[named['kind']]}_{named['language']}.csv"
    beside = (folder / name for name in (start, start + ".gz"))
    found = next((path for path in beside if path.is_file()), None)
    if found is None:
        problems.count("table of broader relations is not beside the file", start)
        return parents
    relations = TextFile(found, LabelSetError)
    header, rows = _table(relations, ",", problems.about(found))
    child, parent = (relations.column(header, [name]) for name in ("conceptUri", "broaderUri"))
    if child is None or parent is None:
        raise relations.missing_column(
            header, ["broaderUri" if child is not None else "conceptUri"]
        )
    try:
        for _, row in rows:
            parents.setdefault(row[child].strip(), []).append(row[parent].strip())
    except InputError as error:
        problems.stop(error)
    return parents


def has_annif_columns(header: str) -> bool:
    """Tell whether the first line of a csv file is that of an Annif vocabulary."""
    columns = _folded(header)
    named = {name.casefold() for name in _COLUMNS["name"]}
    return (
        "uri" in columns
        and any(name.startswith("label_") for name in columns)
        and not named & columns
    )


def read_annif_csv(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Read Annif's vocabulary in csv: columns uri, label_xx for each language xx, notation.

    A row without any label is a deprecated subject: it is left out and counted.
    """
    header, rows = _table(file, ",", problems)
    columns = {cell.casefold(): place for place, cell in enumerate(header)}
    for name in columns:
        if name in ("uri", "notation") or name.startswith("label_"):
            file.column(header, [name])  # It raises where there are two of the name.
    languages = {
        name.removeprefix("label_"): place
        for name, place in columns.items()
        if name.startswith("label_")
    }
    if "uri" not in columns:
        raise file.missing_column(header, ["uri"])
    if not languages:
        raise file.missing_column(header, ["label_en"])
    for line, row in rows:
        names = [
            (language.replace(_UNDETERMINED, ""), row[place].strip())
            for language, place in languages.items()
        ]
        notation = row[columns["notation"]].strip() if "notation" in columns else ""
        yield from _annif_concept(row[columns["uri"]], names, notation, line, problems)


def read_annif_tsv(file: TextFile, problems: Problems) -> Iterator[Concept]:
    """Read Annif's vocabulary in tsv: ``<uri>``, a label and perhaps a notation in each line."""
    for line, text in file.lines():
        cells = text.strip("\r\n").split("\t")
        if not text.strip():
            continue
        if len(cells) > 3:
            problems.error(
                f"has {len(cells)} cells where Annif has 2 or 3: <uri>, label, notation", line
            )
        elif len(cells) == 1:
            problems.error("has no tab: write <uri>, a tab, and the label", line)
        else:
            notation = cells[2].strip() if len(cells) == 3 else ""
            yield from _annif_concept(cells[0], [("", cells[1].strip())], notation, line, problems)


def _annif_concept(
    uri: str, names: Sequence[Tagged], notation: str, line: int, problems: Problems
) -> Iterator[Concept]:
    uri = uri.strip()
    if uri.startswith("<") and uri.endswith(">"):
        uri = uri[1:-1]
    named = tuple(name for name in names if name[1])
    if not uri:
        problems.error("empty uri: fill it in or remove the row", line)
    elif named:
        yield Concept(uri, named, notations=(notation,) if notation else (), line=line)
    else:
        problems.count("deprecated subjects (without a label) left out", uri, line)


def _folded(header: str) -> set[str]:
    cells = next(csv.reader([header.lstrip("\ufeff")]), [])
    return {cell.strip().casefold() for cell in cells}


def _tagged(language: str, cell: str, separators: str) -> tuple[Tagged, ...]:
    return tuple((language, text) for text in split_cell(cell, separators))


def _table(
    file: TextFile, delimiter: str, problems: Problems
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header and the rows that are not empty; rows that cannot be read are reported."""
    rows = _rows(file, delimiter, problems)
    _, header = next(rows, (0, []))
    if not header:
        raise file.failure("is empty: the first row must name the columns")
    return [cell.strip() for cell in header], _even_rows(rows, len(header), problems)


def _even_rows(
    rows: Iterator[tuple[int, list[str]]], width: int, problems: Problems
) -> Iterator[tuple[int, list[str]]]:
    for line, row in rows:
        if len(row) != width:
            problems.error(
                f"has {len(row)} cells where the header has {width}: quote cells that hold "
                "the separator, and fill up short rows",
                line,
            )
        elif any(map(str.strip, row)):
            yield line, row


def _rows(file: TextFile, delimiter: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    # The limit of 131,072 characters is the whole process's; it guards nothing we need.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader((text for _, text in file.pieces()), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            problems.error(_complaint(exc), line)
            continue
        if row:
            yield line, row


def _complaint(exc: csv.Error) -> str:
    if "unexpected end" in str(exc):
        return "a quote opened in this row is never closed: close it, or double a literal quote"
    if "new-line character" in str(exc):
        return "holds a carriage return outside quotes: end lines with \\n or \\r\\n"
    return f"malformed row: {exc}; quote the cell and double the quotes within"


def _mention_unused(file: TextFile, names: set[str]) -> None:
    if names:
        logger.info("%s: not used: %s", file.name, ", ".join(sorted(names)))
