"""One document, judged: where its gold labels stand in its ranking.

In: a ranking, its scores, gold. Out: `Judged`, from which every metric is a few operations, so
that a document is looked at once however many metrics are asked for.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

from irr.errors import ConfigurationError

__all__ = ["WHOLE", "Cut", "Judged", "judge"]


class Cut(NamedTuple):
    """What counts as predicted: the first k labels, of them those with a score above `above`.

    Both are open by default: the whole ranking as it was given.
    """

    k: int = sys.maxsize
    above: float = -math.inf

    @property
    def by_score(self) -> bool:
        return self.above != -math.inf


WHOLE = Cut()


class Judged(NamedTuple):
    """A ranking beside its gold.

    `labels` are distinct, best first; `gold` is a set; `ranks` are the places of gold labels in
    `labels`, from 0, ascending; `scores` are those of `labels`, or None where none were given.
    """

    labels: list[Hashable]
    gold: frozenset[Hashable]
    ranks: list[int]
    scores: list[float] | None = None

    def hits(self, cut: Cut) -> int:
        """Gold labels among those predicted."""
        found = bisect_left(self.ranks, cut.k)
        if not cut.by_score:
            return found
        scores = self._scores()
        return sum(scores[rank] > cut.above for rank in self.ranks[:found])

    def predicted(self, cut: Cut) -> int:
        """How many labels are predicted."""
        if not cut.by_score:
            return min(cut.k, len(self.labels))
        return sum(score > cut.above for score in self._scores()[: cut.k])

    def chosen(self, cut: Cut) -> list[Hashable]:
        """The labels that are predicted, best first."""
        first = self.labels[: cut.k]
        if not cut.by_score:
            return first
        # The first k may be fewer labels than there are scores.
        pairs = zip(first, self._scores(), strict=False)
        return [label for label, score in pairs if score > cut.above]

    def _scores(self) -> list[float]:
        if self.scores is None:
            raise ConfigurationError(
                "a metric at a score threshold needs the scores of the labels, which were not given"
            )
        return self.scores


def judge(
    ranking: Sequence[Hashable],
    gold: Collection[Hashable],
    scores: Sequence[float] | None = None,
) -> Judged:
    """Removes repeated labels (the first place and its score stay) and finds the gold ones.

    >>> judge(["a", "x", "a", "b"], ["b", "a", "c"]).ranks
    [0, 2]

    Raises:
        ConfigurationError: there are more or fewer scores than labels.
    """
    wanted = frozenset(gold)
    labels = list(dict.fromkeys(ranking))
    ranks = [rank for rank, label in enumerate(labels) if label in wanted]
    if scores is None:
        return Judged(labels, wanted, ranks)
    if len(scores) != len(ranking):
        raise ConfigurationError(f"{len(ranking)} labels were given with {len(scores)} scores")
    if len(labels) == len(ranking):
        return Judged(labels, wanted, ranks, list(scores))
    first = dict(zip(reversed(ranking), reversed(scores), strict=True))
    return Judged(labels, wanted, ranks, [first[label] for label in labels])
