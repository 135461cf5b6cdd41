"""`Suggester`: guesses that no label answers → groups of them, counted over documents.

In: the guesses of documents, one document after the other. Out: `Suggestion`s.

A guess is answered if a name of some label is as near to it as a bound, or if Rank picked the label
nearest to it. The others are counted over all documents, and those that mean the same are grouped:
from the most frequent on, each joins the nearest group that is near enough, else it begins one. So
neither the order of the documents nor chance decides, but for guesses that are as frequent.

The groups that are worth reading most come first: those of many documents, far from every label.
"""

from __future__ import annotations

import itertools
import unicodedata
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.index import LabelIndex
    from irr.vectors import Floats, Positions

__all__ = ["BELOW", "TOGETHER", "Guessed", "LookUp", "Suggester", "Suggestion", "nearest_in"]

# Chosen on other hidden labels than reported on, see eval/suggestions.py.
BELOW = 0.75
TOGETHER = 0.8
# Different unanswered guesses kept: their vectors take 77 MB at 384 dimensions.
MOST_KEPT = 50_000
_ANSWERED_KEPT = 200_000
_BLOCK_OF_ROWS = 512
_BLOCK_OF_GROUPS = 1024
_EXAMPLES = 5
_VARIANTS = 10

LookUp: TypeAlias = "Callable[[Sequence[str]], tuple[Floats, Positions, Floats]]"
"""Texts → their unit vectors (n, d), the positions of the labels nearest to them, the cosines."""


