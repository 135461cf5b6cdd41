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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from irr.cli import SOME_FAILED, Parser, run_command
from irr.errors import ConfigurationError
from irr.options import add_program_options
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
    nothing can find them. `failure` is the message of the first that failed.
    """

    scores: dict[str, Score]
    documents: int
    failed: int
    unknown: dict[str, int]
    calls: int = 0
    failure: str | None = None


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
    from irr.metrics import METRICS, mean_score

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
    from irr.documents import read_gold
    from irr.options import program_from
    from irr.program import InferRetrieveRank
    from irr.show import RunProgress

    metrics = parse_metrics(arguments.metrics)
    gold = list(read_gold(arguments.input))
    program = program_from(arguments, depth=max(k for _, k in metrics))
    with RunProgress(shown=True) as shown:
        results = {"program": evaluate(program, gold, metrics, progress=shown.add)}
    if program.infer is not None or program.rank is not None:
        without = InferRetrieveRank(program.labels, program.retriever)
        results["no LM"] = evaluate(without, gold, metrics)
    if arguments.json:
        sys.stdout.write(json.dumps(_as_json(results), ensure_ascii=False) + "\n")
    else:
        _print(results)
    if results["program"].failed:
        sys.stderr.write(f"irr: the first that failed: {results['program'].failure}\n")
        return SOME_FAILED
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
