"""Metrics of a document: a judged ranking → one number in [0, 1], to be averaged.

Throughout, S is what is predicted: the first k distinct labels of the ranking, or those with a
score above a threshold; G is the gold, which is not empty here (a document without gold has no
score, None). What each does with repeated labels is said in `irr.metrics`: they count once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from functools import cache
from math import log2

from irr.errors import ConfigurationError
from irr.metrics.judged import Cut, Judged, judge

__all__ = [
    "DOCUMENT_METRICS",
    "METRICS",
    "Metric",
    "discount",
    "ideal_gain",
    "precision_at_k",
    "recall_at_k",
    "rp_at_k",
]

Formula = Callable[[Judged, Cut], float]
Metric = Callable[[Sequence[Hashable], Collection[Hashable], int], float | None]


def rank_precision(judged: Judged, cut: Cut) -> float:
    """RP@k = |S ∩ G| / min(k, |G|).

    1 where the first k hold all gold labels there is room for (D'Oosterlinck et al. 2024,
    arXiv 2401.12178, equation 1; Chalkidis et al. 2019 call it R-precision@k). A shorter ranking
    is divided by the same number.
    """
    return judged.hits(cut) / min(cut.k, len(judged.gold))


def precision(judged: Judged, cut: Cut) -> float:
    """P@k = |S ∩ G| / k, also where the ranking is shorter than k (trec_eval's P_k)."""
    return judged.hits(cut) / cut.k


def set_precision(judged: Judged, cut: Cut) -> float:
    """setP = |S ∩ G| / |S|, 0 where nothing is predicted.

    Example-based precision (Godbole & Sarawagi 2004); scikit-learn's average="samples". Unlike
    P@k it does not blame a ranking for being shorter than k.
    """
    predicted = judged.predicted(cut)
    return judged.hits(cut) / predicted if predicted else 0.0


def recall(judged: Judged, cut: Cut) -> float:
    """R = |S ∩ G| / |G| (trec_eval's recall_k). What a short ranking lacks was not found."""
    return judged.hits(cut) / len(judged.gold)


def f1(judged: Judged, cut: Cut) -> float:
    """F1 = 2 |S ∩ G| / (|S| + |G|), the harmonic mean of setP and R.

    Example-based F1 (Godbole & Sarawagi 2004); scikit-learn's average="samples". A ranking
    shorter than k is judged by the labels it has; ranx divides by k there.
    """
    return 2 * judged.hits(cut) / (judged.predicted(cut) + len(judged.gold))


def ndcg(judged: Judged, cut: Cut) -> float:
    """nDCG@k = Σ 1/log2(i + 1) over the places i ≤ k of gold labels / the same over 1..min(k, |G|).

    Binary gain, logarithmic discount (Järvelin & Kekäläinen 2002). The ideal does not depend on
    the length of the ranking, so a short one loses what it lacks.
    """
    gain = sum(discount(rank) for rank in judged.ranks[: judged.hits(cut)])
    return gain / ideal_gain(min(cut.k, len(judged.gold)))


def reciprocal_rank(judged: Judged, cut: Cut) -> float:
    """MRR = 1 / the place of the first gold label, 0 where none is among the first k.

    Voorhees 1999 (TREC-8 question answering). Without k the whole ranking is looked at.
    """
    return 1 / (judged.ranks[0] + 1) if judged.hits(cut) else 0.0


def r_precision(judged: Judged, _: Cut) -> float:
    """RPREC = |first |G| labels ∩ G| / |G|.

    Manning et al. 2008, section 8.4; trec_eval's Rprec. Places a short ranking lacks are misses.
    """
    gold = len(judged.gold)
    return judged.hits(Cut(gold)) / gold


def hit(judged: Judged, cut: Cut) -> float:
    """hit@k = 1 where any gold label is among the first k, else 0 (trec_eval's success_k)."""
    return float(judged.hits(cut) > 0)


@cache
def discount(rank: int) -> float:
    """1 / log2(rank + 2), for a rank from 0."""
    return 1 / log2(rank + 2)


@cache
def ideal_gain(labels: int) -> float:
    """The discounted gain of a ranking that begins with this many gold labels."""
    return sum(discount(rank) for rank in range(labels))


DOCUMENT_METRICS: dict[str, Formula] = {
    "RP": rank_precision,
    "P": precision,
    "R": recall,
    "nDCG": ndcg,
    "MRR": reciprocal_rank,
    "hit": hit,
    "F1": f1,
    "setP": set_precision,
    "RPREC": r_precision,
}


def at_k(formula: Formula) -> Metric:
    """The formula as a function of (ranking, gold, k); None where there is no gold.

    Raises (the function that is returned):
        ConfigurationError: k is below 1.
    """

    def metric(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int, /) -> float | None:
        if k < 1:
            raise ConfigurationError(f"k must be 1 or more, not {k}")
        judged = judge(ranking, gold)
        return formula(judged, Cut(k)) if judged.gold else None

    return metric


def rp_at_k(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float | None:
    """Rank-precision at k, `rank_precision`: |first k ∩ gold| / min(k, |gold|).

    >>> rp_at_k(["a", "x", "b"], {"a", "b", "c"}, 2)
    0.5
    >>> rp_at_k(["a", "a", "b"], {"a", "b"}, 2)
    1.0
    """
    return METRICS["RP"](ranking, gold, k)


def recall_at_k(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float | None:
    """Recall at k, `recall`: |first k ∩ gold| / |gold|.

    >>> recall_at_k(["a", "x", "b"], {"a", "b", "c", "d"}, 2)
    0.25
    """
    return METRICS["R"](ranking, gold, k)


def precision_at_k(ranking: Sequence[Hashable], gold: Collection[Hashable], k: int) -> float | None:
    """Precision at k, `precision`: |first k ∩ gold| / k.

    >>> precision_at_k(["a", "x"], {"a", "b", "c"}, 4)
    0.25
    """
    return METRICS["P"](ranking, gold, k)


# Those that take a k: (ranking, gold, k) → a score, or None without gold.
METRICS: dict[str, Metric] = {
    name: at_k(formula) for name, formula in DOCUMENT_METRICS.items() if name != "RPREC"
}
