"""From a sample to all documents: totals by regression, with their 95% interval.

In: for each document of the sample what is known of it beforehand and what it used; the sums of
the former over all others. Out: what all will use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Range", "exactly", "projected"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Range:
    """A number and its bounds; equal where there is nothing uncertain."""

    value: float
    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        """The sum. Its bounds are those of errors that go the same way: never too narrow."""
        return Range(self.value + other.value, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Range:
        """All three times a number of at least 0."""
        return Range(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, amount: float) -> Range:
        """All three and a number."""
        return Range(self.value + amount, self.low + amount, self.high + amount)


def exactly(value: float) -> Range:
    """A number without uncertainty."""
    return Range(value, value, value)


def projected(columns: Floats, used: Floats, weights: Floats, rest: Floats) -> Range:
    """What all documents use: the sample as measured, the others by weighted least squares.

    With x the row of a document, its use is x·b. The total of the others is linear in what the
    sample used, so its variance is that of a sum of independent errors of unequal size (White
    1980), which the residuals stand for, besides the others' own scatter.

    Args:
        columns: (n, f) what is known of each document of the sample; the first is a count, 1.
        used: (n,) what it used.
        weights: (n,) of the squared errors.
        rest: (f,) sums of the columns over all other documents.

    Terms that do not vary in the sample, or are sums of others, take the solution of least norm.
    Where the sample has no more documents than terms that vary, the others may use half or double.
    """
    measured = float(used.sum())
    if not rest.any():
        return exactly(measured)
    scale = np.maximum(np.abs(columns).max(axis=0, initial=0.0), 1e-12)
    root = np.sqrt(weights)
    design = columns / scale * root[:, None]
    solve = np.linalg.pinv(design, rcond=1e-9)
    influence = (rest / scale) @ solve * root
    predicted = max(0.0, float(influence @ used))
    free = len(used) - int(np.linalg.matrix_rank(design, tol=1e-9))
    if free < 1:
        return Range(measured + predicted, measured + predicted / 2, measured + 2 * predicted)
    errors = used - columns / scale @ (solve @ (root * used))
    scatter = rest[0] * float(np.mean(weights * errors**2))
    variance = float(np.sum((influence * errors) ** 2)) * len(used) / free + scatter
    half = _student(free) * math.sqrt(variance)
    least = measured + max(0.0, predicted - half)
    return Range(measured + predicted, least, measured + predicted + half)


def _student(free: int) -> float:
    """The 97.5% point of Student's t, by the expansion of Cornish and Fisher."""
    z = 1.959964
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
