"""Mentions: which labels a text calls by one of their names, word for word.

In: a label set, then texts. Out: positions of labels. Words and punctuation must be the same; case,
the spaces between and the forms of apostrophes and hyphens need not be. A qualifier in parentheses
at the end of a name, such as that of ``Java (computer programming)``, may be missing. Short names
in capitals (IT, AIDS, R) are abbreviations, and must be written like that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from irr.phrases import tokens
from irr.vectors import Positions

if TYPE_CHECKING:
    from irr.labels import LabelSet

__all__ = ["Mentions"]

# Names of more words are whole sentences; in scripts without spaces each character counts as one.
MOST_WORDS = 24
LONGEST_ABBREVIATION = 5
_QUALIFIER = re.compile(r"\s*\([^()]*\)$")
# Apostrophes and hyphens as word processors write them.
_TYPOGRAPHIC = str.maketrans("\u2019\u02bc\u2010\u2011\u2013\u2212", "''----")
_Key = tuple[str, ...]


class Mentions:
    """The names of labels, to be found in texts. May be used from several threads.

    Memory: some 300 bytes for each name.
    """

    def __init__(self, labels: LabelSet) -> None:
        self._labels: dict[_Key, list[int]] = {}
        # By the first word, how many words the names have that begin with it.
        self._lengths: dict[str, tuple[int, ...]] = {}
        for position, label in enumerate(labels):
            for key in dict.fromkeys(_keys((label.name, *label.alternative_names))):
                self._labels.setdefault(key, []).append(position)
                lengths = self._lengths.get(key[0], ())
                if len(key) not in lengths:
                    self._lengths[key[0]] = (*lengths, len(key))

    def within(self, text: str) -> Positions:
        """Find the labels of which a name stands in the text: positions, ascending."""
        written, folded = _readings(text)
        found: set[int] = set()
        for words in (folded, written):
            for first, word in enumerate(words):
                for length in self._lengths.get(word, ()):
                    found.update(self._labels.get(words[first : first + length], ()))
        return np.array(sorted(found), np.int64)

    def equal(self, text: str) -> Positions:
        """Find the labels of which the text is a name: positions, ascending."""
        found: set[int] = set()
        for key in _readings(text):
            found.update(self._labels.get(key, ()))
        return np.array(sorted(found), np.int64)


def _keys(names: Iterable[str]) -> Iterator[_Key]:
    """The words of each name, with and without a qualifier; names too long are left out."""
    for name in names:
        for form in (name, _QUALIFIER.sub("", name)):
            written, folded = _readings(form)
            if 0 < len(written) <= MOST_WORDS:
                yield written if _is_abbreviation(form) else folded


def _readings(text: str) -> tuple[_Key, _Key]:
    """The words as they are written, and without regard to case."""
    plain = text.translate(_TYPOGRAPHIC)
    written = tuple(unicodedata.normalize("NFKC", token) for token in tokens(plain))
    return written, tuple(token.casefold() for token in written)


def _is_abbreviation(name: str) -> bool:
    return len(name) <= LONGEST_ABBREVIATION and name.isupper()
