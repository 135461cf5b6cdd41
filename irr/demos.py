"""Demonstrations chosen for each document: those whose texts are nearest to it.

In: demonstrations with the vectors of their texts. Out: the nearest few, the nearest last, next
to the input it resembles. A stage without `NearestDemos` shows the same ones to every document.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NearestDemos"]

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]


class NearestDemos:
    """Chooses `k` of `demos` (dictionaries with a "text") for a text, by cosine of the texts.

    Of equals the earlier one counts as nearer.
    """

    def __init__(self, demos: Sequence[dict[str, Any]], k: int, encode: Encode) -> None:
        self.demos = [dict(demo) for demo in demos]
        self.k = k
        self._encode = encode
        self._vectors = encode([demo["text"] for demo in self.demos])
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
        cosines = self._vectors @ self._encode([text])[0]
        nearest = [self.demos[n] for n in np.argsort(-cosines, kind="stable").tolist()]
        shown = [demo for demo in nearest if self._itself or demo["text"] != text]
        return shown[: self.k][::-1]
