"""Scoring: predictions and gold → scores with intervals, and where gold labels are lost.

In: `Predicted`, one for each gold document in order. Out: `Evaluation`. One pass, in which all
metrics are computed; of each document only its scores are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from irr.errors import ConfigurationError
from irr.evaluate.predictions import Predicted
from irr.hierarchy import Hierarchy
from irr.labels import LabelSet
from irr.metrics import (
    HIERARCHICAL_METRICS,
    POOLED_HIERARCHICAL_METRICS,
    Above,
    MetricSpec,
    Score,
    Scorer,
)
from irr.types import Document, Usage

__all__ = [
    "DEPTHS",
    "Evaluation",
    "Gold",
    "Lost",
    "hierarchy_for",
    "resolve_gold",
    "score_predictions",
]

# Where the curve of recall by number of candidates is drawn.
DEPTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
STAGES = ("guessed", "retrieved", "picked", "top_k")
_MOST_LOST_DOCUMENTS = 50
# Bins of calibration: tenths, of which the last holds 1 too.
_BINS = 10

GuessedBy = Callable[[Sequence[str]], set[int]]


@dataclass(frozen=True, slots=True)
class Gold:
    """The gold of one document.

    `wanted` has one entry for each gold label: the positions that answer it (several where
    several labels have its name), none for one that is not in the label set.
    """

    document: Document
    wanted: tuple[frozenset[int], ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """A document with gold labels that did not reach the top, and the stage they were lost at."""

    document: Document
    missed: tuple[str, ...]
    stage: str


@dataclass(slots=True)
class Evaluation:
    """What one program came to.

    Args:
        name: of the program.
        columns: per-document scores in [0, 1] of the metrics that have them; None for documents
            without gold.
        scores: all metrics.
        k: the cut of the stages and of calibration.
        stages: gold labels that reached each stage, over all documents, of `gold` in all; a stage
            that is not known is absent.
        perfect: per-document scores that a perfect Rank of the same candidates would have.
        recall: by number of candidates: gold labels found.
        bins: by lower end of a score: predictions, and correct ones among them.
        lost: gold labels by the stage they were lost at, with counts; `lost_counts` is of
            documents, of which the first of each stage are in `lost_documents`.
        bands: by band of training frequency: gold labels, and those of them in the top k.
    """

    name: str
    k: int
    columns: dict[str, list[float | None]] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    documents: int = 0
    without_gold: int = 0
    failed: int = 0
    failure: str | None = None
    usage: Usage = field(default_factory=Usage)
    gold: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    known: set[str] = field(default_factory=set)
    perfect: list[float | None] = field(default_factory=list)
    recall: Counter[int] = field(default_factory=Counter)
    deepest: int = 0
    bins: dict[float, list[int]] = field(default_factory=dict)
    lost: dict[str, Counter[str]] = field(default_factory=dict)
    lost_documents: list[Lost] = field(default_factory=list)
    lost_counts: Counter[str] = field(default_factory=Counter)
    bands: dict[str, list[int]] = field(default_factory=dict)
    unknown_predicted: Counter[str] = field(default_factory=Counter)


def resolve_gold(
    documents: Sequence[Document], labels: LabelSet
) -> tuple[list[Gold], dict[str, int]]:
    """Look up gold labels before anything is paid for. Also: those unknown, with counts."""
    unknown: Counter[str] = Counter()
    resolved = []
    for document in documents:
        wanted: list[tuple[frozenset[int], str]] = []
        for name in dict.fromkeys(document.gold or ()):
            positions = frozenset(labels.find_all(name))
            if not positions:
                unknown[name] += 1
            # A label that is named twice, by id and by name, is wanted once, and the more exact
            # of both says which it is.
            shared = next((pair for pair in wanted if pair[0] & positions), None)
            if shared is None:
                wanted.append((positions, name))
            else:
                wanted[wanted.index(shared)] = (shared[0] & positions, shared[1])
        entries, names = [pair[0] for pair in wanted], [pair[1] for pair in wanted]
        resolved.append(Gold(document, tuple(entries), tuple(names)))
    return resolved, dict(unknown)


def hierarchy_for(metrics: Iterable[MetricSpec], labels: LabelSet) -> Hierarchy | None:
    """The hierarchy of the labels where one of the metrics needs it, else None.

    Raises:
        ConfigurationError: a metric needs it, and no label has a parent in the set.
    """
    names = {*HIERARCHICAL_METRICS, *POOLED_HIERARCHICAL_METRICS}
    needing = next((spec for spec in metrics if spec.metric in names), None)
    if needing is None:
        return None
    hierarchy = Hierarchy.of(labels)
    if not hierarchy:
        raise ConfigurationError(
            f"{needing.name} needs a hierarchy, and no label names a parent that is in the label "
            "set: leave the metric out, or add parents to the labels"
        )
    return hierarchy


def score_predictions(
    name: str,
    predicted: Iterable[Predicted],
    gold: Sequence[Gold],
    metrics: Sequence[MetricSpec],
    *,
    guessed_by: GuessedBy | None = None,
    training: Mapping[int, int] | None = None,
    n_training: int = 0,
    hierarchy: Hierarchy | None = None,
) -> Evaluation:
    """Score predictions, one a gold document in the same order.

    A prediction that failed scores 0. Documents without gold labels are left out of the means.

    Args:
        guessed_by: which labels a document's guesses name; without it "guessed" is not known.
        training: how often each label occurs in the `n_training` training documents.
        hierarchy: of the labels, where a metric needs it, see `hierarchy_for`.
    """
    above = None if hierarchy is None else Above(_ancestors_in(hierarchy))
    scorer = Scorer(metrics, training, n_training, above=above)
    tally = Evaluation(name, _cut_of(metrics))
    for row, want in zip(predicted, gold, strict=True):
        _count(tally, row, want)
        scorer.add(_answered(row.ranking, want), row.scores, [_one(e, n) for e, n in _pairs(want)])
        _stages(tally, row, want, guessed_by)
        _calibration(tally, row, want)
        if training is not None:
            _bands(tally, row, want, training)
    tally.scores = scorer.result()
    tally.columns = {
        metric: [None if np.isnan(score) else float(score) for score in column]
        for metric, column in scorer.document_scores().items()
    }
    return tally


def _cut_of(metrics: Sequence[MetricSpec]) -> int:
    cuts = [spec.k for spec in metrics if spec.k is not None]
    return 10 if 10 in cuts or not cuts else cuts[0]


def _pairs(want: Gold) -> Iterable[tuple[frozenset[int], str]]:
    return zip(want.wanted, want.names, strict=True)


def _one(entry: frozenset[int], name: str) -> Hashable:
    """What a gold label is known by among all documents: a position, or its name."""
    return min(entry) if entry else name


def _count(tally: Evaluation, row: Predicted, want: Gold) -> None:
    tally.documents += 1
    tally.without_gold += not want.wanted
    tally.gold += len(want.wanted)
    tally.usage += row.usage
    tally.unknown_predicted.update(row.unknown)
    if row.failure is not None:
        tally.failed += 1
        tally.failure = tally.failure or row.failure


def _answered(ranking: Sequence[int], want: Gold) -> list[Hashable]:
    """A ranking with each label that answers a gold label replaced by what that is known by."""
    answers = {position: _one(entry, name) for entry, name in _pairs(want) for position in entry}
    found: dict[Hashable, None] = {}
    for position in ranking:
        answer = answers.get(position, position)
        # A second label that answers the same gold label is wrong, and keeps its place.
        found[("again", position) if answer in found and position in answers else answer] = None
    return list(found)


def _ancestors_in(hierarchy: Hierarchy) -> Callable[[Hashable], Sequence[int]]:
    """What is above a label as `_answered` and `_one` know it; a label not in the set has none."""
    top = hierarchy.root

    def ancestors(label: Hashable) -> Sequence[int]:
        position = label[1] if isinstance(label, tuple) else label
        if not isinstance(position, int) or position < 0:
            return ()
        return [above for above in hierarchy.ancestors(position) if above != top]

    return ancestors


def _found(positions: Iterable[int], want: Gold) -> set[int]:
    """Numbers of the gold labels that are among positions."""
    among = set(positions)
    return {number for number, entry in enumerate(want.wanted) if entry & among}


def _stages(tally: Evaluation, row: Predicted, want: Gold, guessed_by: GuessedBy | None) -> None:
    reached: dict[str, set[int]] = {}
    if guessed_by is not None and row.guesses:
        reached["guessed"] = _found(guessed_by(row.guesses), want)
    if row.candidates is not None:
        reached["retrieved"] = _found(row.candidates, want)
        _recall(tally, row.candidates, want)
        first = min(len(reached["retrieved"]), tally.k)
        most = min(len(want.wanted), tally.k)
        tally.perfect.append(first / most if most else None)
    if row.picks is not None:
        reached["picked"] = _found(row.picks, want)
    reached["top_k"] = _found(list(dict.fromkeys(row.ranking))[: tally.k], want)
    for stage, numbers in reached.items():
        tally.known.add(stage)
        tally.stages[stage] += len(numbers)
    _lost(tally, reached, want)


def _recall(tally: Evaluation, candidates: Sequence[int], want: Gold) -> None:
    tally.deepest = max(tally.deepest, len(candidates))
    for depth in DEPTHS:
        tally.recall[depth] += len(_found(candidates[:depth], want))


def _lost(tally: Evaluation, reached: Mapping[str, set[int]], want: Gold) -> None:
    """Each gold label outside the top is lost where it was last not seen."""
    missed: dict[str, list[str]] = {}
    for number, name in enumerate(want.names):
        if number in reached["top_k"]:
            continue
        if number not in reached.get("retrieved", reached["top_k"]):
            guessed = "guessed" in reached and number not in reached["guessed"]
            stage = "guessed" if guessed else "retrieved"
        else:
            stage = "ranked"
        tally.lost.setdefault(stage, Counter())[name] += 1
        missed.setdefault(stage, []).append(name)
    for stage, names in missed.items():
        tally.lost_counts[stage] += 1
        if tally.lost_counts[stage] <= _MOST_LOST_DOCUMENTS:
            tally.lost_documents.append(Lost(want.document, tuple(names), stage))


def _calibration(tally: Evaluation, row: Predicted, want: Gold) -> None:
    if row.scores is None:
        return
    answers = frozenset().union(*want.wanted) if want.wanted else frozenset()
    for position, score in list(zip(row.ranking, row.scores, strict=True))[: tally.k]:
        low = min(math.floor(round(score * _BINS, 6)), _BINS - 1) / _BINS
        counts = tally.bins.setdefault(low, [0, 0])
        counts[0] += 1
        counts[1] += position in answers


def _bands(tally: Evaluation, row: Predicted, want: Gold, training: Mapping[int, int]) -> None:
    top = _found(list(dict.fromkeys(row.ranking))[: tally.k], want)
    for number, entry in enumerate(want.wanted):
        seen = max((training.get(position, 0) for position in entry), default=0)
        band = "unseen" if seen == 0 else "rare" if seen <= 5 else "seen"
        for name in (band, "all"):
            counts = tally.bands.setdefault(name, [0, 0])
            counts[0] += 1
            counts[1] += number in top
