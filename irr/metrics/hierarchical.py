"""Metrics that know the hierarchy: a near miss shares ancestors with the gold, and counts for them.

In: judged rankings, and what is above each label. Out: a number in [0, 1] for a document, to be
averaged, or a (numerator, denominator), to be pooled over documents.

S' is what is predicted and all its ancestors, G' the gold and all its ancestors (Kiritchenko et al.
2005, Functional annotation of genes using hierarchical text categorization; Silla & Freitas 2011,
section 6.2, who recommend it). Both are sets: an ancestor that several labels share counts once.
Published figures are pooled: microhP, microhR, microhF.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable

from irr.metrics.judged import Cut, Judged

__all__ = ["HIERARCHICAL_METRICS", "POOLED_HIERARCHICAL_METRICS", "Above"]


class Above:
    """Sets of labels together with their ancestors.

    Args:
        ancestors: all labels above a label, itself left out; of a label it does not know none. A
            root that is above all labels should not be among them, since sharing it says nothing.

    Memory: the ancestors of each label that was met.
    """

    def __init__(self, ancestors: Callable[[Hashable], Collection[Hashable]]) -> None:
        self._ancestors = ancestors
        self._known: dict[Hashable, frozenset[Hashable]] = {}

    def closed(self, labels: Iterable[Hashable]) -> set[Hashable]:
        """The labels and all their ancestors."""
        found: set[Hashable] = set()
        for label in labels:
            own = self._known.get(label)
            if own is None:
                own = self._known[label] = frozenset((label, *self._ancestors(label)))
            found |= own
        return found

    def sizes(self, judged: Judged, cut: Cut) -> tuple[int, int, int]:
        """|S' ∩ G'|, |S'| and |G'|."""
        predicted, gold = self.closed(judged.chosen(cut)), self.closed(judged.gold)
        return len(predicted & gold), len(predicted), len(gold)


def precision(above: Above, judged: Judged, cut: Cut) -> float:
    """hP = |S' ∩ G'| / |S'|, 0 where nothing is predicted."""
    shared, predicted, _ = above.sizes(judged, cut)
    return shared / predicted if predicted else 0.0


def recall(above: Above, judged: Judged, cut: Cut) -> float:
    """hR = |S' ∩ G'| / |G'|."""
    shared, _, gold = above.sizes(judged, cut)
    return shared / gold


def f1(above: Above, judged: Judged, cut: Cut) -> float:
    """hF = 2 |S' ∩ G'| / (|S'| + |G'|), the harmonic mean of hP and hR."""
    shared, predicted, gold = above.sizes(judged, cut)
    return 2 * shared / (predicted + gold)


def micro_precision(above: Above, judged: Judged, cut: Cut) -> tuple[float, float]:
    """microhP = Σ |S' ∩ G'| / Σ |S'|, 0 where nothing is predicted."""
    shared, predicted, _ = above.sizes(judged, cut)
    return shared, predicted


def micro_recall(above: Above, judged: Judged, cut: Cut) -> tuple[float, float]:
    """microhR = Σ |S' ∩ G'| / Σ |G'|."""
    shared, _, gold = above.sizes(judged, cut)
    return shared, gold


def micro_f1(above: Above, judged: Judged, cut: Cut) -> tuple[float, float]:
    """microhF = 2 Σ |S' ∩ G'| / Σ (|S'| + |G'|), the harmonic mean of microhP and microhR."""
    shared, predicted, gold = above.sizes(judged, cut)
    return 2 * shared, predicted + gold


HIERARCHICAL_METRICS: dict[str, Callable[[Above, Judged, Cut], float]] = {
    "hP": precision,
    "hR": recall,
    "hF": f1,
}
POOLED_HIERARCHICAL_METRICS: dict[str, Callable[[Above, Judged, Cut], tuple[float, float]]] = {
    "microhP": micro_precision,
    "microhR": micro_recall,
    "microhF": micro_f1,
}
