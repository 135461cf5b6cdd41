"""`LabelSet`: the labels to choose from, in order; read from a file or a package.

In: a file (formats: `LabelSet.read`) or labels. Out: a position for each id or name, a label for
each position, and a hash of the content, by which vectors and programs know the label set they
were made for. Positions are used inside, ids and names at the edges.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from irr.errors import LabelSetError
from irr.files import TextFile, split_cell
from irr.types import Label

__all__ = ["ICD10CM", "LabelSet"]

logger = logging.getLogger(__name__)

ICD10CM = "icd10cm"
"""The name under which `LabelSet.read` finds the packaged ICD-10-CM codes."""

# A column may have any of these names, in any case; the first that a file has is used.
_COLUMNS = {
    "id": ("id", "uri", "code", "notation", "conceptUri"),
    "name": ("label", "name", "preferredLabel", "prefLabel", "title"),
    "alternative_names": ("alternative_names", "altLabels", "alt_labels", "synonyms"),
    "description": ("description", "definition"),
    "parents": ("parents", "broader", "parent"),
}
_KEYS = {"id", "name", "label", "alternative_names", "description", "parents"}
_MOST_TO_COMPARE = 50_000


class LabelSet:
    """An ordered set of labels with unique ids; several labels may share a name.

    Args:
        labels: at least one, in the order that gives them their positions.
        path: the file they are from, named in errors.
        lines: the 1-based line of each label in that file.

    Raises:
        LabelSetError: no label, an empty id or name, an id used twice.
    """

    def __init__(
        self,
        labels: Iterable[Label],
        *,
        path: str | Path | None = None,
        lines: Sequence[int] | None = None,
    ) -> None:
        self._labels = tuple(labels)
        self._by_id: dict[str, int] = {}
        if not self._labels:
            raise LabelSetError("holds no labels: give at least one", path=path)
        for position, label in enumerate(self._labels):
            first = self._by_id.setdefault(label.id, position)
            if first != position or not label.name or not label.id:
                line = lines[position] if lines else None
                earlier = f"line {lines[first]}" if lines else f"position {first}"
                raise LabelSetError(_complaint(label, earlier), path=path, line=line)

    @classmethod
    def read(cls, path: str | Path) -> LabelSet:
        """Read a label file, UTF-8, by the ending of its name (each also with .gz).

        - .txt: a name a line, which is also the id. Blank lines are allowed at the end only.
        - .csv, .tsv: a header, then a label a row. Columns, in any case and order: id (or uri,
          code, notation, conceptUri; without one, names are ids); label (or name,
          preferredLabel, prefLabel, title; required); alternative_names (or altLabels,
          alt_labels, synonyms; separated by "|" or line breaks); description (or definition);
          parents (or broader, parent; separated by "|"). Empty rows are skipped.
        - .jsonl: ``{"id": …, "name" or "label": …, "alternative_names": […], "description": …,
          "parents": […]}`` a line, of which only the name is required, or just a JSON string.

        The exact name ``icd10cm`` gives `irr.icd10cm.read_icd10cm`. Texts lose white space around
        them and are otherwise kept as they are, without Unicode normalisation.

        Raises:
            LabelSetError: the file cannot be read as described; names the file and the line.
        """
        if str(path) == ICD10CM:
            from irr.icd10cm import read_icd10cm  # It needs a package that not everybody has.

            return read_icd10cm()
        file = TextFile(path, LabelSetError)
        readers = {".txt": _read_names, ".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_json}
        if file.ending not in readers:
            endings = ", ".join(readers)
            raise file.failure(f"cannot tell its format by its name: it must end in {endings}")
        numbered = list(readers[file.ending](file))
        if not numbered:
            raise file.failure("holds no labels: give at least one")
        lines = [line for line, _ in numbered]
        return cls((label for _, label in numbered), path=path, lines=lines)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, position: int) -> Label:
        return self._labels[position]

    def __iter__(self) -> Iterator[Label]:
        return iter(self._labels)

    def __repr__(self) -> str:
        return f"<LabelSet of {len(self):,} labels, {self.content_hash[:12]}>"

    @cached_property
    def ids(self) -> list[str]:
        """The id of every label, in order."""
        return [label.id for label in self._labels]

    @cached_property
    def names(self) -> list[str]:
        """The name of every label, in order."""
        return [label.name for label in self._labels]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 in hex over every field of every label, in order."""
        rows = [
            (label.id, label.name, label.alternative_names, label.description, label.parents)
            for label in self._labels
        ]
        content = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()

    def find(self, id_or_name: str) -> int | None:
        """Find the position of the label with this id, else this name; None where there is none.

        Raises:
            LabelSetError: no label has this id, and several have this name.
        """
        positions = self.find_all(id_or_name)
        if len(positions) > 1:
            ids = ", ".join(repr(self._labels[position].id) for position in positions[:5])
            raise LabelSetError(
                f"{id_or_name!r} names {len(positions)} labels: use one of their ids, {ids}"
            )
        return positions[0] if positions else None

    def find_all(self, id_or_name: str) -> list[int]:
        """Find the positions, in order, of all the labels that `id_or_name` may stand for.

        An id stands for its label alone, even where it is another's name too; a name for every
        label that has it; anything else for none.
        """
        position = self._by_id.get(id_or_name)
        return list(self._by_name.get(id_or_name, ())) if position is None else [position]

    def position_of(self, id_or_name: str) -> int:
        """Do as `find`, but an unknown label is a LabelSetError that names the nearest ones."""
        position = self.find(id_or_name)
        if position is None:
            raise LabelSetError(
                f"no label has the id or name {id_or_name!r}{self._near(id_or_name)}"
            )
        return position

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        """The positions of the labels of each name, in order."""
        positions: dict[str, list[int]] = {}
        for position, name in enumerate(self.names):
            positions.setdefault(name, []).append(position)
        return positions

    def _near(self, name: str) -> str:
        if len(self) > _MOST_TO_COMPARE:  # The comparison takes some 10 µs a label.
            return ""
        import difflib

        near = difflib.get_close_matches(name, self.names, n=3)
        return f": did you mean {' or '.join(map(repr, near))}?" if near else ""


