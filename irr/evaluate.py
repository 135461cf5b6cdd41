"""The command `evaluate`: documents with known labels → how well a program finds them.

In: a program and gold. Out: each metric's mean over documents with its interval, of the program
and of the same retrieval without an LM, so that what the LM adds can be seen.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from irr.cli import Parser, add_program_options, run_command
from irr.errors import ConfigurationError
from irr.types import Document, Prediction

if TYPE_CHECKING:
    from irr.labels import LabelSet
    from irr.metrics import Score
    from irr.program import InferRetrieveRank

__all__ = ["Evaluation", "evaluate", "main", "parse_metrics", "score_predictions"]

DEFAULT_METRICS = "RP@5,RP@10,RP@50"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores by metric name; `documents` read, `failed` of them without a prediction.

    `unknown` counts gold labels that are not in the label set: they stay in the gold, where
    nothing can find them.
    """

    scores: dict[str, Score]
    documents: int
    failed: int
    unknown: dict[str, int]
    calls: int = 0


def parse_metrics(text: str) -> list[tuple[str, int]]:
    """Read names such as "RP@5,R@50" into (metric, k) pairs.

    >>> parse_metrics("RP@5, r@50")
    [('RP', 5), ('R', 50)]

    Raises:
        ConfigurationError: a name that is no metric.
    """
    from irr.metrics import METRICS

    pairs = []
    for name in text.split(","):
        match = re.fullmatch(r"([A-Za-z]+)@([1-9]\d{0,5})", name.strip())
        if match is None or match[1].upper() not in METRICS:
            known = ", ".join(f"{metric}@K" for metric in METRICS)
            raise ConfigurationError(f"unknown metric {name.strip()!r}: known are {known}")
        pairs.append((match[1].upper(), int(match[2])))
    return pairs


def evaluate(
    program: InferRetrieveRank, gold: Sequence[Document], metrics: Sequence[tuple[str, int]]
) -> Evaluation:
    """Predict every document once and score the predictions."""
    depth = max((k for _, k in metrics), default=1)
    return score_predictions(program.predict_many(gold, top_k=depth), gold, program.labels, metrics)


def score_predictions(
    predictions: Iterable[Prediction],
    gold: Sequence[Document],
    labels: LabelSet,
    metrics: Sequence[tuple[str, int]],
) -> Evaluation:
    """Score predictions, one a gold document in the same order.

    A prediction that failed scores 0. Documents without gold labels are left out of the means.
    """
    from irr.metrics import METRICS, mean_score

    unknown: Counter[str] = Counter()
    columns: dict[str, list[float | None]] = {f"{name}@{k}": [] for name, k in metrics}
    failed = calls = 0
    for prediction, document in zip(predictions, gold, strict=True):
        wanted = _positions(document, labels, unknown)
        found = [labels.find(label.id) for label in prediction.labels]
        failed += prediction.status != "ok"
        calls += prediction.usage.calls
        for name, k in metrics:
            columns[f"{name}@{k}"].append(METRICS[name](found, wanted, k))
    scores = {name: mean_score(column) for name, column in columns.items()}
    return Evaluation(scores, len(gold), failed, dict(unknown), calls)


def _positions(document: Document, labels: LabelSet, unknown: Counter[str]) -> set[int | str]:
    """The positions of a document's gold labels; of one that is unknown its name."""
    positions: set[int | str] = set()
    for name in document.gold or ():
        position = labels.find(name)
        if position is None:
            unknown[name] += 1
        positions.add(name if position is None else position)
    return positions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not (arguments.labels or arguments.program) or not arguments.input:
        parser.error("give --labels FILE or --program DIR, and --input GOLD (with labels)")
    return run_command(_evaluate, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="irr evaluate",
        description="Measure how well labels are found, on documents whose labels are known.",
        epilog="Beside an LM's scores stand those of the same retrieval without one.",
    )
    parser.add_argument("--input", metavar="GOLD", help="documents with labels: jsonl, csv, tsv")
    parser.add_argument(
        "--metrics",
        default=DEFAULT_METRICS,
        metavar="NAMES",
        help="RP@K, R@K (recall), P@K (precision), separated by commas (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_program_options(parser)
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    from irr.cli import program_from
    from irr.documents import read_gold
    from irr.program import InferRetrieveRank

    metrics = parse_metrics(arguments.metrics)
    gold = list(read_gold(arguments.input))
    program = program_from(arguments)
    results = {"program": evaluate(program, gold, metrics)}
    if program.infer is not None or program.rank is not None:
        without = InferRetrieveRank(program.labels, program.retriever)
        results["no LM"] = evaluate(without, gold, metrics)
    if arguments.json:
        sys.stdout.write(json.dumps(_as_json(results), ensure_ascii=False) + "\n")
    else:
        _print(results)
    return 0


def _as_json(results: dict[str, Evaluation]) -> dict[str, object]:
    own = results["program"]
    row: dict[str, object] = {
        "metrics": _in_percent(own),
        "documents": own.documents,
        "failed": own.failed,
        "unknown_gold": own.unknown,
        "calls": own.calls,
    }
    if "no LM" in results:
        row["baseline"] = {"metrics": _in_percent(results["no LM"])}
    return row


def _in_percent(evaluation: Evaluation) -> dict[str, dict[str, float | None]]:
    return {
        name: {
            bound: None if value is None else round(100 * value, 2)
            for bound, value in (("mean", score.mean), ("low", score.low), ("high", score.high))
        }
        for name, score in evaluation.scores.items()
    }


def _print(results: dict[str, Evaluation]) -> None:
    from irr.show import print_table

    own = results["program"]
    rows = []
    for name, bounds in _in_percent(own).items():
        row = [name, *_cells(bounds)]
        if "no LM" in results:
            row += _cells(_in_percent(results["no LM"])[name])
        rows.append(row)
    header = ["metric", "mean", "95% interval"]
    header += ["no LM", "95% interval"] if "no LM" in results else []
    print_table(sys.stdout, header, rows)
    scored = next(iter(own.scores.values())).documents
    sys.stdout.write(f"{own.documents:,} documents, {own.documents - scored:,} without labels")
    sys.stdout.write(f", {own.failed:,} failed\n")
    if own.unknown:
        some = ", ".join(repr(name) for name in list(own.unknown)[:3])
        count = sum(own.unknown.values())
        sys.stdout.write(f"{count:,} gold labels are not in the label set, such as {some}\n")


def _cells(bounds: dict[str, float | None]) -> list[str]:
    if bounds["mean"] is None:
        return ["-", "-"]
    return [f"{bounds['mean']:.1f}", f"{bounds['low']:.1f} to {bounds['high']:.1f}"]


if __name__ == "__main__":
    sys.exit(main())
