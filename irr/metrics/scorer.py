"""Scoring: documents one by one → every metric that was asked for.

In: rankings, scores and gold, in one pass. Out: a `Score` by metric name. Memory: 8 or 16 bytes a
document and metric, and counts for each distinct label.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import partial
from math import nan
from typing import Any, Protocol

import numpy as np

from irr.errors import ConfigurationError
from irr.metrics.corpus import (
    LABEL_METRICS,
    POOLED_METRICS,
    PROPENSITY_METRICS,
    LabelTally,
    Pooled,
    Propensities,
)
from irr.metrics.documents import DOCUMENT_METRICS, Formula
from irr.metrics.hierarchical import HIERARCHICAL_METRICS, POOLED_HIERARCHICAL_METRICS, Above
from irr.metrics.intervals import Floats, Score, mean_score, ratio_score
from irr.metrics.judged import Cut, Judged, judge
from irr.metrics.names import MetricSpec

__all__ = ["Scorer"]


class Accumulator(Protocol):
    """A metric over documents: takes them one by one, gives its score at any time."""

    def add(self, judged: Judged) -> None: ...

    def score(self, seed: int) -> Score: ...


class Mean:
    """A metric of documents, averaged. `values` has NaN for a document without gold."""

    def __init__(self, formula: Formula, cut: Cut) -> None:
        self._formula, self._cut = formula, cut
        self.values = array("d")

    def add(self, judged: Judged) -> None:
        self.values.append(self._formula(judged, self._cut) if judged.gold else nan)

    def score(self, seed: int) -> Score:
        return mean_score(np.array(self.values), seed=seed)


class Ratio:
    """A pooled metric: the sum of numerators over the sum of denominators."""

    def __init__(self, formula: Pooled, cut: Cut) -> None:
        self._formula, self._cut = formula, cut
        self._above, self._below = array("d"), array("d")

    def add(self, judged: Judged) -> None:
        above, below = self._formula(judged, self._cut) if judged.gold else (nan, nan)
        self._above.append(above)
        self._below.append(below)

    def score(self, seed: int) -> Score:
        return ratio_score(np.array(self._above), np.array(self._below), seed=seed)


class FromLabels:
    """A metric read from counts per label, which the scorer keeps; it has no interval."""

    def __init__(self, read: Callable[[LabelTally], float | None], tally: LabelTally) -> None:
        self._read, self._tally = read, tally
        self._documents = self._without_gold = 0

    def add(self, judged: Judged) -> None:
        self._documents += bool(judged.gold)
        self._without_gold += not judged.gold

    def score(self, seed: int) -> Score:  # noqa: ARG002
        value = self._read(self._tally)
        return Score(value, None, None, self._documents, self._without_gold)


class Scorer:
    """Every metric in one pass: `add` each document, then read `result`.

    Labels in rankings, gold and `training_counts` are of one kind, ids or positions.

    Args:
        specs: the metrics; one that is named twice is computed once.
        training_counts: how many training documents have each label, for propensities and bands.
        n_training: how many training documents there are, for propensities.
        labels_at: where set, counts per label are kept at this cut, for `labels`.
        above: the ancestors of labels, for hierarchical metrics.

    Raises:
        ConfigurationError: a propensity-scored metric without training counts, or a hierarchical
            one without ancestors.
    """

    def __init__(
        self,
        specs: Iterable[MetricSpec],
        training_counts: Mapping[Any, int] | None = None,
        n_training: int = 0,
        *,
        labels_at: Cut | None = None,
        above: Above | None = None,
    ) -> None:
        self._above = above
        self._training = training_counts
        self._n_training = n_training
        self._propensities: Propensities | None = None
        self._tallies: dict[Cut, LabelTally] = {}
        self._metrics = {spec.name: self._accumulator(spec) for spec in dict.fromkeys(specs)}
        self._labels = None if labels_at is None else self._tally(labels_at)

    def add(
        self,
        ranking: Sequence[Hashable],
        scores: Sequence[float] | None,
        gold: Collection[Hashable],
    ) -> None:
        """Scores a document: its labels, best first, with their scores (None where unknown)."""
        judged = judge(ranking, gold, scores)
        for metric in self._metrics.values():
            metric.add(judged)
        for tally in self._tallies.values():
            tally.add(judged)

    def result(self, *, seed: int = 0) -> dict[str, Score]:
        """Each metric's score so far, by name, in the order of the specs."""
        return {name: metric.score(seed) for name, metric in self._metrics.items()}

    def document_scores(self) -> dict[str, Floats]:
        """Metrics of documents: (documents,) float64 in the order they were added, NaN without
        gold. Two scorers' arrays can be given to `paired_difference`."""
        means = {name: m for name, m in self._metrics.items() if isinstance(m, Mean)}
        return {name: np.array(metric.values) for name, metric in means.items()}

    @property
    def labels(self) -> LabelTally:
        """Counts per label at `labels_at`."""
        if self._labels is None:
            raise ConfigurationError("counts per label were not asked for: set labels_at")
        return self._labels

    def _accumulator(self, spec: MetricSpec) -> Accumulator:
        name, cut = spec.metric, spec.cut
        if name in DOCUMENT_METRICS:
            return Mean(DOCUMENT_METRICS[name], cut)
        if name in POOLED_METRICS:
            return Ratio(POOLED_METRICS[name], cut)
        if name in LABEL_METRICS:
            return FromLabels(LABEL_METRICS[name], self._tally(cut))
        if name in HIERARCHICAL_METRICS:
            return Mean(partial(HIERARCHICAL_METRICS[name], self._ancestors(spec)), cut)
        if name in POOLED_HIERARCHICAL_METRICS:
            return Ratio(partial(POOLED_HIERARCHICAL_METRICS[name], self._ancestors(spec)), cut)
        return Ratio(partial(PROPENSITY_METRICS[name], self._weights(spec)), cut)

    def _tally(self, cut: Cut) -> LabelTally:
        return self._tallies.setdefault(cut, LabelTally(cut))

    def _ancestors(self, spec: MetricSpec) -> Above:
        if self._above is None:
            raise ConfigurationError(
                f"{spec.name} needs a hierarchy: give a label set whose labels name their parents"
            )
        return self._above

    def _weights(self, spec: MetricSpec) -> Propensities:
        if self._training is None:
            raise ConfigurationError(
                f"{spec.name} needs the label counts of the training documents: give those too"
            )
        if self._propensities is None:
            self._propensities = Propensities(self._training, self._n_training)
        return self._propensities
