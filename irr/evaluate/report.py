"""The report: evaluations side by side → one dictionary, for JSON, the terminal and the page.

All scores are in percent. What is not known is absent or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from irr.evaluate.scoring import DEPTHS, STAGES, Evaluation
from irr.labels import LabelSet
from irr.metrics import Score, mean_score

__all__ = ["build_report", "difference"]

_MOST_LABELS = 50
_MOST_DOCUMENTS = 50


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
    scored = next(iter(first.columns.values()))
    return {
        "title": title,
        "made": made,
        "documents": first.documents,
        "without_gold": sum(score is None for score in scored),
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
            for lost in evaluation.lost_documents[:_MOST_DOCUMENTS]
        ],
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
    mean, low, high = difference(first.columns[metric], other.columns[metric])
    values = {"mean": mean, "low": low, "high": high}
    shown = {key: None if value is None else round(100 * value, 2) for key, value in values.items()}
    return {"a": first.name, "b": other.name, "metric": metric, **shown}


def difference(
    a: Sequence[float | None], b: Sequence[float | None], *, seed: int = 0, resamples: int = 2000
) -> tuple[float | None, float | None, float | None]:
    """Mean of the paired differences a − b with its 95% bootstrap interval, in [-1, 1].

    Pairs without a score are left out.
    """
    pairs = zip(a, b, strict=True)
    values = np.array([x - y for x, y in pairs if x is not None and y is not None])
    if not len(values):
        return None, None, None
    draw = np.random.default_rng(seed)
    means = [values[draw.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def _percent(score: Score) -> dict[str, float | None]:
    bounds = (("mean", score.mean), ("low", score.low), ("high", score.high))
    return {name: None if value is None else round(100 * value, 2) for name, value in bounds}


def _share(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None
