"""`RecentVectors`: the vectors of the texts that were used last, in one block of memory.

In: texts and their vectors. Out: the vectors of the texts that are remembered. One block, because
thousands of small arrays that are made and dropped in several threads break up the memory of a
long run: the process takes more and more of it for the same number of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np

from irr.vectors import Floats

__all__ = ["RecentVectors"]


class RecentVectors:
    """Vectors by their texts. May be used from several threads."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, int] = OrderedDict()  # the one used last at the end
        self._free: list[int] = []
        self._rows: Floats | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, texts: Iterable[str]) -> dict[str, Floats]:
        """The vectors of those of the texts that are remembered; they count as used now."""
        with self._lock:
            places = {text: self._places[text] for text in texts if text in self._places}
            if self._rows is None or not places:
                return {}
            for text in places:
                self._places.move_to_end(text)
            rows = self._rows[list(places.values())]  # A copy: places are given to other texts.
        return dict(zip(places, rows, strict=True))

    def add(self, vectors: Mapping[str, Floats], most: int) -> None:
        """Remember vectors, all of one length; of all texts the `most` that were used last.

        The block is made for the `most` of the first call.
        """
        with self._lock:
            for text, vector in vectors.items():
                if self._rows is None:
                    self._rows = np.empty((most, len(vector)), vector.dtype)
                    self._free = list(range(most))
                place = self._places.pop(text, None)
                while place is None and (len(self._places) >= most or not self._free):
                    self._free.append(self._places.popitem(last=False)[1])
                self._places[text] = self._free.pop() if place is None else place
                self._rows[self._places[text]] = vector
