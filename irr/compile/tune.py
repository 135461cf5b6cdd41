"""Choosing among settings by cross-validation: the fusion of Rank's order, and what choosing gains.

In: scores of settings on examples. Out: a choice, and what it gains over the given settings on
held-out folds. Tens of examples are few: the given settings stay unless the evidence is clear.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from irr.compile.examples import Example
from irr.metrics import METRICS
from irr.rank import fuse
from irr.vectors import Positions

__all__ = ["Scores", "Tuned", "choose", "clear_best", "cross_validated", "fusion_scores"]

Scores = npt.NDArray[np.float64]

FUSION_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
# The share of bootstrap means that must lie above zero for a change to count as clear.
CLEAR = 0.95
_RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class Tuned:
    """The choice among settings: `best` is its position, 0 that of the given settings.

    `gain` is the mean over held-out examples of what this way of choosing gains over the given
    settings, with the 95% interval `low` to `high`; all in [-1, 1].
    """

    best: int
    gain: float
    low: float
    high: float


def fusion_scores(
    orders: Sequence[Sequence[int]],
    pools: Sequence[Sequence[int]],
    examples: Sequence[Example],
    metric: tuple[str, int],
    weights: Sequence[float] = FUSION_WEIGHTS,
) -> Scores:
    """(weights, examples) scores of Rank's orders fused with retrieval's."""
    name, k = metric
    table = np.empty((len(weights), len(examples)))
    for row, weight in enumerate(weights):
        for column, (order, pool) in enumerate(zip(orders, pools, strict=True)):
            ranked = [pool[place] for place in fuse(order, weight)]
            table[row, column] = METRICS[name](ranked, examples[column].gold, k) or 0.0
    return table


def choose(scores: Scores, *, folds: int, seed: int) -> Tuned:
    """Choose a row of (settings, examples) scores; row 0, the given settings, unless clearly worse.

    The gain is cross-validated: each fold is scored by the row chosen on the other folds.
    """

    def gains(held: Positions, rest: Positions) -> Scores:
        gained: Scores = scores[clear_best(scores[:, rest], seed), held] - scores[0, held]
        return gained

    tuned = cross_validated(gains, scores.shape[1], folds=folds, seed=seed)
    # Of many settings one may look clearly better by luck: then choosing so gains nothing.
    return replace(tuned, best=clear_best(scores, seed)) if tuned.gain > 0 else tuned


def cross_validated(
    gains: Callable[[Positions, Positions], Scores], count: int, *, folds: int, seed: int
) -> Tuned:
    """What a way of choosing gains on examples it did not see; `best` is left 0.

    Args:
        gains: (held-out examples, the others) → the gain on each of the held-out ones by what is
            chosen on the others.
        count: examples in all.
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)
    found = np.zeros(count)
    for fold in range(min(folds, count)):
        held = np.array(order[fold::folds])
        rest = np.setdiff1d(np.arange(count), held)
        if len(rest):
            found[held] = gains(held, rest)
    low, high = np.percentile(_resampled(found, seed), [2.5, 97.5])
    return Tuned(0, float(found.mean()), float(low), float(high))


def clear_best(scores: Scores, seed: int) -> int:
    """The row of (settings, examples) scores with the best mean, if clearly better than row 0."""
    best = int(np.argmax(scores.mean(axis=1)))
    if best == 0:
        return 0
    means = _resampled(scores[best] - scores[0], seed)
    return best if np.mean(means > 0) >= CLEAR else 0


def _resampled(values: Scores, seed: int) -> Scores:
    """Bootstrap means of `values`."""
    draw = np.random.default_rng(seed)
    picks = draw.integers(len(values), size=(_RESAMPLES, len(values)))
    means: Scores = values[picks].mean(axis=1)
    return means
