"""Predict on a Ray cluster with a worker killed in the middle: the rows of one machine, and when?

In:  generated documents, a server in a process of its own (`stub_server.py`), the real command.
     Three runs with LM calls and three without: on one machine; with --engine ray and two workers
     on this machine; the same, one worker's process ended by SIGKILL when about half of the
     rows are there.
Out: for each run the seconds, those of them before the first row was predicted, whether ids and
     bytes equal those of the first run, the calls that the server answered more than once, and
     beside them the requests that were in flight when the worker was killed.

    python eval/bench/cluster.py [--documents 20000] [--workers 2] [--in-flight 64] [--only lm none]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.kill import LABELS, write_documents
from bench.stub import Stub, stub_server
from reporting import emit, parser, run, show_machine

# How Ray names the processes of the workers.
_WORKER = b"ray::MapWorker(MapBatches(Worker))"


@dataclass(frozen=True)
class Found:
    """What became of one run."""

    lm: str
    way: str
    seconds: float
    seconds_to_first_row: float
    ids_equal: bool
    bytes_equal: bool
    killed: int
    answered_again: int
    in_flight_at_kill: int


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=20_000)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--in-flight", type=int, default=64, help="of each worker")
    options.add_argument("--latency", type=float, default=0.1)
    options.add_argument("--only", nargs="+", default=["lm", "none"], choices=["lm", "none"])
    return run(compare, options.parse_args())


def compare(options: argparse.Namespace) -> int:
    machine = {**show_machine(options), "ray": version("ray")}
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "labels.txt").write_text(LABELS)
        ids = write_documents(folder / "in.jsonl", options.documents, random.Random(0))
        for lm in options.only:
            for way in ("one machine", "ray", "ray, a worker killed"):
                # A server of its own for each run: it counts what was answered twice.
                with stub_server(latency=options.latency, jitter=0.5) as stub:
                    found.append(measure(folder, lm, way, ids, stub, options))
    rows = [
        [
            f"{each.lm}, {each.way}",
            f"{each.seconds:.0f}",
            f"{each.seconds_to_first_row:.0f}",
            "yes" if each.ids_equal else "NO",
            "yes" if each.bytes_equal else "NO",
            f"{each.answered_again} ({each.in_flight_at_kill} in flight)" if each.killed else "0",
        ]
        for each in found
    ]
    header = ["", "seconds", "to first row", "ids equal", "bytes equal", "answered again"]
    result = {"machine": machine, "runs": [asdict(each) for each in found]}
    emit(result, [(header, rows)], options)
    return 0 if all(map(is_good, found)) else 1


def is_good(each: Found) -> bool:
    again = each.answered_again <= each.in_flight_at_kill
    return each.ids_equal and each.bytes_equal and again and each.killed == ("killed" in each.way)


def measure(
    folder: Path, lm: str, way: str, ids: list[str], stub: Stub, options: argparse.Namespace
) -> Found:
    first = folder / f"{lm} one machine.jsonl"
    target = folder / f"{lm} {way}.jsonl"
    asked = [
        *(sys.executable, "-m", "irr.predict", "--labels", str(folder / "labels.txt")),
        *("--input", str(folder / "in.jsonl"), "--output", str(target), "--lm"),
        *(("stub", "--api-base", stub.url) if lm == "lm" else ("none",)),
        *("--in-flight", str(options.in_flight)),
        *(("--engine", "ray", "--workers", str(options.workers)) if "ray" in way else ()),
    ]
    started = time.perf_counter()
    process = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True)
    begun = killed = in_flight = 0
    to_first = 0.0
    while process.poll() is None:
        time.sleep(0.5)
        rows = rows_of(target)
        if rows and not begun:
            begun, to_first = 1, time.perf_counter() - started
        if "killed" in way and not killed and 2 * rows >= options.documents:
            in_flight = stub.stats()["in_flight"]
            os.kill(next(workers(process.pid)), signal.SIGKILL)
            killed = 1
    if process.returncode or process.stderr is None:
        raise SystemExit(f"exit status {process.returncode}: {process.communicate()[1]}")
    lines = target.read_bytes()
    return Found(
        lm,
        way,
        time.perf_counter() - started,
        to_first,
        [json.loads(line)["id"] for line in lines.splitlines()] == ids,
        lines == first.read_bytes(),
        killed,
        stub.stats()["answered_again"],
        in_flight,
    )


def rows_of(target: Path) -> int:
    """Rows that are there, in their place or in a part."""
    paths = [Path(f"{target}.partial"), *Path(f"{target}.parts").glob("part-*.jsonl*")]
    count = 0
    for path in paths:
        if path.suffix in (".partial", ".jsonl") and path.exists():
            count += path.read_bytes().count(b"\n")
    return count


def workers(ancestor: int) -> Iterator[int]:
    """The processes of the workers among those that `ancestor` has started."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and is_worker(path) and descends(path, ancestor):
            yield int(path.name)


def is_worker(process: Path) -> bool:
    try:
        return (process / "cmdline").read_bytes().startswith(_WORKER)
    except OSError:
        return False


def descends(process: Path, ancestor: int) -> bool:
    while process.name not in ("0", str(ancestor)):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return False
        process = process.with_name(fields[1])
    return process.name == str(ancestor)


if __name__ == "__main__":
    sys.exit(main())
