"""Rank-precision at k and its family: rankings and gold → scores with intervals.

Comes in: for each document its ranking (labels, best first) and its gold labels, as ids or
positions. Goes out: one score a document in [0, 1], and their mean with a bootstrap interval.

A label that a ranking repeats counts once, at its first place: later copies are removed before
the first k are taken. A document without gold has no score (None); means leave it out and say
how many they are over. A ranking shorter than k is not padded: what is missing was not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from irr.errors import ConfigurationError

__all__ = [
    "METRICS",
    "Score",
    "mean_score",
    "parse_metrics",
    "precision_at_k",
    "recall_at_k",
    "rp_at_k",
]

Metric = Callable[[Sequence[Hashable], Collection[Hashable], int], float | None]

RESAMPLES = 2000


def rp_at_k(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float | None:
    """Rank-precision at k: |first k ∩ gold| / min(k, |gold|).

    1 where the first k hold all gold labels there is room for (D'Oosterlinck et al. 2024,
    arXiv 2401.12178, equation 1; Chalkidis et al. 2019 call it R-precision@k).

    >>> rp_at_k(["a", "x", "b"], {"a", "b", "c"}, 2)
    0.5
    >>> rp_at_k(["a", "a", "b"], {"a", "b"}, 2)
    1.0
    """
    hits, labels = _hits(ranking, gold, k)
    return hits / min(k, labels) if labels else None


def recall_at_k(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float | None:
    """Recall at k: |first k ∩ gold| / |gold|.

    >>> recall_at_k(["a", "x", "b"], {"a", "b", "c", "d"}, 2)
    0.25
    """
    hits, labels = _hits(ranking, gold, k)
    return hits / labels if labels else None


def precision_at_k(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float | None:
    """Precision at k: |first k ∩ gold| / k, also where the ranking is shorter than k.

    >>> precision_at_k(["a", "x"], {"a", "b", "c"}, 4)
    0.25
    """
    hits, labels = _hits(ranking, gold, k)
    return hits / k if labels else None


METRICS: dict[str, Metric] = {"RP": rp_at_k, "R": recall_at_k, "P": precision_at_k}


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over documents with its 95% interval, all in [0, 1].

    `documents` were scored, `without_gold` were left out. Without any document the three
    numbers are None.
    """

    mean: float | None
    low: float | None
    high: float | None
    documents: int
    without_gold: int


def mean_score(
    scores: Sequence[float | None], *, seed: int = 0, resamples: int = RESAMPLES
) -> Score:
    """The mean of the scores that are not None, with a percentile bootstrap interval.

    Documents are drawn with replacement `resamples` times (Efron & Tibshirani 1993, chapter 13);
    the interval holds the middle 95% of the means. The same seed gives the same interval.
    """
    if resamples < 1:
        raise ConfigurationError(f"resamples must be 1 or more, not {resamples}")
    values = np.array([score for score in scores if score is not None], np.float64)
    left_out = len(scores) - len(values)
    if not len(values):
        return Score(None, None, None, 0, left_out)
    draw = np.random.default_rng(seed)
    n = len(values)
    # One resample at a time: for many documents all at once would need much memory.
    means = [values[draw.integers(n, size=n)].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Score(float(values.mean()), float(low), float(high), n, left_out)


def _hits(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> tuple[int, int]:
    """(gold labels among the first k distinct ones, gold labels)."""
    if k < 1:
        raise ConfigurationError(f"k must be 1 or more, not {k}")
    wanted = set(gold)
    first = list(dict.fromkeys(ranking))[:k]
    return len(wanted.intersection(first)), len(wanted)


def parse_metrics(text: str) -> list[tuple[str, int]]:
    """Read names such as "RP@5,R@50" into (metric, k) pairs.

    >>> parse_metrics("RP@5, r@50")
    [('RP', 5), ('R', 50)]

    Raises:
        ConfigurationError: a name that is no metric.
    """
    pairs = []
    for name in text.split(","):
        match = re.fullmatch(r"([A-Za-z]+)@([1-9]\d{0,5})", name.strip())
        if match is None or match[1].upper() not in METRICS:
            known = ", ".join(f"{metric}@K" for metric in METRICS)
            raise ConfigurationError(f"unknown metric {name.strip()!r}: known are {known}")
        pairs.append((match[1].upper(), int(match[2])))
    return pairs
