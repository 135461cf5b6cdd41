"""Names of metrics: text such as "RP@5, MRR, microF1>0.5" → `MetricSpec`s.

A name is a metric and a cut: `@K` the first K labels, `>T` labels with a score above T, neither
the whole ranking as it was predicted. Case does not matter. `_CUTS` says which takes which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from irr.errors import ConfigurationError
from irr.metrics.corpus import CORPUS_METRICS
from irr.metrics.documents import DOCUMENT_METRICS, METRICS
from irr.metrics.hierarchical import HIERARCHICAL_METRICS, POOLED_HIERARCHICAL_METRICS
from irr.metrics.judged import WHOLE, Cut

__all__ = ["ANNIF_NAMES", "MetricSpec", "parse_metrics", "parse_specs"]

_ALL = ("@", ">", "")
_NAMES = (
    *DOCUMENT_METRICS,
    *CORPUS_METRICS,
    *HIERARCHICAL_METRICS,
    *POOLED_HIERARCHICAL_METRICS,
)
_CUTS: dict[str, tuple[str, ...]] = dict.fromkeys(_NAMES, _ALL) | {
    "RP": ("@",),
    "P": ("@",),
    "hit": ("@",),
    "nDCG": ("@", ""),
    "MRR": ("@", ""),
    "RPREC": ("",),
    "PSP": ("@",),
    "PSnDCG": ("@",),
}
_FAMILIES = {family.lower(): family for family in _CUTS}
_EXAMPLES = {"@": "@5", ">": ">0.5", "": ""}

# Annif's names (annif/eval.py; spelt as in its --metrics-file) for the same numbers. They agree
# where every document has gold, which Annif counts as 0 (nDCG: 1) and we leave out, and every
# label is suggested with a score above 0, as Annif drops the rest. Of a vocabulary of subjects,
# its "subj avg" counts those that never occur as 0; it has no equal here. NDCG, NDCG@K and F1@K
# are spelt alike.
ANNIF_NAMES = {
    "Precision_doc_avg": "setP",
    "Recall_doc_avg": "R",
    "F1_score_doc_avg": "F1",
    "Precision_microavg": "microP",
    "Recall_microavg": "microR",
    "F1_score_microavg": "microF1",
    "Recall_weighted_subj_avg": "microR",
    "Precision": "setP",
}
_ANNIF = {name.lower(): family for name, family in ANNIF_NAMES.items()}


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric with its cut. `metric` is a name without cut, such as "nDCG"."""

    metric: str
    cut: Cut = WHOLE

    @property
    def name(self) -> str:
        """As it is written: "nDCG@10", "microF1>0.5", "MRR"."""
        if self.cut.by_score:
            return f"{self.metric}>{repr(self.cut.above).removesuffix('.0')}"
        return self.metric if self.k is None else f"{self.metric}@{self.k}"

    @property
    def k(self) -> int | None:
        """How many labels of a ranking are looked at; None where all are."""
        return None if self.cut.k == WHOLE.k else self.cut.k


def parse_specs(text: str) -> list[MetricSpec]:
    """Read names, with commas between them, in their order.

    >>> [spec.name for spec in parse_specs("RP@5, ndcg@10, MRR, microF1>0.5, F1_score_doc_avg")]
    ['RP@5', 'nDCG@10', 'MRR', 'microF1>0.5', 'F1']

    Raises:
        ConfigurationError: a name that is no metric, or with a cut that it does not take.
    """
    return [_parse(name.strip()) for name in text.split(",")]


def parse_metrics(text: str) -> list[tuple[str, int]]:
    """Read names such as "RP@5,R@50" into (metric, k) pairs, the metrics being those of METRICS.

    >>> parse_metrics("RP@5, r@50")
    [('RP', 5), ('R', 50)]

    Raises:
        ConfigurationError: a name that is no metric of a document at a k.
    """
    pairs = []
    for spec in parse_specs(text):
        if spec.metric not in METRICS or spec.k is None:
            known = ", ".join(f"{metric}@K" for metric in METRICS)
            raise ConfigurationError(
                f"unknown metric {spec.name!r} here, where a document is scored at a cut: "
                f"known are {known}"
            )
        pairs.append((spec.metric, spec.k))
    return pairs


def _parse(name: str) -> MetricSpec:
    plain = name.translate(str.maketrans(" ", "_", "()"))
    match = re.fullmatch(r"([A-Za-z_]\w*)(?:(@)([1-9]\d{0,5})|(>)(\d*\.?\d+))?", plain)
    family = match and _family(match[1])
    if not match or not family:
        raise ConfigurationError(_unknown(name, plain))
    kind = match[2] or match[4] or ""
    if kind not in _CUTS[family]:
        forms = " or ".join(family + _EXAMPLES[cut] for cut in _CUTS[family])
        raise ConfigurationError(f"unknown metric {name!r}: it is written {forms}")
    if kind == "@":
        return MetricSpec(family, Cut(int(match[3])))
    return MetricSpec(family, Cut(above=float(match[5])) if kind else WHOLE)


def _family(word: str) -> str | None:
    return _FAMILIES.get(word.lower()) or _ANNIF.get(word.lower())


def _unknown(name: str, plain: str) -> str:
    word, cut = re.fullmatch(r"([^@>]*)(.*)", plain, re.DOTALL).groups()  # type: ignore[union-attr]
    if _family(word):
        return f"unknown metric {name!r}: after @ comes a whole number from 1, after > a number"
    near = get_close_matches(word.lower(), [*_FAMILIES, *_ANNIF], n=1)
    # Only what can be typed as it stands is suggested.
    hint = f" (did you mean {_family(near[0])}{cut}?)" if near else ""
    known = ", ".join(f"{family}{_shape(cuts)}" for family, cuts in _CUTS.items())
    return f"unknown metric {name!r}{hint}: known are {known}"


def _shape(cuts: tuple[str, ...]) -> str:
    """ "@K", or with brackets where the metric also stands without."""
    shown = "|".join({"@": "@K", ">": ">T"}[cut] for cut in cuts if cut)
    return f"[{shown}]" if shown and "" in cuts else shown
