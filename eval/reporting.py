"""What the scripts of this folder share: scores as cells, one table or one JSON object, errors.

In: `Score`s and rows. Out: standard output that a person reads, or with --json a program.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from irr.errors import IrrError
from irr.metrics import Score
from irr.show import print_table

PACKAGES = (
    *("numpy", "onnxruntime", "faiss-cpu", "torch", "sentence-transformers", "dspy"),
    *("aiohttp", "irr"),
)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser described by the first line of the script's docstring, with --json."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    return made


def run(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Runs the command; a foreseen failure is one line and an exit status."""
    try:
        return command(options)
    except IrrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def emit(
    result: dict[str, object],
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]],
    options: argparse.Namespace,
) -> None:
    """Prints `result` as JSON, or the (header, rows) tables with a blank line between them."""
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    for number, (header, rows) in enumerate(tables):
        if number:
            print()
        print_table(sys.stdout, header, rows)


def in_percent(score: Score) -> dict[str, float | None]:
    """Mean and bounds, times 100, to two decimals."""
    bounds = {"mean": score.mean, "low": score.low, "high": score.high}
    return {
        name: None if value is None else round(100 * value, 2) for name, value in bounds.items()
    }


def cell(score: Score, *, signed: bool = False) -> str:
    """The mean with its interval: "76.0 (67.6 to 83.6)"."""
    if score.mean is None or score.low is None or score.high is None:
        return "-"
    sign = "+" if signed else ""
    mean, low, high = (f"{100 * x:{sign}.1f}" for x in (score.mean, score.low, score.high))
    return f"{mean} ({low} to {high})"


def machine() -> dict[str, object]:
    """Where speed was measured: CPU, cores that this process may use, versions."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def show_machine(options: argparse.Namespace) -> dict[str, object]:
    """`machine()`, also printed as a header above a table."""
    found = machine()
    if not options.json:
        print(", ".join(f"{name} {value}" for name, value in found.items()) + "\n")
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "unknown")


def _version(package: str) -> str:
    if package == "irr":
        from irr import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
