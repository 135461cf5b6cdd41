"""Scoring: predictions and gold → each metric's mean over documents, with its interval.

In: predictions in the order of the gold documents. Out: `Evaluation`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from irr.labels import LabelSet
from irr.metrics import METRICS, Score, mean_score
from irr.program import InferRetrieveRank
from irr.types import Document, Prediction

__all__ = ["Evaluation", "evaluate", "score_predictions"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores by metric name; `documents` read, `failed` of them without a prediction.

    `unknown` counts gold labels that are not in the label set: they stay in the gold, where
    nothing can find them. `failure` is the message of the first that failed.
    """

    scores: dict[str, Score]
    documents: int
    failed: int
    unknown: dict[str, int]
    calls: int = 0
    failure: str | None = None


def evaluate(
    program: InferRetrieveRank,
    gold: Sequence[Document],
    metrics: Sequence[tuple[str, int]],
    *,
    progress: Callable[[Prediction], None] = lambda _: None,
) -> Evaluation:
    """Predict every document once and score the predictions."""
    depth = max((k for _, k in metrics), default=1)
    predictions = program.predict_many(gold, top_k=depth)
    return score_predictions(predictions, gold, program.labels, metrics, progress=progress)


def score_predictions(
    predictions: Iterable[Prediction],
    gold: Sequence[Document],
    labels: LabelSet,
    metrics: Sequence[tuple[str, int]],
    *,
    progress: Callable[[Prediction], None] = lambda _: None,
) -> Evaluation:
    """Score predictions, one a gold document in the same order.

    A prediction that failed scores 0. Documents without gold labels are left out of the means.
    A gold name that several labels have stands for the one of them that is predicted first.
    """
    unknown: Counter[str] = Counter()
    wanted = [_Wanted(document, labels, unknown) for document in gold]
    columns: dict[str, list[float | None]] = {f"{name}@{k}": [] for name, k in metrics}
    failed = calls = 0
    failure = None
    for prediction, want in zip(predictions, wanted, strict=True):
        found = want.named(labels.find(label.id) for label in prediction.labels)
        failed += prediction.status != "ok"
        calls += prediction.usage.calls
        failure = failure or (prediction.error[1] if prediction.error else None)
        for name, k in metrics:
            columns[f"{name}@{k}"].append(METRICS[name](found, want.names, k))
        progress(prediction)
    scores = {name: mean_score(column) for name, column in columns.items()}
    return Evaluation(scores, len(gold), failed, dict(unknown), calls, failure)


class _Wanted:
    """The gold of a document: its names, and which of them each label answers."""

    def __init__(self, document: Document, labels: LabelSet, unknown: Counter[str]) -> None:
        self._name_of: dict[int, str] = {}
        self.names: set[str] = set()
        for name in document.gold or ():
            positions = labels.find_all(name)
            if not positions:
                unknown[name] += 1
            # A label that is named twice, by id and by name, is wanted once.
            known = next((self._name_of[p] for p in positions if p in self._name_of), name)
            self.names.add(known)
            for position in positions:
                self._name_of.setdefault(position, known)

    def named(self, positions: Iterable[int | None]) -> list[object]:
        """A ranking of positions with each that is wanted replaced by the gold name."""
        return [self._name_of.get(p, ("not wanted", p)) for p in positions if p is not None]
