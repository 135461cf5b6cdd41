"""Tuning of Retrieve: which of its settings, and which of its signals, suit a label set and texts.

In: labelled texts with the guesses that an LM made for them, if any. Out: settings, and what this
way of choosing gains over the given ones on examples it did not see. No LM is asked. Each change
is tried alone, then the best together with others that helped; it must be clearly better, for tens
of examples tell little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from irr.compile.examples import Example
from irr.compile.priors import Priors
from irr.compile.tune import Scores, Tuned, clear_best, cross_validated
from irr.index.embedding import ALTERNATIVE, DESCRIPTION
from irr.lexical import is_installed
from irr.retrieve import Retriever, RetrieveSettings

__all__ = ["RetrievalTuner", "changes"]

Change = dict[str, float]
_Rows = npt.NDArray[np.int64]

# Changes tried together with the best one.
_MOST_TOGETHER = 6


def changes(retriever: Retriever, *, guesses: bool) -> list[Change]:
    """What can be changed where it could matter: for this label set, with or without guesses."""
    found: list[Change] = [
        *({"temperature": value} for value in (0.05, 0.08, 0.15, 0.2)),
        *({"vague_weight": value} for value in (0.0, 0.25, 0.7, 1.0)),
        *({"clause_weight": value} for value in (0.0, 0.3, 0.5)),
        *({"hub_weight": value} for value in (0.0, 0.15, 0.5)),
        *({"whole_weight": value} for value in (0.2, 0.5, 0.8)),
        {"temperature": 0.08, "clause_weight": 0.3},
        {"temperature": 0.05, "vague_weight": 0.7},
        {"vague_weight": 0.7, "hub_weight": 0.15},
    ]
    if guesses:
        found += [{"phrase_weight": value} for value in (0.0, 0.25, 0.5, 2.0)]
    if retriever.priors is not None:
        found += [{"prior_strength": value} for value in (0.3, 1.0, 3.0, 10.0, 100.0)]
    if retriever.labels is not None:
        found += [{"exact_weight": value} for value in (0.05, 0.1, 0.2)]
        if is_installed():
            found += [{"lexical_weight": value} for value in (0.05, 0.1, 0.2, 0.3)]
    if np.any(retriever.index.kinds == ALTERNATIVE):
        found += [{"alternative_handicap": value} for value in (0.05, 0.1, 2.0)]
    if np.any(retriever.index.kinds == DESCRIPTION):
        found += [{"description_handicap": value} for value in (0.05, 0.1, 0.2, 2.0)]
    return found


class RetrievalTuner:
    """Scores settings on examples, each once, and chooses among them.

    Args:
        guesses: of each example.
        score: (found positions, gold positions) → a number in [0, 1].
        priors_for: the priors to score an example with, where they are not the retriever's: those
            counted on examples must be counted without the one that is scored.
        progress: called with (examples done, examples in all), for some settings after others.
    """

    def __init__(
        self,
        retriever: Retriever,
        examples: Sequence[Example],
        guesses: Sequence[Sequence[str]],
        score: Callable[[Sequence[int], Sequence[int]], float],
        *,
        priors_for: Callable[[Example], Priors | None] = lambda _: None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._retriever = retriever
        self._examples = list(zip(examples, guesses, strict=True))
        self._score = score
        self._priors_for = priors_for
        self._progress = progress
        self._scores: dict[RetrieveSettings, Scores] = {}

    def tune(
        self, tried: Sequence[Change], *, folds: int, seed: int
    ) -> tuple[RetrieveSettings, Tuned]:
        """Choose settings; the retriever's own unless others are clearly better.

        The gain is cross-validated: each fold is scored by what is chosen on the other folds.
        """
        given = self._retriever.settings

        def gains(held: _Rows, rest: _Rows) -> Scores:
            chosen = self._search(tried, rest, seed)
            return self.scores(chosen)[held] - self.scores(given)[held]

        tuned = cross_validated(gains, len(self._examples), folds=folds, seed=seed)
        if tuned.gain <= 0:  # Of many settings one may look clearly better by luck.
            return given, tuned
        best = self._search(tried, np.arange(len(self._examples)), seed)
        return best, replace(tuned, best=int(best != given))

    def scores(self, settings: RetrieveSettings) -> Scores:
        """The score of each example: (examples,)."""
        self._score_all([settings])
        return self._scores[settings]

    def _score_all(self, wanted: Sequence[RetrieveSettings]) -> None:
        """Score those settings that have no scores yet, one example after the other.

        What an example has in common with the labels is the same for most settings.
        """
        new = [each for each in dict.fromkeys(wanted) if each not in self._scores]
        if not new:
            return
        retrievers = [self._retriever.with_settings(each) for each in new]
        table = np.empty((len(new), len(self._examples)))
        for column, (example, guesses) in enumerate(self._examples):
            compared = self._retriever.compare(example.phrases, guesses)
            priors = self._priors_for(example)
            for row, retriever in enumerate(retrievers):
                if priors is not None and retriever.settings.prior_strength:
                    retriever = retriever.with_settings(retriever.settings, priors)
                found = [candidate.position for candidate in retriever.candidates(compared)]
                table[row, column] = self._score(found, example.gold)
            if self._progress is not None:
                self._progress(column + 1, len(self._examples))
        self._scores.update(zip(new, table, strict=True))

    def _search(self, tried: Sequence[Change], rows: _Rows, seed: int) -> RetrieveSettings:
        """The best change for the examples `rows`, with what else helps."""
        given = self._retriever.settings
        alone = [_changed(given, change) for change in tried]
        self._score_all([given, *alone])
        first = self._clearly_better(given, alone, rows, seed)
        if first == given:
            return given
        chosen = tried[alone.index(first)]
        gains = [self.scores(settings)[rows].mean() for settings in alone]
        helpful = [
            change
            for change, gain in sorted(zip(tried, gains, strict=True), key=lambda pair: -pair[1])
            if gain > self.scores(given)[rows].mean() and not change.keys() & chosen.keys()
        ]
        together = [_changed(first, change) for change in helpful[:_MOST_TOGETHER]]
        return self._clearly_better(first, together, rows, seed)

    def _clearly_better(
        self, given: RetrieveSettings, others: Sequence[RetrieveSettings], rows: _Rows, seed: int
    ) -> RetrieveSettings:
        settings = [given, *others]
        self._score_all(settings)
        table = np.stack([self.scores(each)[rows] for each in settings])
        return settings[clear_best(table, seed)]


def _changed(settings: RetrieveSettings, change: dict[str, Any]) -> RetrieveSettings:
    return replace(settings, **change)
