"""Seconds and peak memory of reading a large SKOS vocabulary into a `LabelSet`.

In:  nothing; a vocabulary is generated: each concept has a prefLabel in two languages, an altLabel,
     broader and notation, six statements in all. In "scattered" files the statements of a concept
     lie apart: all types first, then all names, and so on.
Out: for each format, in a process of its own: wall and CPU seconds, peak resident memory, and the
     same for the same labels read from JSON lines, which is what the labels themselves take.

    python eval/bench/vocabularies.py [--concepts 1000000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from irr.errors import ConfigurationError, IrrError

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "eval"))
from reporting import emit, parser, run, show_machine  # noqa: E402

SKOS = "http://www.w3.org/2004/02/skos/core#"
READ = """
import json, resource, sys, time
started = time.perf_counter()
from irr.labels import LabelSet
labels = LabelSet.read(sys.argv[1])
used = resource.getrusage(resource.RUSAGE_SELF)
# Linux counts kilobytes, macOS bytes.
unit = 2**20 if sys.platform == "darwin" else 2**10
print(json.dumps({
    "labels": len(labels), "wall": time.perf_counter() - started,
    "cpu": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / unit,
    "hash": labels.content_hash,
}))
"""


def statements(number: int) -> list[tuple[str, str]]:
    """Predicate and object of all statements about a concept."""
    return [
        ("a", "skos:Concept"),
        ("skos:prefLabel", f'"concept number {number}"@en'),
        ("skos:prefLabel", f'"käsite numero {number}"@fi'),
        ("skos:altLabel", f'"notion {number}"@en'),
        ("skos:broader", f"<http://example.org/c/{number // 10}>"),
        ("skos:notation", f'"N{number}"'),
    ]


def long_names(term: str) -> str:
    rdf_type = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
    return rdf_type if term == "a" else term.replace("skos:", f"<{SKOS}", 1) + ">"


def n_triples(predicate: str, value: str) -> str:
    node = long_names(value) if value.startswith("skos:") else value
    return f"{long_names(predicate)} {node} ."


def write_n_triples(stream: TextIO, concepts: int) -> None:
    for number in range(1, concepts + 1):
        for statement in statements(number):
            stream.write(f"<http://example.org/c/{number}> {n_triples(*statement)}\n")


def write_scattered(stream: TextIO, concepts: int) -> None:
    for kind in range(len(statements(1))):
        for number in range(1, concepts + 1):
            statement = statements(number)[kind]
            stream.write(f"<http://example.org/c/{number}> {n_triples(*statement)}\n")


def write_turtle(stream: TextIO, concepts: int) -> None:
    stream.write(f"@prefix skos: <{SKOS}> .\n")
    for number in range(1, concepts + 1):
        said = " ;\n    ".join(" ".join(statement) for statement in statements(number))
        stream.write(f"<http://example.org/c/{number}> {said} .\n")


def write_jsonl(stream: TextIO, concepts: int) -> None:
    for number in range(1, concepts + 1):
        row = {
            "id": f"http://example.org/c/{number}",
            "name": f"concept number {number}",
            "alternative_names": [f"notion {number}"],
            "parents": [f"http://example.org/c/{number // 10}"],
        }
        stream.write(json.dumps(row) + "\n")


FILES: dict[str, Callable[[TextIO, int], None]] = {
    "a.jsonl": write_jsonl,
    "a.nt": write_n_triples,
    "a.ttl": write_turtle,
    "scattered.nt": write_scattered,
}


def measured(concepts: int, folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    for name, write in FILES.items():
        path = folder / name
        with path.open("w", encoding="utf-8") as stream:
            write(stream, concepts)
        command = [sys.executable, "-c", READ, str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise IrrError(f"reading {name} failed: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads(done.stdout)
        found["file_mib"] = path.stat().st_size / 2**20
        path.unlink()
        yield name, found


def bench(options: argparse.Namespace) -> int:
    if options.concepts < 1:
        raise ConfigurationError("--concepts must be 1 or more")
    header = show_machine(options)
    with tempfile.TemporaryDirectory() as folder:
        found = dict(measured(options.concepts, Path(folder)))
    if len({case.pop("hash") for case in found.values()}) != 1:
        raise IrrError("the formats gave different labels")
    rows = [
        [name, *(f"{case[key]:,.1f}" for key in ("file_mib", "wall", "cpu", "peak_mib"))]
        for name, case in found.items()
    ]
    columns = ["", "file MiB", "wall s", "CPU s", "peak MiB"]
    emit(
        {"machine": header, "concepts": options.concepts, "read": found}, [(columns, rows)], options
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--concepts", type=int, default=1_000_000, metavar="N")
    return run(bench, made.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
