"""Metrics: rankings and gold → scores with intervals.

Comes in: for each document its ranking (labels, best first), where wanted the labels' scores, and
its gold labels, all as ids or positions. Goes out: a `Score` for each metric asked for.

One rule for all metrics. A label that a ranking repeats counts once, at its first place: later
copies are removed before the first k are taken. Repeated gold is one label. A document without
gold has no score: it is left out of every metric, and counted. A ranking shorter than k is not
padded: what is missing was not found.

- `documents`: a number for each document, averaged (RP@k, P@k, nDCG@k, MRR ...);
- `corpus`: a number for all documents together (micro and macro F1, propensities, coverage);
- `hierarchical`: both kinds, in which ancestors count (hP@k, hR@k, hF@k, microhF@k);
- `names`: text such as "RP@5, microF1>0.5" → `MetricSpec`s;
- `intervals`: means, ratios and paired differences with intervals;
- `scorer`: all of it in one pass over the documents.
"""

from __future__ import annotations

from irr.metrics.corpus import CORPUS_METRICS, Band, Counts, LabelTally, Propensities
from irr.metrics.documents import (
    DOCUMENT_METRICS,
    METRICS,
    Metric,
    precision_at_k,
    recall_at_k,
    rp_at_k,
)
from irr.metrics.hierarchical import HIERARCHICAL_METRICS, POOLED_HIERARCHICAL_METRICS, Above
from irr.metrics.intervals import (
    RESAMPLES,
    Score,
    mean_score,
    paired_difference,
    ratio_score,
)
from irr.metrics.judged import Cut, Judged, judge
from irr.metrics.names import ANNIF_NAMES, MetricSpec, parse_metrics, parse_specs
from irr.metrics.scorer import Scorer

__all__ = [
    "ANNIF_NAMES",
    "CORPUS_METRICS",
    "DOCUMENT_METRICS",
    "HIERARCHICAL_METRICS",
    "METRICS",
    "POOLED_HIERARCHICAL_METRICS",
    "RESAMPLES",
    "Above",
    "Band",
    "Counts",
    "Cut",
    "Judged",
    "LabelTally",
    "Metric",
    "MetricSpec",
    "Propensities",
    "Score",
    "Scorer",
    "judge",
    "mean_score",
    "paired_difference",
    "parse_metrics",
    "parse_specs",
    "precision_at_k",
    "ratio_score",
    "recall_at_k",
    "rp_at_k",
]
