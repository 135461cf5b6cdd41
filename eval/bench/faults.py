"""A run against a server that fails in every way: are all rows there, and right?

In:  generated documents, a server in a process of its own (`stub_server.py`) of which a share of
     attempts fails: 429 and 503 with Retry-After, 500, resets, replies that never come, bodies that
     break off or are no JSON, no choices, replies that are cut off or not what was asked for.
     Which attempts fail follows from the prompt, so that a run without faults can be compared.
Out: rows, how many are ok, how many ok rows differ from those of a run without faults, how many of
     those say so in their notes, retries that came before Retry-After had passed.

    python eval/bench/faults.py [--documents 10000] [--fail 0.3] [--in-flight 64] [--timeout 2]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.kill import LABELS, write_documents
from bench.stub import Stub, stub_server
from reporting import emit, parser, run, show_machine


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=10_000)
    options.add_argument("--fail", type=float, default=0.3)
    options.add_argument("--latency", type=float, default=0.05)
    options.add_argument("--in-flight", type=int, default=64)
    options.add_argument("--timeout", type=float, default=2.0, help="seconds before a hang is one")
    options.add_argument("--seed", type=int, default=0)
    return run(measure, options.parse_args())


def measure(options: argparse.Namespace) -> int:
    machine = show_machine(options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "labels.txt").write_text(LABELS)
        write_documents(folder / "in.jsonl", options.documents, random.Random(options.seed))
        with stub_server(latency=options.latency) as stub:
            expected, _, smooth = predict(folder, "smooth", stub, options)
        with stub_server(latency=options.latency, fail=options.fail, seed=options.seed) as stub:
            found, status, rough = predict(folder, "rough", stub, options)
            stats = stub.stats()
    ok = [row for row in found.values() if row["status"] == "ok"]
    differing = [row for row in ok if labels(row) != labels(expected[row["id"]])]
    result = {
        "documents": options.documents,
        "rows": len(found),
        "ok": len(ok),
        "errors": len(found) - len(ok),
        "ok but other labels": len(differing),
        "of these without a note": sum(not row.get("notes") for row in differing),
        "retries before Retry-After": stats["early_retries"],
        "exit status": status,
        "seconds": round(rough, 1),
        "seconds without faults": round(smooth, 1),
        **{f"server: {kind}": count for kind, count in sorted(stats["counts"].items())},
    }
    rows = [[name, str(value)] for name, value in result.items()]
    emit({"machine": machine, **result}, [(["", ""], rows)], options)
    whole = found.keys() == expected.keys()
    return (
        0 if whole and not result["of these without a note"] and not stats["early_retries"] else 1
    )


def predict(
    folder: Path, name: str, stub: Stub, options: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], int, float]:
    """(rows by id, exit status, seconds) of the real command."""
    command = [
        sys.executable, "-m", "irr.predict",
        "--labels", "labels.txt", "--input", "in.jsonl", "--output", f"{name}.jsonl",
        "--lm", "stub", "--api-base", stub.url, "--in-flight", str(options.in_flight),
        "--timeout", str(options.timeout), "--max-error-rate", "1",
    ]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, check=False)
    seconds = time.monotonic() - started
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == len(rows), "an id came twice"
    return by_id, done.returncode, seconds


def labels(row: dict[str, Any]) -> list[tuple[str, bool | None]]:
    return [(label["id"], label.get("picked")) for label in row["labels"]]


if __name__ == "__main__":
    sys.exit(main())
