"""Peak memory of a run at few and at many documents.

In:  generated documents of a few words, without an LM from a small vocabulary, so that a million of
     them can be run in ten minutes; the real command in a process of its own, without an LM,
     and with a server in a process of its own (`stub_server.py`).
Out: peak memory (ru_maxrss) at either number of documents, and by how much it grew.

    python eval/bench/memory.py [--few 10000] [--many 1000000] [--lm-few 6000] [--lm-many 24000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.kill import LABELS, WORDS
from bench.stub import stub_server
from reporting import emit, parser, run, show_machine


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--few", type=int, default=10_000)
    options.add_argument("--many", type=int, default=1_000_000)
    options.add_argument("--lm-few", type=int, default=6_000)
    options.add_argument("--lm-many", type=int, default=24_000)
    options.add_argument("--latency", type=float, default=0.02)
    return run(measure, options.parse_args())


def measure(options: argparse.Namespace) -> int:
    machine = show_machine(options)
    rows, told = [], {}
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
                peaks = [peak(folder, count, arguments) for count in (few, many)]
                growth = peaks[1] / peaks[0] - 1
                told[kind] = {"documents": [few, many], "megabytes": peaks, "growth": growth}
                small, large = (f"{megabytes:.0f}" for megabytes in peaks)
                rows.append([kind, f"{few:,}", small, f"{many:,}", large, f"{100 * growth:+.1f}%"])
    header = ["run", "documents", "MB", "documents", "MB", "growth"]
    emit({"machine": machine, "memory": told}, [(header, rows)], options)
    return 0


def peak(folder: Path, count: int, arguments: list[str]) -> float:
    """Megabytes at most, of the command over `count` documents."""
    draw = random.Random(0)
    with (folder / "in.jsonl").open("w") as file:
        for number in range(count):
            text = f"{draw.choice(WORDS)} {draw.choice(WORDS)}"
            if arguments:  # No two texts are the same: the LM is asked about each.
                text += f" {number}"
            file.write(json.dumps({"id": f"document {number}", "text": text}) + "\n")
    command = [
        sys.executable, "-m", "irr.predict",
        "--labels", str(folder / "labels.txt"), "--input", str(folder / "in.jsonl"),
        "--output", str(folder / "out.jsonl"), "--restart", "--top-k", "3", *arguments,
    ]  # fmt: skip
    pid = os.posix_spawn(command[0], command, dict(os.environ))
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"the command ended with {os.waitstatus_to_exitcode(status)}")
    with (folder / "out.jsonl").open("rb") as file:
        assert sum(1 for _ in file) == count
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
