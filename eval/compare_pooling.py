"""How the pooling of queries changes retrieval without an LM, on any file of gold.

In:  a label set and documents with labels. The queries are the text's own phrases in every row.
Out: RP@5, RP@10 and RP@50 with bootstrap intervals of our default; of the maximum over queries (the
     published system's pooling); of the maximum and of log-mean-exp (τ = 0.125), both minus
     0.3 · hub.

    python eval/compare_pooling.py --labels DIR/labels.jsonl --input DIR/notes.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from reporting import cell, emit, in_percent, parser, run

from irr.documents import read_gold
from irr.encoder import load_encoder
from irr.evaluate.predictions import from_predictions
from irr.evaluate.scoring import Evaluation, resolve_gold, score_predictions
from irr.index import open_index
from irr.labels import LabelSet
from irr.metrics import parse_specs
from irr.phrases import phrases
from irr.retrieve import Retriever, RetrieveSettings
from irr.types import Document, Prediction, ScoredLabel

DEPTHS = (5, 10, 50)
METRICS = parse_specs(",".join(f"RP@{k}" for k in DEPTHS))
_PLAIN = {"candidates": max(DEPTHS), "vague_weight": 0.0, "clause_weight": 0.0}
# Guesses are pooled by their maximum, so queries given as guesses are: True in the second place.
ROWS = {
    "default": (RetrieveSettings(candidates=max(DEPTHS)), False),
    "max": (RetrieveSettings(**_PLAIN, hub_weight=0.0), True),
    "max - 0.3 hub": (RetrieveSettings(**_PLAIN, hub_weight=0.3), True),
    "log-mean-exp - 0.3 hub": (
        RetrieveSettings(**_PLAIN, hub_weight=0.3, temperature=0.125),
        False,
    ),
}


def score(
    retriever: Retriever, labels: LabelSet, gold: Sequence[Document], *, as_guesses: bool
) -> Evaluation:
    """How well `retriever` finds the labels of `gold` by the phrases of the texts."""
    own = [phrases(document.text) for document in gold]
    found = retriever.retrieve_many(
        [(None, text.queries) if as_guesses else (text, ()) for text in own]
    )
    predictions = []
    for document, candidates in zip(gold, found, strict=True):
        named = ((labels[c.position], c) for c in candidates)
        scored = tuple(ScoredLabel(x.id, x.name, c.score, c.evidence) for x, c in named)
        predictions.append(Prediction(document.id, "ok", scored))
    resolved, _ = resolve_gold(gold, labels)
    rows = from_predictions(predictions, labels)
    return score_predictions("pooling", rows, resolved, METRICS)


def compare(options: argparse.Namespace) -> int:
    gold = list(read_gold(options.input))
    labels = LabelSet.read(options.labels)
    encoder = load_encoder()
    index = open_index(labels, encoder)
    rows = {
        name: score(Retriever(encoder, index, settings), labels, gold, as_guesses=as_guesses)
        for name, (settings, as_guesses) in ROWS.items()
    }
    header = ["pooling", *(f"RP@{k}" for k in DEPTHS)]
    table = [[name, *map(cell, row.scores.values())] for name, row in rows.items()]
    own = rows["default"]
    result = {
        "labels": len(labels),
        "documents": own.documents,
        "unknown_gold": sum(resolve_gold(gold, labels)[1].values()),
        "rows": {
            name: {metric: in_percent(s) for metric, s in row.scores.items()}
            for name, row in rows.items()
        },
    }
    emit(result, [(header, table)], options)
    if not options.json:
        print(f"{len(labels):,} labels, {own.documents:,} documents; mean (95% interval)")
        if own.unknown:
            print(f"{sum(own.unknown.values()):,} gold labels are not in the label set")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--labels", required=True, metavar="FILE", help="the label set")
    made.add_argument("--input", required=True, metavar="GOLD", help="documents with labels")
    return run(compare, made.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
