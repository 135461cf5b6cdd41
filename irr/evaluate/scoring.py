"""Scoring: predictions and gold → scores with intervals, and where gold labels are lost.

In: `Predicted`, one for each gold document in order. Out: `Evaluation`. One pass, in which all
metrics are computed; of each document only its scores are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from irr.evaluate.predictions import Predicted
from irr.labels import LabelSet
from irr.metrics import METRICS, Score, mean_score
from irr.types import Document, Usage

__all__ = ["DEPTHS", "Evaluation", "Gold", "Lost", "resolve_gold", "score_predictions"]

# Where the curve of recall by number of candidates is drawn.
DEPTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
STAGES = ("guessed", "retrieved", "picked", "top_k")
_MOST_LOST_DOCUMENTS = 200
_BIN = 0.1

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
        columns: per-document scores in [0, 1] by metric; None for documents without gold.
        k: the cut of the stages and of calibration.
        stages: gold labels that reached each stage, over all documents, of `gold` in all; a stage
            that is not known is absent.
        perfect: per-document scores that a perfect Rank of the same candidates would have.
        recall: by number of candidates: gold labels found.
        bins: by lower end of a score: predictions, and correct ones among them.
        lost: gold labels by the stage they were lost at, with counts.
        bands: by band of training frequency: gold labels, and those of them in the top k.
    """

    name: str
    k: int
    columns: dict[str, list[float | None]]
    documents: int = 0
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
    bands: dict[str, list[int]] = field(default_factory=dict)
    unknown_predicted: Counter[str] = field(default_factory=Counter)

    @property
    def scores(self) -> dict[str, Score]:
        """Means with intervals."""
        return {name: mean_score(column) for name, column in self.columns.items()}


def resolve_gold(
    documents: Sequence[Document], labels: LabelSet
) -> tuple[list[Gold], dict[str, int]]:
    """Look up gold labels before anything is paid for. Also: those unknown, with counts."""
    unknown: Counter[str] = Counter()
    resolved = []
    for document in documents:
        wanted: dict[frozenset[int] | str, str] = {}
        for name in document.gold or ():
            positions = frozenset(labels.find_all(name))
            if not positions:
                unknown[name] += 1
            # A label that is named twice, by id and by name, is wanted once.
            same = next((w for w in wanted if isinstance(w, frozenset) and w & positions), None)
            if same is None:
                wanted[positions or name] = name
        entries = tuple(key if isinstance(key, frozenset) else frozenset() for key in wanted)
        resolved.append(Gold(document, entries, tuple(wanted.values())))
    return resolved, dict(unknown)


def score_predictions(
    name: str,
    predicted: Iterable[Predicted],
    gold: Sequence[Gold],
    metrics: Sequence[tuple[str, int]],
    *,
    guessed_by: GuessedBy | None = None,
    training: Mapping[int, int] | None = None,
) -> Evaluation:
    """Score predictions, one a gold document in the same order.

    A prediction that failed scores 0. Documents without gold labels are left out of the means.

    Args:
        guessed_by: which labels a document's guesses name; without it "guessed" is not known.
        training: how often each label occurs in training, for the bands.
    """
    k = next((cut for _, cut in metrics if cut == 10), metrics[0][1])
    columns: dict[str, list[float | None]] = {f"{metric}@{cut}": [] for metric, cut in metrics}
    tally = Evaluation(name, k, columns)
    for row, want in zip(predicted, gold, strict=True):
        _count(tally, row, want)
        ranking = _answered(row.ranking, want)
        numbers = range(len(want.wanted))
        for metric, cut in metrics:
            columns[f"{metric}@{cut}"].append(METRICS[metric](ranking, numbers, cut))
        _stages(tally, row, want, guessed_by)
        _calibration(tally, row, want)
        if training is not None:
            _bands(tally, row, want, training)
    return tally


def _count(tally: Evaluation, row: Predicted, want: Gold) -> None:
    tally.documents += 1
    tally.gold += len(want.wanted)
    tally.usage += row.usage
    tally.unknown_predicted.update(row.unknown)
    if row.failure is not None:
        tally.failed += 1
        tally.failure = tally.failure or row.failure


def _answered(ranking: Sequence[int], want: Gold) -> list[object]:
    """A ranking with each label that is wanted replaced by the number of the gold label."""
    answers = {position: number for number, entry in enumerate(want.wanted) for position in entry}
    return [answers.get(position, ("not wanted", position)) for position in ranking]


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
    if len(tally.lost_documents) < _MOST_LOST_DOCUMENTS:
        for stage, names in missed.items():
            tally.lost_documents.append(Lost(want.document, tuple(names), stage))


def _calibration(tally: Evaluation, row: Predicted, want: Gold) -> None:
    if row.scores is None:
        return
    answers = frozenset().union(*want.wanted) if want.wanted else frozenset()
    for position, score in list(zip(row.ranking, row.scores, strict=True))[: tally.k]:
        low = round(_BIN * (score // _BIN), 1)
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
