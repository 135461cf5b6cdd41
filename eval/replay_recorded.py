"""The queries of the published system's recorded run through our Retrieve, without Rank.

In:  a label set, and the recorded run: a JSON list of {"text", "label" (gold), "queries" (what the
     published system's Llama-2 inferred), "predictions" (its 50 candidates after GPT-4 ranked
     them), "documents" (what GPT-4 answered)}.
Out: RP@5, RP@10 and RP@50 with bootstrap intervals on the same documents, of our Retrieve with the
     recorded queries as guesses and of the recorded run; and the paired differences.

The recorded run keeps only the order after GPT-4: GPT-4's valid picks, best first, then the other
candidates in the order of retrieval. Where the picks stood before is not in the file, and the
published encoder's scores are not either, so of the order before GPT-4 only what follows from the
file is printed: the lowest and the highest RP@k that any place of the picks gives. RP@50 does not
depend on the order.

    python eval/prepare_esco.py --source RAW_DIR --output DIR
    python eval/replay_recorded.py --labels DIR/labels.jsonl \\
        --recorded RAW_DIR/tech_validation_recorded_run.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reporting import cell, emit, in_percent, parser, run

from irr.encoder import load_encoder
from irr.errors import InputError
from irr.index import open_index
from irr.labels import LabelSet
from irr.metrics import Score, mean_score, rp_at_k
from irr.phrases import phrases
from irr.retrieve import Retriever, RetrieveSettings

DEPTHS = (5, 10, 50)
CANDIDATES = 50
OURS = "guesses + phrases"
RECORDED = "recorded, after GPT-4"


@dataclass(frozen=True)
class Record:
    """One document of the recorded run; `picked` says how many of `ranking` GPT-4 named."""

    text: str
    gold: frozenset[str]
    queries: tuple[str, ...]
    ranking: tuple[str, ...]
    picked: int


def read_records(path: Path) -> list[Record]:
    """The recorded run.

    Raises:
        InputError: the file is not such a run; names the document, from 1.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path=path) from None
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", path=path) from None
    except ValueError as problem:
        raise InputError(f"is not JSON: {problem}", path=path) from None
    if not isinstance(rows, list) or not rows:
        raise InputError("must be a JSON list of documents, not empty", path=path)
    return [_record(row, number, path) for number, row in enumerate(rows, start=1)]


def _record(row: object, number: int, path: Path) -> Record:
    lists = ("label", "queries", "predictions", "documents")
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError(f"document {number} has no text", path=path)
    for key in lists:
        if not isinstance(row.get(key), list) or not all(isinstance(x, str) for x in row[key]):
            raise InputError(f"{key!r} of document {number} is no list of strings", path=path)
    ranking = tuple(dict.fromkeys(row["predictions"]))
    valid = dict.fromkeys(name for name in row["documents"] if name in set(ranking))
    if tuple(valid) != ranking[: len(valid)]:
        message = f"the predictions of document {number} do not begin with what GPT-4 picked"
        raise InputError(message, path=path)
    queries = tuple(row["queries"])
    return Record(row["text"], frozenset(row["label"]), queries, ranking, len(valid))


def bounds_before_rank(record: Record, k: int) -> tuple[float | None, float | None]:
    """The lowest and highest RP@k of any order in which the candidates not picked keep theirs.

    With j picks among the first k, the rest of the k are the first k − j candidates not picked;
    any j of the picks may be those.

    >>> record = Record("", frozenset("ad"), (), tuple("abcd"), 2)
    >>> bounds_before_rank(record, 1), bounds_before_rank(record, 4)
    ((0.0, 1.0), (1.0, 1.0))
    """
    if not record.gold:
        return None, None
    picks, rest = record.ranking[: record.picked], record.ranking[record.picked :]
    right = sum(name in record.gold for name in picks)
    depth = min(k, len(record.ranking))
    hits = []
    for among in range(max(0, depth - len(rest)), min(depth, len(picks)) + 1):
        below = sum(name in record.gold for name in rest[: depth - among])
        hits.append(below + max(0, among - (len(picks) - right)))
        hits.append(below + min(among, right))
    room = min(k, len(record.gold))
    return min(hits) / room, max(hits) / room


