"""Demonstrations chosen for each document: those whose texts are nearest to it.

In: demonstrations with the vectors of their texts. Out: the nearest few, the nearest last, next
to the input it resembles. A stage without `NearestDemos` shows the same ones to every document.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from irr.prefixes import Role

__all__ = ["NearestDemos", "shown_with_gold"]


class Encode(Protocol):
    """`irr.encoder.Encoder.encode`, as far as it is needed here."""

    def __call__(self, texts: Sequence[str], *, role: Role) -> npt.NDArray[np.float32]: ...


# Candidates shown in a demonstration that is made from labels alone, the gold among them.
_SHOWN = 20


def shown_with_gold(pool: Sequence[int], gold: Sequence[int]) -> tuple[list[int], list[int]]:
    """What a demonstration of Rank shows: candidates with the gold among them, and its numbers.

    The first of the pool and all gold, in the order of the pool, gold outside it last; numbers
    count from 1, in the order of `gold`.

    >>> shown_with_gold([7, 8, 9], [9, 4])
    ([7, 8, 9, 4], [3, 4])
    """
    others = [position for position in pool if position not in gold]
    kept = {*gold, *others[: max(0, _SHOWN - len(gold))]}
    place = {position: number for number, position in enumerate(pool)}
    shown = sorted(kept, key=lambda position: place.get(position, len(pool)))
    return shown, [shown.index(position) + 1 for position in gold]


class NearestDemos:
    """Chooses `k` of `demos` (dictionaries with a "text") for a text, by cosine of the texts.

    Both sides are queries to the encoder: like is compared with like.
    Of equals the earlier one counts as nearer.
    """

    def __init__(self, demos: Sequence[dict[str, Any]], k: int, encode: Encode) -> None:
        self.demos = [dict(demo) for demo in demos]
        self.k = k
        self._encode = encode
        self._vectors = encode([demo["text"] for demo in self.demos], role="query")
        self._itself = True

    def without_same(self) -> NearestDemos:
        """A copy that does not show a text its own demonstration, to be measured with."""
        other = copy.copy(self)
        other._itself = False
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> NearestDemos:
        return self  # Optimizers copy programs by the dozen; this is read only.

    def __call__(self, text: str) -> list[dict[str, Any]]:
        """The demonstrations for a text, the nearest last."""
        cosines = self._vectors @ self._encode([text], role="query")[0]
        nearest = [self.demos[n] for n in np.argsort(-cosines, kind="stable").tolist()]
        shown = [demo for demo in nearest if self._itself or demo["text"] != text]
        return shown[: self.k][::-1]
