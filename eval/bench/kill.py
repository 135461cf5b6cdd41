"""A run of predict killed again and again: are all rows there, once, and the same as without?

In:  generated documents, a server in a process of its own (`stub_server.py`), the real command.
     One run is left alone. Another into a second file is ended by SIGKILL at a random moment and
     started again by the same command, until it is done; when it is done before enough kills, the
     same begins anew with a third file, and so on.
Out: kills, whether ids and bytes equal those of the run that was left alone, calls that the server
     answered more than once, and beside them the requests that were in flight at the kills.

    python eval/bench/kill.py [--documents 10000] [--kills 200] [--in-flight 32] [--seed 0]
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

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.stub import Stub, stub_server
from reporting import emit, parser, run, show_machine

LABELS = "bake bread\nspeak German\nrepair bicycles\nuse databases\nsort mail\nprune trees\n"
WORDS = [
    *("bread", "German", "bicycles", "databases", "mail", "trees"),
    *("bake", "speak", "repair", "use", "sort", "prune", "the", "a"),
]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=10_000)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--in-flight", type=int, default=32)
    options.add_argument("--latency", type=float, default=0.05)
    options.add_argument("--longest", type=float, default=5.0, help="seconds before a kill")
    options.add_argument("--seed", type=int, default=0)
    return run(harass, options.parse_args())


def harass(options: argparse.Namespace) -> int:
    machine = show_machine(options)
    draw = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory() as name,
        stub_server(latency=options.latency, jitter=0.5) as stub,
    ):
        folder = Path(name)
        (folder / "labels.txt").write_text(LABELS)
        ids = write_documents(folder / "in.jsonl", options.documents, draw)
        undisturbed = command(folder, folder / "whole.jsonl", stub, options)
        subprocess.run(undisturbed, check=True, stderr=subprocess.DEVNULL)
        whole = (folder / "whole.jsonl").read_bytes()
        assert [json.loads(line)["id"] for line in whole.splitlines()] == ids
    kills = in_flight = again = rounds = 0
    equal = True
    with (
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        (folder / "labels.txt").write_text(LABELS)
        write_documents(folder / "in.jsonl", options.documents, random.Random(options.seed))
        while kills < options.kills:
            rounds += 1
            # A server of its own for each round: it counts what was answered twice.
            with stub_server(latency=options.latency, jitter=0.5) as stub:
                target = folder / f"round-{rounds}.jsonl"
                asked = command(folder, target, stub, options)
                more = options.kills - kills
                done = until_finished(asked, stub, draw, more, options.longest)
                kills += done[0]
                in_flight += done[1]
                again += stub.stats()["answered_again"]
                found = target.read_bytes()
                equal = equal and found == whole
                assert [json.loads(line)["id"] for line in found.splitlines()] == ids
    result = {
        "documents": options.documents,
        "kills": kills,
        "rounds": rounds,
        "bytes_equal": equal,
        "answered_again": again,
        "in_flight_at_kills": in_flight,
    }
    rows = [[name.replace("_", " "), str(value)] for name, value in result.items()]
    emit({"machine": machine, **result}, [(["", ""], rows)], options)
    return 0 if equal and again <= in_flight else 1


def write_documents(path: Path, count: int, draw: random.Random) -> list[str]:
    """Short texts, all different; returns their ids."""
    rows = [
        {"id": f"é {number}", "text": f"{draw.choice(WORDS)} {draw.choice(WORDS)} {number}"}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["id"] for row in rows]


def command(folder: Path, target: Path, stub: Stub, options: argparse.Namespace) -> list[str]:
    return [
        sys.executable, "-m", "irr.predict",
        "--labels", str(folder / "labels.txt"), "--input", str(folder / "in.jsonl"),
        "--output", str(target), "--lm", "stub", "--api-base", stub.url,
        "--in-flight", str(options.in_flight),
    ]  # fmt: skip


def until_finished(
    asked: list[str], stub: Stub, draw: random.Random, kills: int, longest: float
) -> tuple[int, int]:
    """Run to the end, killed up to `kills` times; (kills, requests in flight at them)."""
    done = in_flight = 0
    while True:
        process = subprocess.Popen(asked, stderr=subprocess.PIPE)
        patience = draw.uniform(0, longest) if done < kills else None
        try:
            _, error = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            in_flight += stub.stats()["in_flight"]
            process.kill()
            process.communicate()
            done += 1
            # What was on its way is answered into the void before the next life begins.
            while stub.stats()["in_flight"]:
                time.sleep(0.02)
            continue
        if process.returncode:
            raise SystemExit(f"exit status {process.returncode}: {error.decode()}")
        return done, in_flight


if __name__ == "__main__":
    sys.exit(main())
