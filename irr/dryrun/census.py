"""The census: all documents counted in one pass, and a few of them held to be tried.

In: documents, one at a time. Out: sums of what is known of them beforehand, and a sample. Memory
is bounded whatever the number and length of the documents.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from irr.chunks import split_text
from irr.program import RANK_TEXT_CHARS, InferRetrieveRank
from irr.types import Document

__all__ = ["Census", "Known"]

# Documents of a draw, and their characters in all.
_HELD = 2_000
_HELD_CHARS = 16_000_000
# The share of the sample that is drawn by characters: a few long documents may be most of a run.
_SHARE_BY_LENGTH = 3
# As Rank reads longer texts: see `InferRetrieveRank.passages`.
_PASSAGE_CHARS, _MOST_PASSAGES = 400, 500


class Known(NamedTuple):
    """What is known of a document before anything is asked; `Census.totals` are its sums."""

    documents: float = 1.0
    chunks: float = 0.0  # that Infer asks about
    infer_chars: float = 0.0  # that Infer reads
    rank_chars: float = 0.0  # that Rank reads, about
    passages: float = 0.0  # that Rank's text is chosen from


class Census:
    """Counts documents and holds a sample of them.

    Args:
        program: what they will go through.
        sample: how many documents `choose` gives.
        seed: of the draws.
    """

    def __init__(self, program: InferRetrieveRank, sample: int, seed: int) -> None:
        self.documents = self.empty = self.characters = 0
        self._sums = [0.0] * len(Known._fields)
        self._draw = random.Random(seed)
        self._chunk_chars = self._most_chunks = 0
        if program.infer is not None:
            from irr.infer import MOST_CHUNKS

            self._chunk_chars, self._most_chunks = program.infer.chunk_chars, MOST_CHUNKS
        self._ranks = program.rank is not None
        self._sample = sample
        self._uniform = _Draw(_HELD)
        self._by_length = _Draw(sample // _SHARE_BY_LENGTH)

    @property
    def totals(self) -> Known:
        """The sums over all documents that have a text."""
        return Known(*self._sums)

    def add(self, document: Document) -> None:
        """Count a document."""
        self.documents += 1
        self.characters += len(document.text)
        if not document.text or document.text.isspace():
            self.empty += 1
            return
        for number, value in enumerate(self.known(document.text)):
            self._sums[number] += value
        # The n smallest keys are n uniform draws; divided by a weight, draws by that weight
        # (Efraimidis and Spirakis 2006).
        self._uniform.add(self._draw.random(), document)
        key = -math.log(1.0 - self._draw.random())
        self._by_length.add(key / len(document.text), document)

    def known(self, text: str) -> Known:
        """What is known of a document from its text."""
        size, chunks, read = self._chunk_chars, 0, 0
        if size and len(text) <= size:
            chunks, read = 1, len(text)
        elif size:
            pieces = split_text(text, size)[: self._most_chunks]
            chunks, read = len(pieces), sum(map(len, pieces))
        if not self._ranks:
            return Known(1, chunks, read)
        passages = min(_MOST_PASSAGES, len(text) // _PASSAGE_CHARS)
        long = len(text) > RANK_TEXT_CHARS
        return Known(1, chunks, read, min(len(text), RANK_TEXT_CHARS), passages if long else 0)

    def choose(self) -> list[Document]:
        """The sample, shortest first: quantiles of the uniform draw by length, and the other draw.

        All documents where there are no more than `sample`.
        """
        chosen = self._by_length.held()
        taken = {id(document) for document in chosen}
        others = [document for document in self._uniform.held() if id(document) not in taken]
        others.sort(key=lambda document: len(document.text))
        chosen += _quantiles(others, self._sample - len(chosen))
        return sorted(chosen, key=lambda document: len(document.text))

    def drawn(self) -> list[Document]:
        """The uniform draw, in random order."""
        return self._uniform.held()


class _Draw:
    """The documents of the smallest keys, within `most` and a bound on their characters."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, Document]] = []
        self._characters = self._count = 0

    def add(self, key: float, document: Document) -> None:
        if not self._most or (len(self._heap) >= self._most and -key <= self._heap[0][0]):
            return
        self._count += 1
        heapq.heappush(self._heap, (-key, self._count, document))
        self._characters += len(document.text)
        while len(self._heap) > self._most or self._over():
            self._characters -= len(heapq.heappop(self._heap)[2].text)

    def _over(self) -> bool:
        return self._characters > _HELD_CHARS and len(self._heap) > 1

    def held(self) -> list[Document]:
        """The documents by their keys."""
        return [document for _, _, document in sorted(self._heap, key=lambda row: -row[0])]


def _quantiles(documents: Sequence[Document], count: int) -> list[Document]:
    """`count` of the documents, evenly spaced, the middle of each stretch; all of fewer."""
    count = min(count, len(documents))
    return [documents[(2 * n + 1) * len(documents) // (2 * count)] for n in range(count)]
