"""Scores of documents → a mean, a ratio or a paired difference, with its 95% interval.

Up to 10,000 documents the interval is a percentile bootstrap: documents are drawn with
replacement, the middle 95% of the resampled values is kept (Efron & Tibshirani 1993, chapter 13).
The same seed gives the same interval. Above, it is the normal approximation, to which the
bootstrap comes within a few thousandths of its width by then, at a thousandth of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from irr.errors import ConfigurationError

__all__ = ["RESAMPLES", "Score", "mean_score", "paired_difference", "ratio_score"]

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
NORMAL_ABOVE = 10_000
# Documents drawn at once: 8 MB of positions.
_BLOCK = 1_000_000
_WIDTH = 1.959963984540054  # The normal distribution's 97.5% point.


@dataclass(frozen=True, slots=True)
class Score:
    """A number over documents with its 95% interval, in [0, 1] (a difference: in [-1, 1]).

    `documents` were scored, `without_gold` were left out. Without any document the three numbers
    are None; `low` and `high` are None too for metrics without an interval (macro averages,
    coverage).
    """

    mean: float | None
    low: float | None
    high: float | None
    documents: int
    without_gold: int


def mean_score(
    scores: Sequence[float | None] | Floats, *, seed: int = 0, resamples: int = RESAMPLES
) -> Score:
    """The mean of the scores that are not None (or NaN), with its interval."""
    values = _floats(scores)
    return _score(values[~np.isnan(values)], None, len(values), seed, resamples)


def ratio_score(
    numerators: Sequence[float | None] | Floats,
    denominators: Sequence[float | None] | Floats,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """Σ numerators / Σ denominators over documents where neither is None; 0 where that is 0/0.

    Resampled by documents; above 10,000 its variance is that of the linearised ratio (Cochran
    1977, section 2.11).
    """
    above, below = _paired(numerators, denominators)
    kept = ~np.isnan(above)
    return _score(above[kept], below[kept], len(above), seed, resamples)


def paired_difference(
    first: Sequence[float | None] | Floats,
    second: Sequence[float | None] | Floats,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Score:
    """The mean of first - second over the same documents, resampled in pairs.

    An interval without 0 says that the two differ by more than the choice of documents explains.

    Raises:
        ConfigurationError: the two are not of the same documents.
    """
    one, other = _paired(first, second)
    differences = one - other
    kept = ~np.isnan(differences)
    return _score(differences[kept], None, len(kept), seed, resamples)


def _paired(
    first: Sequence[float | None] | Floats, second: Sequence[float | None] | Floats
) -> tuple[Floats, Floats]:
    one, other = _floats(first), _floats(second)
    if len(one) != len(other):
        raise ConfigurationError(
            f"{len(one)} scores cannot be paired with {len(other)}: score the same documents"
        )
    strays = np.flatnonzero(np.isnan(one) != np.isnan(other))
    if len(strays):
        raise ConfigurationError(
            f"document {strays[0] + 1} has a score on one side only: score against the same gold"
        )
    return one, other


def _floats(scores: Sequence[float | None] | Floats) -> Floats:
    """None becomes NaN."""
    return np.asarray(scores, np.float64)


def _score(above: Floats, below: Floats | None, documents: int, seed: int, resamples: int) -> Score:
    if resamples < 1:
        raise ConfigurationError(f"resamples must be 1 or more, not {resamples}")
    left_out = documents - len(above)
    if not len(above):
        return Score(None, None, None, 0, left_out)
    value = float(_ratio(above, below))
    if len(above) > NORMAL_ABOVE:
        low, high = _normal(value, above, below)
    else:
        low, high = _bootstrap(above, below, seed, resamples)
    return Score(value, low, high, len(above), left_out)


def _ratio(above: Floats, below: Floats | None) -> Floats:
    """Mean over mean along the last axis; 0 for 0/0."""
    means: Floats = np.asarray(above.mean(axis=-1))
    if below is None:
        return means
    divisors: Floats = np.asarray(below.mean(axis=-1))
    return np.divide(means, divisors, out=np.zeros_like(means), where=divisors > 0)


def _bootstrap(
    above: Floats, below: Floats | None, seed: int, resamples: int
) -> tuple[float, float]:
    draw = np.random.default_rng(seed)
    n = len(above)
    rows = max(1, _BLOCK // n)
    values = np.empty(resamples)
    for start in range(0, resamples, rows):
        picks = draw.integers(n, size=(min(rows, resamples - start), n))
        drawn = None if below is None else below[picks]
        values[start : start + rows] = _ratio(above[picks], drawn)
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _normal(value: float, above: Floats, below: Floats | None) -> tuple[float, float]:
    """value ± 1.96 standard errors, within the range of the documents' own values."""
    if below is None:
        errors, own = above - value, above
    else:
        scale = below.mean() or 1.0
        errors = (above - value * below) / scale
        own = np.divide(above, below, out=np.full_like(above, value), where=below > 0)
    half = _WIDTH * float(np.sqrt(np.mean(errors**2) / len(above)))
    return max(value - half, float(own.min())), min(value + half, float(own.max()))
