"""The report: evaluations side by side → one dictionary, for JSON, the terminal and the page.

All scores are in percent. What is not known is absent or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from irr.evaluate.scoring import DEPTHS, STAGES, Evaluation
from irr.labels import LabelSet
from irr.metrics import Score, mean_score, paired_difference

__all__ = ["build_report"]

_MOST_LABELS = 50


def build_report(
    evaluations: Sequence[Evaluation],
    labels: LabelSet,
    *,
    title: str,
    unknown_gold: dict[str, int],
    made: dict[str, str],
    published: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The report of programs on the same documents; the first is the one that is asked about."""
    first = evaluations[0]
    return {
        "title": title,
        "made": made,
        "documents": first.documents,
        "without_gold": first.without_gold,
        "unknown_gold": unknown_gold,
        "labels": len(labels),
        "programs": [_program(evaluation) for evaluation in evaluations],
        "differences": [
            _difference(first, other, metric)
            for other in evaluations[1:]
            for metric in first.columns
        ],
        "published": list(published),
    }


def _program(evaluation: Evaluation) -> dict[str, Any]:
    usage = evaluation.usage
    return {
        "name": evaluation.name,
        "failed": evaluation.failed,
        "calls": usage.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost": None,
        "metrics": {name: _percent(score) for name, score in evaluation.scores.items()},
        "stages": _stages(evaluation),
        "recall_by_candidates": _recall(evaluation),
        "bands": [
            {"band": band, "gold": counts[0], "recall": _share(counts[1], counts[0])}
            for band, counts in sorted(evaluation.bands.items())
        ],
        "calibration": [
            {
                "from": low,
                "to": round(low + 0.1, 1),
                "predictions": counts[0],
                "correct": _share(counts[1], counts[0]),
            }
            for low, counts in sorted(evaluation.bins.items())
        ],
        "lost": {
            stage: [{"label": n, "count": c} for n, c in counts.most_common(_MOST_LABELS)]
            for stage, counts in evaluation.lost.items()
        },
        "lost_documents": [
            {
                "id": lost.document.id,
                "text": lost.document.text[:500],
                "missed": list(lost.missed),
                "stage": lost.stage,
            }
            for lost in evaluation.lost_documents
        ],
        "lost_totals": {
            stage: {"labels": len(counts), "documents": evaluation.lost_counts[stage]}
            for stage, counts in evaluation.lost.items()
        },
        "unknown_predicted": sum(evaluation.unknown_predicted.values()),
    }


def _stages(evaluation: Evaluation) -> dict[str, Any]:
    row: dict[str, Any] = {"gold": evaluation.gold, "k": evaluation.k}
    for stage in STAGES:
        row[stage] = evaluation.stages[stage] if stage in evaluation.known else None
    if evaluation.perfect:
        perfect = mean_score(evaluation.perfect, resamples=1).mean
        if perfect is not None:
            row["perfect_rank"] = {f"RP@{evaluation.k}": round(100 * perfect, 2)}
    return row


def _recall(evaluation: Evaluation) -> list[list[float]]:
    if not evaluation.recall or not evaluation.gold:
        return []
    depths = [depth for depth in DEPTHS if depth <= evaluation.deepest]
    return [[d, round(100 * evaluation.recall[d] / evaluation.gold, 2)] for d in depths]


def _difference(first: Evaluation, other: Evaluation, metric: str) -> dict[str, Any]:
    score = paired_difference(_column(first, metric), _column(other, metric))
    return {"a": first.name, "b": other.name, "metric": metric, **_percent(score)}


def _column(evaluation: Evaluation, metric: str) -> np.ndarray:
    column = evaluation.columns[metric]
    return np.array([np.nan if score is None else score for score in column])


def _percent(score: Score) -> dict[str, float | None]:
    bounds = (("mean", score.mean), ("low", score.low), ("high", score.high))
    return {name: None if value is None else round(100 * value, 2) for name, value in bounds}


def _share(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None
