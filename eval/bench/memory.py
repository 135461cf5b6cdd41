"""Memory of a run at few and at many documents, and what each further document takes.

In:  generated documents of a few words, without an LM from a small vocabulary, so that a million of
     them can be run in ten minutes; the real command in a process of its own, without an LM,
     and with a server in a process of its own (`stub_server.py`). Linux only: /proc tells memory.
Out: peak memory (ru_maxrss) at either number of documents, and by how much it grew. Of the longer
     run also its own memory (RssAnon: without mapped files) at half of its rows and at its end, the
     slope between them in bytes a document (least squares over the rows of the second half), and
     what ten million documents would take if that slope went on. In the first half caches fill;
     with an LM that takes some 50,000 documents, so fewer than 100,000 overstate the slope.

    python eval/bench/memory.py [--few 10000] [--many 1000000] [--lm-few 6000] [--lm-many 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.kill import LABELS, WORDS
from bench.stub import stub_server
from reporting import emit, parser, run, show_machine

TEN_MILLION = 10_000_000
_BETWEEN = 0.25  # seconds
_MEGABYTE = 2**20


@dataclass(frozen=True)
class Memory:
    """What one run took, in megabytes; `slope` in bytes a document."""

    documents: int
    peak: float
    at_half: float
    at_end: float
    slope: float

    @property
    def at_ten_million(self) -> float:
        """The peak of ten million documents, each taking what those of the second half took."""
        return self.peak + max(0.0, self.slope) * (TEN_MILLION - self.documents) / _MEGABYTE


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--few", type=int, default=10_000)
    options.add_argument("--many", type=int, default=1_000_000)
    options.add_argument("--lm-few", type=int, default=6_000)
    options.add_argument("--lm-many", type=int, default=100_000)
    options.add_argument("--latency", type=float, default=0.02)
    options.add_argument(
        "--only", choices=("no LM", "with an LM"), help="one kind of run; default: both"
    )
    return run(measure, options.parse_args())


def measure(options: argparse.Namespace) -> int:
    machine = show_machine(options)
    peaks, slopes, told = [], [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "labels.txt").write_text(LABELS)
        with stub_server(latency=options.latency) as stub:
            lm = ["--lm", "stub", "--api-base", stub.url, "--in-flight", "64"]
            pairs = {
                "no LM": (options.few, options.many, []),
                "with an LM": (options.lm_few, options.lm_many, lm),
            }
            for kind, (few, many, arguments) in pairs.items():
                if options.only not in (None, kind):
                    continue
                small, large = (memory_of(folder, count, arguments) for count in (few, many))
                growth = large.peak / small.peak - 1
                told[kind] = {
                    "few": asdict(small),
                    "many": asdict(large),
                    "growth": growth,
                    "at_ten_million": large.at_ten_million,
                }
                peaks.append([kind, *_peak_cells(small), *_peak_cells(large), f"{growth:+.1%}"])
                slopes.append([kind, *_slope_cells(large)])
    tables = [
        (["run", "documents", "MB", "documents", "MB", "growth"], peaks),
        (["run", "MB at half", "at the end", "bytes a document", "MB at 10,000,000"], slopes),
    ]
    emit({"machine": machine, "memory": told}, tables, options)
    return 0


def _peak_cells(memory: Memory) -> list[str]:
    return [f"{memory.documents:,}", f"{memory.peak:.0f}"]


def _slope_cells(memory: Memory) -> list[str]:
    return [
        f"{memory.at_half:.1f}",
        f"{memory.at_end:.1f}",
        f"{memory.slope:+.1f}",
        f"{memory.at_ten_million:,.0f}",
    ]


def memory_of(folder: Path, count: int, arguments: list[str]) -> Memory:
    """Run the command over `count` documents."""
    source, target = folder / f"in-{count}.jsonl", folder / f"out-{count}.jsonl"
    write_documents(source, count, different=bool(arguments))
    command = [
        sys.executable, "-m", "irr.predict",
        "--labels", str(folder / "labels.txt"), "--input", str(source),
        "--output", str(target), "--restart", "--top-k", "3", *arguments,
    ]  # fmt: skip
    pid = os.posix_spawn(command[0], command, dict(os.environ))
    points, peak = watch(pid, target.with_name(target.name + ".partial"))
    with target.open("rb") as file:
        assert sum(1 for _ in file) == count
    # With its last row a process begins to let its memory go.
    second = [point for point in points if count <= 2 * point[0] < 2 * count]
    if len(second) < 2:
        raise SystemExit(f"{count:,} documents are over too soon to be watched: give more")
    rows, megabytes = zip(*second, strict=True)
    slope = linear_regression(rows, megabytes).slope * _MEGABYTE
    return Memory(count, peak, megabytes[0], megabytes[-1], slope)


def write_documents(path: Path, count: int, *, different: bool) -> None:
    """Texts of two words; if `different`, with a number behind: an LM is asked about each."""
    draw = random.Random(0)
    with path.open("w") as file:
        for number in range(count):
            text = f"{draw.choice(WORDS)} {draw.choice(WORDS)}"
            if different:
                text += f" {number}"
            file.write(json.dumps({"id": f"document {number}", "text": text}) + "\n")


def watch(pid: int, partial: Path) -> tuple[list[tuple[int, float]], float]:
    """Until a process ends: (rows written, megabytes of its own) now and then; and its peak."""
    points, rows, file = [], 0, None
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if file is None and partial.exists():
            file = partial.open("rb")  # It stays open when the file gets its final name.
        if file is not None:
            megabytes = own_megabytes(pid)
            rows += file.read().count(b"\n")
            if megabytes is not None:
                points.append((rows, megabytes))
        time.sleep(_BETWEEN)
    if file is not None:
        file.close()
    if status:
        raise SystemExit(f"the command ended with {os.waitstatus_to_exitcode(status)}")
    return points, usage.ru_maxrss / 1024


def own_megabytes(pid: int) -> float | None:
    """Memory that is no mapped file; None of a process that has just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return None


if __name__ == "__main__":
    sys.exit(main())