def _complaint(label: Label, earlier: str) -> str:
    if not label.name:
        return "empty name: fill it in or remove the line"
    if not label.id:
        return f"empty id of {label.name!r}: fill it in or remove the row"
    return f"the id {label.id!r} is that of {earlier} too: ids must be unique; remove one"


def _read_names(file: TextFile) -> Iterator[tuple[int, Label]]:
    rows = [(line, text.strip()) for line, text in file.lines()]
    while rows and not rows[-1][1]:
        rows.pop()
    for line, name in rows:
        if "\r" in name:
            raise file.failure("holds a carriage return: end lines with \\n or \\r\\n", line)
        yield line, Label(name, name)


def _read_csv(file: TextFile, delimiter: str = ",") -> Iterator[tuple[int, Label]]:
    header, rows = file.table(delimiter)
    places = {field: file.column(header, names) for field, names in _COLUMNS.items()}
    if places["name"] is None:
        raise file.missing_column(header, _COLUMNS["name"])
    _mention_unused(file, {cell for i, cell in enumerate(header) if i not in places.values()})
    used = {field: place for field, place in places.items() if place is not None}
    for line, row in rows:
        if any(map(str.strip, row)):
            cells = {field: row[place].strip() for field, place in used.items()}
            yield line, _label_of_cells(cells)


def _read_tsv(file: TextFile) -> Iterator[tuple[int, Label]]:
    return _read_csv(file, "\t")


def _label_of_cells(cells: dict[str, str]) -> Label:
    return Label(
        id=cells.get("id", cells["name"]),
        name=cells["name"],
        alternative_names=split_cell(cells.get("alternative_names", ""), "|\n\r"),
        description=cells.get("description", ""),
        parents=split_cell(cells.get("parents", "")),
    )


def _read_json(file: TextFile) -> Iterator[tuple[int, Label]]:
    unused: set[str] = set()
    for line, value in file.json_values():
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict):
            raise file.failure(
                f'expected {{"id": …, "name": …}} or a string, found {file.kind(value)}', line
            )
        unused |= value.keys() - _KEYS
        yield line, _label_of_object(file, value, line)
    _mention_unused(file, unused)


def _label_of_object(file: TextFile, value: dict[str, object], line: int) -> Label:
    key = "name" if value.get("name") is not None else "label"
    if value.get(key) is None:
        found = ", ".join(map(repr, value)) or "nothing"
        raise file.failure(f'no "name" (or "label"): add it; found: {found}', line)
    name = file.string(value[key], f'"{key}"', line).strip()
    id_ = value.get("id")
    if id_ is not None:
        id_ = file.identifier(id_, '"id"', line).strip()
    others = file.identifiers(value.get("alternative_names"), '"alternative_names"', line)
    description = value.get("description")
    if description is not None:
        description = file.string(description, '"description"', line).strip()
    parents = file.identifiers(value.get("parents"), '"parents"', line)
    return Label(name if id_ is None else id_, name, others, description or "", parents)


def _mention_unused(file: TextFile, names: set[str]) -> None:
    if names:
        logger.info("%s: not used: %s", file.name, ", ".join(sorted(names)))
