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
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from irr.errors import LabelSetError
from irr.types import Label

if TYPE_CHECKING:
    from irr.hierarchy import Hierarchy
    from irr.lexical import LexicalIndex
    from irr.mentions import Mentions
    from irr.selection import Selector

__all__ = ["ICD10CM", "LabelSet", "complaint"]

logger = logging.getLogger(__name__)

ICD10CM = "icd10cm"
"""The name under which `LabelSet.read` finds the packaged ICD-10-CM codes."""

_MOST_TO_COMPARE = 50_000


class LabelSet:
    """An ordered set of labels with unique ids; several labels may share a name.

    Args:
        labels: at least one, in the order that gives them their positions.
        path: the file they are from, named in errors.
        lines: the 1-based line of each label in that file, None where it is not known.

    Raises:
        LabelSetError: no label, an empty id or name, an id used twice.
    """

    def __init__(
        self,
        labels: Iterable[Label],
        *,
        path: str | Path | None = None,
        lines: Sequence[int | None] | None = None,
    ) -> None:
        self._labels = tuple(labels)
        self._by_id: dict[str, int] = {}
        if not self._labels:
            raise LabelSetError("holds no labels: give at least one", path=path)
        for position, label in enumerate(self._labels):
            first = self._by_id.setdefault(label.id, position)
            if first != position or not label.name or not label.id:
                line = lines[position] if lines else None
                known = lines[first] if lines else None
                earlier = f"line {known}" if known else f"position {first}"
                raise LabelSetError(complaint(label, earlier), path=path, line=line)

    @classmethod
    def read(
        cls,
        path: str | Path,
        format: str | None = None,
        *,
        language: str | None = None,
    ) -> LabelSet:
        """Read a label file, UTF-8, plain or .gz, its format recognised by its content.

        - txt: a name a line, which is also the id. Blank lines are allowed at the end only.
        - csv, tsv: a header, then a label a row. Columns, in any case and order: id (or uri,
          code, notation, conceptUri; without one, names are ids); label (or name,
          preferredLabel, prefLabel, title; required); alternative_names (or altLabels,
          alt_labels, synonyms; separated by "|" or line breaks); description (or definition);
          parents (or broader, parent; separated by "|"). Empty rows are skipped.
        - jsonl: ``{"id": …, "name" or "label": …, "alternative_names": […], "description": …,
          "parents": […]}`` a line, of which only the name is required, or just a JSON string.
          More keys: ``"hidden_names", "notations", "scope_note", "language"``, and for other
          languages ``"translations": {"fi": {"name": …, "alternative_names": […], …}}``.
        - SKOS, ESCO's download, MeSH, ICD-10-CM, Annif's vocabularies, classes of Hugging Face
          data sets: see `irr.vocabularies.FORMATS` and their modules. Hidden names are
          alternative names; the description is the definition, else the scope note.

        The exact name ``icd10cm`` gives `irr.icd10cm.read_icd10cm`. Texts lose white space around
        them and are otherwise kept as they are, without Unicode normalisation. What is left out
        or made up for is counted in a logged warning.

        Args:
            path: a file, "-" for standard input, or the folder of a Hugging Face data set.
            format: one of `irr.vocabularies.FORMATS`; None to recognise it.
            language: of names, as in BCP 47; "en" is also "en-GB". Labels that lack it have a
                name in another. None for English where there are several languages and it is
                one, else for the most frequent; for the names outside "translations" in jsonl none
                of whose lines has "language".

        Raises:
            LabelSetError: the file cannot be read as described; names the file and the line.
            ConfigurationError: no such format, no name in the language, or a package is missing.
            OutputError: the folder of temporary files, where SKOS and streams go, is full.
        """
        if str(path) == ICD10CM:
            from irr.icd10cm import read_icd10cm  # It needs a package that not everybody has.

            return read_icd10cm()
        from irr.vocabularies import read_vocabulary

        lines: list[int | None] = []
        labels: list[Label] = []
        with read_vocabulary(path, format) as vocabulary:
            for concept, label in vocabulary.labelled(language):
                lines.append(concept.line)
                labels.append(label)
            for warning in vocabulary.problems.warnings():
                logger.warning("%s", warning)
        return cls(labels, path=path, lines=lines)

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """Which labels are above which, by their parents."""
        from irr.hierarchy import Hierarchy

        return Hierarchy.of(self)

    def distinct(self, position: int) -> Label:
        """The label, told apart in its name from others of that name: "Cold (in: Exposure)"."""
        label = self._labels[position]
        told = self._distinctions.get(position)
        return label if told is None else replace(label, name=f"{label.name} ({told})")

    @cached_property
    def _distinctions(self) -> dict[int, str]:
        from irr.distinct import distinctions

        return distinctions(self._labels, self._by_id)

    @cached_property
    def selector(self) -> Selector:
        """Makes masks of the labels that a selection allows."""
        from irr.selection import Selector

        return Selector(self, self.hierarchy)

    @cached_property
    def lexical(self) -> LexicalIndex:
        """Compares texts with the labels' wording."""
        from irr.lexical import LexicalIndex

        return LexicalIndex.open(self)

    @cached_property
    def mentions(self) -> Mentions:
        """Finds the labels' names in texts."""
        from irr.mentions import Mentions

        return Mentions(self)

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


def complaint(label: Label, earlier: str) -> str:
    """Say why a label cannot be in a set: a name or id is empty, or its id is another's."""
    if not label.name:
        return "empty name: fill it in or remove the line"
    if not label.id:
        return f"empty id of {label.name!r}: fill it in or remove the row"
    return f"the id {label.id!r} is that of {earlier} too: ids must be unique; remove one"
