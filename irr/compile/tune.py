"""Tuning of retrieval and fusion: by cross-validation, without any LM call of its own.

In: labelled texts with the guesses that an LM made for them, if any. Out: settings, and what they
gain over the given ones on held-out folds. Tens of examples are few: the given settings stay
unless the evidence is clear.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from irr.compile.examples import Example
from irr.compile.priors import Priors
from irr.metrics import METRICS
from irr.rank import fuse
from irr.retrieve import Retriever, RetrieveSettings

__all__ = ["Tuned", "choose", "fusion_scores", "grid", "retrieval_scores"]

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


def grid(given: RetrieveSettings, *, guesses: bool, priors: bool) -> list[RetrieveSettings]:
    """The settings to try, the given ones first: one change each, then some pairs of changes."""
    changes: list[dict[str, Any]] = [
        *({"temperature": value} for value in (0.05, 0.08, 0.15, 0.2)),
        *({"vague_weight": value} for value in (0.0, 0.25, 0.7, 1.0)),
        *({"clause_weight": value} for value in (0.0, 0.3, 0.5)),
        *({"hub_weight": value} for value in (0.0, 0.15, 0.5)),
        {"temperature": 0.08, "clause_weight": 0.3},
        {"temperature": 0.05, "vague_weight": 0.7},
        {"vague_weight": 0.7, "hub_weight": 0.15},
    ]
    if guesses:
        changes += [{"phrase_weight": value} for value in (0.0, 0.25, 0.5, 2.0)]
    if priors:
        changes += [{"prior_strength": value} for value in (0.3, 1.0, 3.0, 10.0, 100.0)]
    tried = [given, *(replace(given, **change) for change in changes)]
    return list(dict.fromkeys(tried))


def retrieval_scores(
    retriever: Retriever,
    settings: Sequence[RetrieveSettings],
    examples: Sequence[Example],
    guesses: Sequence[Sequence[str]],
    score: Callable[[Sequence[int], Sequence[int]], float],
    progress: Callable[[int, int], None] | None = None,
    priors_for: Callable[[Example], Priors | None] = lambda _: None,
) -> Scores:
    """(settings, examples) scores of Retrieve alone.

    `priors_for` gives the priors to score an example with, where they are not the retriever's:
    those counted on examples must be counted without the one that is scored.
    """
    table = np.empty((len(settings), len(examples)))
    for row, choice in enumerate(settings):
        for column, (example, guessed) in enumerate(zip(examples, guesses, strict=True)):
            priors = priors_for(example) if choice.prior_strength else None
            variant = retriever.with_settings(choice, priors)
            found = variant.retrieve(example.phrases, guessed)
            table[row, column] = score([c.position for c in found], example.gold)
        if progress is not None:
            progress(row + 1, len(settings))
    return table


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
    count = scores.shape[1]
    order = list(range(count))
    random.Random(seed).shuffle(order)
    gains = np.zeros(count)
    for fold in range(min(folds, count)):
        held = np.array(order[fold::folds])
        rest = np.setdiff1d(np.arange(count), held)
        if len(rest):
            gains[held] = scores[_clear_best(scores[:, rest], seed), held] - scores[0, held]
    low, high = np.percentile(_resampled(gains, seed), [2.5, 97.5])
    # Of many settings one may look clearly better by luck: then choosing so gains nothing.
    best = _clear_best(scores, seed) if gains.mean() > 0 else 0
    return Tuned(best, float(gains.mean()), float(low), float(high))


def _clear_best(scores: Scores, seed: int) -> int:
    """The row with the best mean, if it is clearly better than row 0."""
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
