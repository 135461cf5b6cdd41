"""Lexical matching: texts are compared with the wording of labels, by BM25 over parts of words.

In: a label set, then texts. Out: a score for each label. What labels are called and mean is taken
apart into runs of four letters of a word; so "programming" finds "programmer", and a compound its
parts, in any language, without a stemmer or a list of words. Of scripts without spaces between
words it is pairs of characters. Embeddings see what texts mean; this sees rare names, codes and
spellings that they blur.

The index is kept in the user's cache. Source of the score: Robertson and Zaragoza 2009, "The
Probabilistic Relevance Framework: BM25 and Beyond", as implemented by bm25s.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irr.cache import atomic_directory, cache_root, discard, file_digests, warn_unwritable
from irr.errors import ConfigurationError
from irr.phrases import STOP_WORDS, is_unspaced, tokens
from irr.vectors import Floats

if TYPE_CHECKING:
    from irr.labels import LabelSet

__all__ = ["LexicalIndex", "grams", "is_installed"]

logger = logging.getLogger(__name__)

GRAM = 4
# The usual values; a text is compared once a word part, however often it has it.
K1, B = 1.2, 0.75
_VERSION = 1
_HEADER = "irr.json"


class LexicalIndex:
    """The wording of a label set. May be used from several threads."""

    def __init__(self, bm25: Any, labels: int) -> None:
        self._bm25 = bm25
        self._labels = labels

    @classmethod
    def open(cls, labels: LabelSet) -> LexicalIndex:
        """Take the index of a label set from the user's cache, or build it and keep it there.

        Building takes about 100 µs and 2.5 KB a label.

        Raises:
            ConfigurationError: bm25s is not installed.
        """
        if not is_installed():
            raise ConfigurationError(
                "a lexical_weight above 0, by --lexical-weight or in a program, needs a package: "
                'pip install "irr[lexical]"'
            )
        made_of = (labels.content_hash, _VERSION, GRAM, K1, B)
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        folder = cache_root() / "lexical" / key
        bm25 = _load(folder) if folder.is_dir() else None
        if bm25 is None:
            bm25 = _build(labels)
            try:
                with atomic_directory(folder) as draft:
                    bm25.save(draft, show_progress=False)
                    header = json.dumps(_digests(draft))
                    (draft / _HEADER).write_text(header, encoding="utf-8")
            except OSError as error:
                warn_unwritable(error)
        return cls(bm25, len(labels))

    def scores(self, text: str) -> Floats:
        """Compare a text with each label.

        Returns:
            (labels,) float32, from 0 for no part of a word in common to 1 for the best label; all
            0 where no label has any in common.
        """
        vocabulary = self._bm25.vocab_dict
        known = [vocabulary[gram] for gram in dict.fromkeys(grams(text)) if gram in vocabulary]
        if not known:
            return np.zeros(self._labels, np.float32)
        scores: Floats = self._bm25.get_scores_from_ids(known)
        highest = scores.max()
        return scores / highest if highest > 0 else scores


def is_installed() -> bool:
    """Whether the package that this needs is there."""
    return importlib.util.find_spec("bm25s") is not None


def grams(text: str) -> Iterator[str]:
    """List the parts of the words of a text, in order, with repeats; English function words none.

    >>> list(grams("The code"))
    [' cod', 'code', 'ode ']
    >>> list(grams("数据库"))
    ['数据', '据库']
    """
    run = ""
    for token in tokens(text):
        word = unicodedata.normalize("NFKC", token).casefold()
        if is_unspaced(word):
            run += word
            continue
        yield from _parts(run, 2)
        run = ""
        if word not in STOP_WORDS and any(character.isalnum() for character in word):
            yield from _parts(f" {word} ", GRAM)
    yield from _parts(run, 2)


def _parts(text: str, size: int) -> Iterator[str]:
    """All runs of `size` characters, or all of a shorter text."""
    if text:
        for first in range(max(1, len(text) - size + 1)):
            yield text[first : first + size]


def _bm25() -> Any:
    """The class; its package tells the log what it is doing, which is nobody's business."""
    from bm25s import BM25

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return BM25


def _build(labels: LabelSet) -> Any:
    vocabulary: dict[str, int] = {}
    rows = []
    for label in labels:
        wording = "\n".join((label.name, *label.alternative_names, label.description))
        rows.append([vocabulary.setdefault(gram, len(vocabulary)) for gram in grams(wording)])
    if not vocabulary:  # No label has a word; bm25s does not take that.
        rows[0] = [vocabulary.setdefault("", 0)]
    bm25 = _bm25()(k1=K1, b=B, backend="numpy", csc_backend="numpy")
    bm25.index((rows, vocabulary), create_empty_token=False, show_progress=False)
    return bm25


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file beside the header."""
    names = [file.name for file in folder.iterdir() if file.name != _HEADER]
    return file_digests(folder, names)


def _load(folder: Path) -> Any:
    """What was kept in `folder`, mapped into memory; None where it is damaged."""
    try:
        header = json.loads((folder / _HEADER).read_bytes())
        if _digests(folder) == header:
            return _bm25().load(folder, mmap=True, show_progress=False)
        reason = "its files have changed"
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        reason = str(error)
    logger.warning("%s: cannot be used (%s); it is built again", folder, reason)
    discard(folder)
    return None