def retrieved(records: Sequence[Record], labels: LabelSet) -> dict[str, list[list[str]]]:
    """Our rankings, as names, by what the queries are."""
    encoder = load_encoder()
    index = open_index(labels, encoder)
    retriever = Retriever(encoder, index, RetrieveSettings(candidates=CANDIDATES))
    own = [phrases(record.text) for record in records]
    asked = {
        OURS: [(text, r.queries) for text, r in zip(own, records, strict=True)],
        "guesses only": [(None, record.queries) for record in records],
        "phrases only": [(text, ()) for text in own],
    }
    return {
        name: [[labels[c.position].name for c in found] for found in retriever.retrieve_many(query)]
        for name, query in asked.items()
    }


def scores(rankings: Sequence[Sequence[str]], records: Sequence[Record], k: int) -> list[float]:
    """RP@k of each document that has gold."""
    found = (rp_at_k(names, r.gold, k) for names, r in zip(rankings, records, strict=True))
    return [score for score in found if score is not None]


def replay(options: argparse.Namespace) -> int:
    records = read_records(options.recorded)
    if not any(record.gold for record in records):
        raise InputError("no document has a gold label", path=options.recorded)
    labels = LabelSet.read(options.labels)
    rankings = retrieved(records, labels)
    rankings[RECORDED] = [list(record.ranking) for record in records]
    each = {
        name: {k: scores(ranking, records, k) for k in DEPTHS} for name, ranking in rankings.items()
    }
    means = {name: {k: mean_score(by_k[k]) for k in DEPTHS} for name, by_k in each.items()}
    gains = {
        name: {k: mean_score(_minus(each[name][k], each[RECORDED][k])) for k in DEPTHS}
        for name in each
        if name != RECORDED
    }
    before = {k: [bounds_before_rank(record, k) for record in records] for k in DEPTHS}
    span = {
        k: tuple(mean_score([pair[side] for pair in before[k]]) for side in (0, 1)) for k in DEPTHS
    }
    header = ["", *(f"RP@{k}" for k in DEPTHS)]
    table = [[name, *map(cell, row.values())] for name, row in means.items()]
    table.append(["recorded, before GPT-4", *(_span(*span[k]) for k in DEPTHS)])
    paired = [[name, *(cell(s, signed=True) for s in row.values())] for name, row in gains.items()]
    result = {
        "documents": len(records),
        "rows": {name: _as_json(row) for name, row in means.items()},
        "minus_recorded_after_rank": {name: _as_json(row) for name, row in gains.items()},
        "recorded_before_rank": {
            f"RP@{k}": [in_percent(side)["mean"] for side in span[k]] for k in DEPTHS
        },
    }
    paired_header = ["minus recorded after GPT-4", *header[1:]]
    emit(result, [(header, table), (paired_header, paired)], options)
    if not options.json:
        print(f"\n{len(records)} documents; mean (95% interval); before GPT-4: lowest to highest")
        print("that the file allows, since it does not tell where GPT-4's picks stood.")
    return 0


def _minus(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def _span(low: Score, high: Score) -> str:
    if low.mean is None or high.mean is None:
        return "-"
    if low.mean == high.mean:
        return cell(low)
    return f"{100 * low.mean:.1f} … {100 * high.mean:.1f}"


def _as_json(row: dict[int, Score]) -> dict[str, object]:
    return {f"RP@{k}": in_percent(score) for k, score in row.items()}


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--labels", required=True, metavar="FILE", help="the label set")
    made.add_argument(
        "--recorded", type=Path, required=True, metavar="FILE", help="the recorded run, JSON"
    )
    return run(replay, made.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
