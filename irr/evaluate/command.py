"""The command line of `evaluate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from irr.cli import SOME_FAILED, Parser, run_command
from irr.options import add_program_options

if TYPE_CHECKING:
    from irr.evaluate.scoring import Evaluation

__all__ = ["main"]

DEFAULT_METRICS = "RP@5,RP@10,RP@50"


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
    from irr.evaluate.scoring import evaluate
    from irr.metrics import parse_metrics
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
