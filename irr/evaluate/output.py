"""What `evaluate` writes: the folder of a report, the table for people, the exit status.

In: the report's dictionary and the evaluations. Out: metrics.json and report.html; standard output.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irr.cli import SOME_FAILED
from irr.errors import OutputError

if TYPE_CHECKING:
    from irr.evaluate.scoring import Evaluation

__all__ = ["made_with", "output_folder", "print_report", "status_of", "write_folder"]


def output_folder(arguments: argparse.Namespace) -> Path | None:
    """--output as a folder that is there; None where nothing is to be written."""
    if arguments.output is None:
        return None
    folder = Path(arguments.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from error
    return folder


def made_with(arguments: argparse.Namespace) -> dict[str, str]:
    """How a report was made: version, date in UTC, command line."""
    from irr import __version__

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        "irr": __version__,
        "date": today,
        "command": arguments.command.encode("utf-8", "replace").decode(),
    }


def write_folder(folder: Path, report: dict[str, Any]) -> None:
    """Write the report for programs and for people: metrics.json and report.html."""
    from irr.cache import write_atomic
    from irr.evaluate.page import page

    try:
        text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
        write_atomic(folder / "metrics.json", text.encode("utf-8", "replace"))
        write_atomic(folder / "report.html", page(report).encode("utf-8", "replace"))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def print_report(
    arguments: argparse.Namespace,
    report: dict[str, Any],
    folder: Path | None,
) -> None:
    """Print one JSON object, or a table of scores and what else is to be known."""
    if arguments.json:
        first = report["programs"][0]
        row = {"metrics": first["metrics"], "documents": report["documents"]}
        sys.stdout.write(json.dumps({**row, "report": report}, ensure_ascii=False) + "\n")
        return
    from irr.show import print_table

    names = [program["name"] for program in report["programs"]]
    header = ["metric", *(cell for name in names for cell in (name, "95% interval"))]
    rows = []
    for metric in report["programs"][0]["metrics"]:
        cells = [_cells(program["metrics"][metric]) for program in report["programs"]]
        rows.append([metric, *(cell for pair in cells for cell in pair)])
    print_table(sys.stdout, header, rows)
    for line in _sentences(report):
        sys.stdout.write(line + "\n")
    if folder is not None:
        sys.stdout.write(f"wrote {folder / 'report.html'}\n")


def _cells(bounds: dict[str, float | None]) -> tuple[str, str]:
    if bounds["mean"] is None:
        return "-", "-"
    if bounds["low"] is None or bounds["high"] is None:
        return f"{bounds['mean']:.1f}", "-"
    return f"{bounds['mean']:.1f}", f"{bounds['low']:.1f} to {bounds['high']:.1f}"


def _sentences(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{report['documents']:,} documents, {report['without_gold']:,} without labels, "
        f"{sum(program['failed'] for program in report['programs']):,} failed"
    )
    for program in report["programs"]:
        stages = program["stages"]
        if stages["gold"] and stages["retrieved"] is not None:
            among, top = (100 * stages[s] / stages["gold"] for s in ("retrieved", "top_k"))
            yield (
                f"{program['name']}: of 100 gold labels {among:.0f} were among the candidates, "
                f"{top:.0f} in the top {stages['k']}"
            )
    for row in report["differences"]:
        if row["metric"].endswith("@10") and row["mean"] is not None:
            yield (
                f"{row['a']} minus {row['b']}, {row['metric']}: {row['mean']:+.1f} "
                f"({row['low']:+.1f} to {row['high']:+.1f})"
            )
    for row in report["published"]:
        scores = ", ".join(f"{key} {row[key]}" for key in row if "@" in key and row[key] != "-")
        yield f"published ({row['split']}): {row['system']}: {scores}"
    unknown = report["unknown_gold"]
    if unknown:
        some = ", ".join(repr(name) for name in list(unknown)[:3])
        yield f"{sum(unknown.values()):,} gold labels are not in the label set, such as {some}"
    for program in report["programs"]:
        if program["unknown_predicted"]:
            count = program["unknown_predicted"]
            yield f"{program['name']}: {count:,} predicted labels are not in the label set: wrong"


def status_of(evaluations: Sequence[Evaluation]) -> int:
    """The exit status; documents that failed are told on standard error."""
    status = 0
    for evaluation in evaluations:
        if evaluation.failed:
            what = " ".join((evaluation.failure or "").split())
            sys.stderr.write(
                f"irr: {evaluation.name}: {evaluation.failed:,} failed, the first: {what}\n"
            )
            status = SOME_FAILED
    return status
