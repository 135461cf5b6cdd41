"""Metrics of a corpus: judged rankings of all documents → one number in [0, 1].

Two kinds, both by documents with gold only. Pooled metrics divide a sum over documents by another
(micro averages, propensities): a document gives a (numerator, denominator), so that they have
bootstrap intervals. Label metrics (macro averages, coverage) come from counts per label, which
`LabelTally` keeps; they have no interval, as resampling would need counts per label and resample.

S is what is predicted and G the gold, as in `irr.metrics.documents`; Σ is over documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import nlargest
from math import log, pow
from typing import Any, NamedTuple

from irr.errors import ConfigurationError
from irr.metrics.documents import discount, ideal_gain
from irr.metrics.judged import Cut, Judged

__all__ = [
    "CORPUS_METRICS",
    "LABEL_METRICS",
    "POOLED_METRICS",
    "PROPENSITY_METRICS",
    "Band",
    "Counts",
    "LabelTally",
    "Propensities",
]

RARE = 5


def micro_precision(judged: Judged, cut: Cut) -> tuple[float, float]:
    """microP = Σ |S ∩ G| / Σ |S|, 0 where nothing is predicted (Sebastiani 2002, section 7.1).

    A ranking shorter than k adds the labels it has.
    """
    return judged.hits(cut), judged.predicted(cut)


def micro_recall(judged: Judged, cut: Cut) -> tuple[float, float]:
    """microR = Σ |S ∩ G| / Σ |G| (Sebastiani 2002, section 7.1)."""
    return judged.hits(cut), len(judged.gold)


def micro_f1(judged: Judged, cut: Cut) -> tuple[float, float]:
    """microF1 = 2 Σ |S ∩ G| / Σ (|S| + |G|), the harmonic mean of microP and microR."""
    return 2 * judged.hits(cut), judged.predicted(cut) + len(judged.gold)


class Propensities:
    """Inverse propensities of labels: how much a hit on a rare label is worth.

    1/p = 1 + C (n + B)^-A with C = (ln N - 1) (B + 1)^A, where n of N training documents have the
    label (Jain, Prabhu & Varma 2016, section 4; A and B as they give them for most data sets).
    A label without a count has n = 0.

    Raises:
        ConfigurationError: N is below 3, where the formula falls below 1; or a count is negative
            or above N.
    """

    def __init__(
        self,
        counts: Mapping[Any, int],
        documents: int,
        *,
        a: float = 0.55,
        b: float = 1.5,
    ) -> None:
        if documents < 3:
            raise ConfigurationError(
                f"propensities need 3 training documents or more, not {documents}: "
                "give the number of training documents and their label counts"
            )
        for label, count in counts.items():
            if not 0 <= count <= documents:
                raise ConfigurationError(
                    f"label {label!r} has a count of {count} in {documents} training documents"
                )
        scale = (log(documents) - 1) * pow(b + 1, a)
        self._unseen = 1 + scale * pow(b, -a)
        self._inverse = {label: 1 + scale * pow(n + b, -a) for label, n in counts.items()}

    def inverse(self, label: Hashable) -> float:
        """1/p of a label, 1 or more."""
        return self._inverse.get(label, self._unseen)


def ps_precision(propensities: Propensities, judged: Judged, cut: Cut) -> tuple[float, float]:
    """PSP@k = Σ (1/p of each gold label in S) / Σ (1/p of the k gold labels with the largest).

    Jain et al. 2016, normalised as the XC repository's evaluation code (pyxclib) does: the sum
    over documents is divided by the sum over documents of the best possible, not document by
    document. The 1/k of both cancels, so a short ranking loses what it lacks.
    """
    inverse = propensities.inverse
    found = sum(inverse(judged.labels[rank]) for rank in judged.ranks[: judged.hits(cut)])
    return found, sum(_largest(propensities, judged, cut))


def ps_ndcg(propensities: Propensities, judged: Judged, cut: Cut) -> tuple[float, float]:
    """PSnDCG@k = Σ (DCG with gain 1/p) / I over Σ (the best such DCG) / I.

    I is the document's ideal DCG without propensities, over min(k, |G|) places; the best DCG has
    the k gold labels with the largest 1/p in descending order. Jain et al. 2016, normalised as in
    `ps_precision`.
    """
    inverse, labels = propensities.inverse, judged.labels
    found = judged.ranks[: judged.hits(cut)]
    gain = sum(inverse(labels[rank]) * discount(rank) for rank in found)
    largest = enumerate(_largest(propensities, judged, cut))
    best = sum(gain * discount(rank) for rank, gain in largest)
    ideal = ideal_gain(min(cut.k, len(judged.gold)))
    return gain / ideal, best / ideal


def _largest(propensities: Propensities, judged: Judged, cut: Cut) -> list[float]:
    return nlargest(cut.k, map(propensities.inverse, judged.gold))


class Counts(NamedTuple):
    """How often labels were gold, predicted, and both, over documents with gold."""

    gold: int
    predicted: int
    found: int

    @property
    def precision(self) -> float | None:
        """found / predicted; None where never predicted."""
        return self.found / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """found / gold; None where never gold."""
        return self.found / self.gold if self.gold else None

    @property
    def f1(self) -> float | None:
        """2 found / (gold + predicted); None where neither."""
        total = self.gold + self.predicted
        return 2 * self.found / total if total else None


@dataclass(frozen=True, slots=True)
class Band:
    """Labels of one frequency in training: how many were gold, pooled counts, mean F1 of these.

    `macro_f1` is None where no label of the band was gold.
    """

    labels: int
    counts: Counts
    macro_f1: float | None


class LabelTally:
    """Counts per label at a cut: memory for each distinct label, none for a document."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self._gold: Counter[Hashable] = Counter()
        self._predicted: Counter[Hashable] = Counter()
        self._found: Counter[Hashable] = Counter()

    def add(self, judged: Judged) -> None:
        """Counts a document; one without gold is left out."""
        if not judged.gold:
            return
        chosen = judged.chosen(self.cut)
        self._gold.update(judged.gold)
        self._predicted.update(chosen)
        self._found.update(judged.gold.intersection(chosen))

    def __getitem__(self, label: Hashable) -> Counts:
        return Counts(self._gold[label], self._predicted[label], self._found[label])

    def gold(self) -> Iterator[Counts]:
        """The counts of each label that was gold."""
        return (self[label] for label in self._gold)

    def items(self) -> Iterator[tuple[Hashable, Counts]]:
        """Each label that was gold or predicted, with its counts; gold ones first."""
        never = (label for label in self._predicted if label not in self._gold)
        for label in (*self._gold, *never):
            yield label, self[label]

    def bands(self, training: Mapping[Any, int]) -> dict[str, Band]:
        """Labels by how many training documents have them: "unseen" 0, "rare" to 5, "seen" more.

        Precision, recall and F1 of a band's `counts` are micro averages over its labels; a wrong
        prediction belongs to the band of the label that was predicted.
        """
        members: dict[str, list[Counts]] = {"unseen": [], "rare": [], "seen": []}
        for label, counts in self.items():
            members[_band(training.get(label, 0))].append(counts)
        return {name: _pooled(rows) for name, rows in members.items()}