@dataclass(frozen=True, slots=True)
class Guessed:
    """The guesses of one document, and the ids of the labels that Rank picked for it."""

    id: str
    guesses: tuple[str, ...]
    picked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A group of guesses.

    Args:
        name: the guess of most documents, as it was first written.
        documents: how many documents have a guess of the group.
        guesses: each guess with its documents, most first; ten at most.
        examples: ids of its first documents, five at most.
        nearest: position of the label nearest to `name`; `similarity` is its cosine.
    """

    name: str
    documents: int
    guesses: tuple[tuple[str, int], ...]
    examples: tuple[str, ...]
    nearest: int
    similarity: float

    @property
    def weight(self) -> float:
        """What suggestions are ordered by: the documents times the distance to every label."""
        return self.documents * (1.0 - self.similarity)


@dataclass(slots=True)
class _Variant:
    """A guess that no label answers. `rows` are numbers of documents, ascending."""

    text: str
    vector: Floats
    nearest: int
    similarity: float
    rows: array[int] = field(default_factory=lambda: array("Q"))
    examples: list[str] = field(default_factory=list)


class Suggester:
    """Guesses of documents, one document after the other → suggestions.

    Memory: `most` vectors, and 8 bytes for each unanswered guess of a document.

    Args:
        look_up: finds the label nearest to each text, see `nearest_in`.
        id_of: the id of the label at a position, to be compared with those that Rank picked.
        below: a guess is answered by a label with at least this cosine to it.
        together: guesses of at least this cosine belong to one group.
        most: different unanswered guesses that are kept, 2 or more; beyond, the half of them with
            the fewest documents is forgotten, and counted in `forgotten`.
    """

    def __init__(
        self,
        look_up: LookUp,
        id_of: Callable[[int], str],
        *,
        below: float = BELOW,
        together: float = TOGETHER,
        most: int = MOST_KEPT,
    ) -> None:
        self.documents = self.guesses = self.unanswered = self.forgotten = 0
        self._nearest, self._id_of = look_up, id_of
        self._below, self._together, self._most = below, together, most
        self._variants: dict[str, _Variant] = {}
        self._answered: OrderedDict[str, None] = OrderedDict()

    def add(self, rows: Iterable[Guessed]) -> None:
        """Count the guesses of documents, reading some hundred at a time."""
        rows = iter(rows)
        while block := list(itertools.islice(rows, _BLOCK_OF_ROWS)):
            asked = [_distinct(row.guesses) for row in block]
            # Of a guess that is written in several ways the first is kept.
            self._look_up({k: text for texts in reversed(asked) for k, text in texts.items()})
            for row, texts in zip(block, asked, strict=True):
                self.documents += 1
                self.guesses += len(texts)
                self._count(row, texts)
            self._forget()

    def suggestions(self, min_count: int = 1) -> list[Suggestion]:
        """The groups of at least `min_count` documents, those of the largest weight first."""
        found = [_suggestion(group) for group in self._groups()]
        kept = (suggestion for suggestion in found if suggestion.documents >= min_count)
        return sorted(kept, key=lambda suggestion: -suggestion.weight)

    def _look_up(self, texts: dict[str, str]) -> None:
        """Find out which of the guesses that were not met before a label answers."""
        for key in texts.keys() & self._answered.keys():
            self._answered.move_to_end(key)
        known = (self._variants, self._answered)
        new = {k: t for k, t in texts.items() if not any(k in kept for kept in known)}
        if not new:
            return
        found = self._nearest(list(new.values()))
        for (key, text), vector, place, cosine in zip(new.items(), *found, strict=True):
            if cosine >= self._below:
                self._answered[key] = None
            else:
                self._variants[key] = _Variant(text, vector.copy(), int(place), float(cosine))

    def _count(self, row: Guessed, texts: dict[str, str]) -> None:
        for variant in (self._variants[key] for key in texts if key in self._variants):
            if row.picked and self._id_of(variant.nearest) in row.picked:
                continue
            self.unanswered += 1
            variant.rows.append(self.documents)
            if len(variant.examples) < _EXAMPLES:
                variant.examples.append(row.id)

    def _forget(self) -> None:
        while len(self._answered) > _ANSWERED_KEPT:
            self._answered.popitem(last=False)
        if len(self._variants) > self._most:
            order = sorted(self._variants.items(), key=_keep_first)
            kept = {key for key, _ in order[: self._most // 2]}
            self.forgotten += sum(bool(v.rows) for key, v in order if key not in kept)
            self._variants = {key: v for key, v in self._variants.items() if key in kept}

    def _groups(self) -> list[list[_Variant]]:
        """Group the guesses, of each group the most frequent first."""
        # Without rows are those that a pick answered wherever they were guessed.
        counted = (variant for variant in self._variants.values() if variant.rows)
        variants = sorted(counted, key=lambda v: (-len(v.rows), v.rows[0]))
        groups: list[list[_Variant]] = []
        for start in range(0, len(variants), _BLOCK_OF_GROUPS):
            block = variants[start : start + _BLOCK_OF_GROUPS]
            vectors = np.stack([variant.vector for variant in block])
            leaders = [group[0].vector for group in groups]
            earlier = vectors @ np.stack(leaders).T if leaders else np.empty((len(block), 0))
            new: list[int] = []
            for row, variant in enumerate(block):
                scores = np.append(earlier[row], vectors[new] @ vectors[row])
                best = int(scores.argmax()) if len(scores) else 0
                if len(scores) and scores[best] >= self._together:
                    groups[best].append(variant)
                else:
                    new.append(row)
                    groups.append([variant])
        return groups


def nearest_in(index: LabelIndex, encoder: Encoder) -> LookUp:
    """Look texts up in the index of a label set."""

    def look_up(texts: Sequence[str]) -> tuple[Floats, Positions, Floats]:
        # Also compared with each other, as what they are here: queries.
        vectors = encoder.encode(texts, role="query")
        nearest, cosines = index.search(vectors, 1)
        return vectors, nearest[:, 0], cosines[:, 0]

    return look_up


def _distinct(guesses: Iterable[str]) -> dict[str, str]:
    """The guesses that say something, each as it is first written, by its key."""
    texts: dict[str, str] = {}
    for text in guesses:
        if any(character.isalnum() for character in text):
            texts.setdefault(_key(text), " ".join(text.split()))
    return texts


def _key(text: str) -> str:
    """Guesses with the same key are one guess, however their characters are encoded."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _keep_first(item: tuple[str, _Variant]) -> tuple[int, int]:
    """A key to sort by: guesses of many documents first, of as many the latest."""
    rows = item[1].rows
    return -len(rows), -(rows[-1] if rows else 0)


def _suggestion(group: Sequence[_Variant]) -> Suggestion:
    first = group[0]
    documents = len(set().union(*(variant.rows for variant in group)))
    examples = dict.fromkeys(id_ for variant in group for id_ in variant.examples)
    return Suggestion(
        first.text,
        documents,
        tuple((variant.text, len(variant.rows)) for variant in group[:_VARIANTS]),
        tuple(itertools.islice(examples, _EXAMPLES)),
        first.nearest,
        first.similarity,
    )