def _band(count: int) -> str:
    return "unseen" if count <= 0 else "rare" if count <= RARE else "seen"


def _pooled(rows: list[Counts]) -> Band:
    counts = (
        Counts(*(sum(column) for column in zip(*rows, strict=True))) if rows else Counts(0, 0, 0)
    )
    wanted = [row.f1 for row in rows if row.gold]
    return Band(len(wanted), counts, _mean(wanted))


def macro_precision(tally: LabelTally) -> float | None:
    """macroP: the mean over labels that are gold somewhere of found / predicted, or of 0.

    Labels that are predicted but never gold do not enter a macro average (their recall is not
    defined); scikit-learn's and Annif's averages over all labels differ in that. A label that is
    never predicted has precision 0, as in scikit-learn.
    """
    return _mean(counts.precision for counts in tally.gold())


def macro_recall(tally: LabelTally) -> float | None:
    """macroR: the mean over labels that are gold somewhere of found / gold."""
    return _mean(counts.recall for counts in tally.gold())


def macro_f1(tally: LabelTally) -> float | None:
    """macroF1: the mean over labels that are gold somewhere of 2 found / (gold + predicted).

    The mean of the labels' F1, not the F1 of their mean precision and recall (Opitz & Burst 2019,
    arXiv 1911.03347).
    """
    return _mean(counts.f1 for counts in tally.gold())


def coverage(tally: LabelTally) -> float | None:
    """coverage@k: the share of labels gold somewhere that are found in S of some document.

    It counts labels that a program can find at all: a label is found in a document whose gold
    has it; predicted where it is wrong does not count.
    """
    return _mean(float(counts.found > 0) for counts in tally.gold())


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean, undefined values as 0; None without any."""
    numbers = [value or 0.0 for value in values]
    return sum(numbers) / len(numbers) if numbers else None


Pooled = Callable[[Judged, Cut], tuple[float, float]]
PropensityScored = Callable[[Propensities, Judged, Cut], tuple[float, float]]

POOLED_METRICS: dict[str, Pooled] = {
    "microP": micro_precision,
    "microR": micro_recall,
    "microF1": micro_f1,
}
PROPENSITY_METRICS: dict[str, PropensityScored] = {"PSP": ps_precision, "PSnDCG": ps_ndcg}
LABEL_METRICS: dict[str, Callable[[LabelTally], float | None]] = {
    "macroP": macro_precision,
    "macroR": macro_recall,
    "macroF1": macro_f1,
    "coverage": coverage,
}
CORPUS_METRICS = (*POOLED_METRICS, *PROPENSITY_METRICS, *LABEL_METRICS)
