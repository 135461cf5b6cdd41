"""The commands `show`, `diff` and `labels`: what a program is, how two differ, more labels for one.

In: program directories. Out: text; or the same program with labels added or renamed, for which
only the new names are embedded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from irr.cli import Parser, run_command

__all__ = ["diff", "labels", "show"]

_MOST_NAMED = 5


def show(argv: Sequence[str] | None = None) -> int:
    """Run `irr show PROGRAM`."""
    parser = Parser(prog="irr show", description="Print the card of a program.")
    parser.add_argument("program", metavar="PROGRAM", help="a program directory")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return run_command(_show, parser.parse_args(argv))


def _show(arguments: argparse.Namespace) -> int:
    from irr.directory import CARD, read_manifest

    read_manifest(arguments.program)
    card = Path(arguments.program) / CARD
    sys.stdout.write(card.read_text(encoding="utf-8") if card.is_file() else "(no card)\n")
    return 0


def diff(argv: Sequence[str] | None = None) -> int:
    """Run `irr diff A B`; the status is 1 where they differ, as for other diffs."""
    parser = Parser(prog="irr diff", description="Say how two programs differ.")
    parser.add_argument("a", metavar="A", help="a program directory")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return run_command(_diff, parser.parse_args(argv))


def _diff(arguments: argparse.Namespace) -> int:
    lines = list(_differences(Path(arguments.a), Path(arguments.b)))
    sys.stdout.write("".join(f"{line}\n" for line in lines) or "no difference\n")
    return 1 if lines else 0


def _differences(a: Path, b: Path) -> Iterator[str]:
    from irr.directory import read_manifest

    first, second = read_manifest(a), read_manifest(b)
    for key in ("label_set", "encoder", "retrieve", "fusion", "stages"):
        yield from _changes(key, first[key], second[key])
    if first["label_set"] != second["label_set"]:
        yield from _label_changes(a, b)
    demos = [json.loads((path / "demos.json").read_text(encoding="utf-8")) for path in (a, b)]
    for stage in first["stages"]:
        old, new = demos[0][stage], demos[1][stage]
        if old != new:
            shared = sum(demo in new for demo in old)
            yield f"demonstrations of {stage}: {len(old)} -> {len(new)}, {shared} in both"


def _changes(name: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changes(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{name}: {_short(old)} -> {_short(new)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:100] + "…"


def _label_changes(a: Path, b: Path) -> Iterator[str]:
    from irr.labels import LabelSet

    old, new = (LabelSet.read(path / "labels.jsonl") for path in (a, b))
    names = [{label.id: label for label in labels} for labels in (old, new)]
    yield from _named("labels added", [i for i in names[1] if i not in names[0]])
    yield from _named("labels removed", [i for i in names[0] if i not in names[1]])
    both = [i for i in names[0] if i in names[1] and names[0][i] != names[1][i]]
    yield from _named("labels changed", both)


def _named(what: str, ids: Sequence[str]) -> Iterator[str]:
    if ids:
        more = ", …" if len(ids) > _MOST_NAMED else ""
        yield f"{what}: {len(ids):,} ({', '.join(ids[:_MOST_NAMED])}{more})"


def labels(argv: Sequence[str] | None = None) -> int:
    """Run `irr labels PROGRAM --add FILE`."""
    parser = Parser(
        prog="irr labels",
        description="Add labels to a compiled program, or rename some, without compiling again.",
        epilog="A label whose id the program has already takes the place of the old one.",
    )
    parser.add_argument("program", metavar="PROGRAM", help="a program directory")
    parser.add_argument("--add", metavar="FILE", required=True, help="a label file")
    parser.add_argument("--output", metavar="DIR", help="write there (default: in place)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, mps")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return run_command(_labels, parser.parse_args(argv))


def _labels(arguments: argparse.Namespace) -> int:
    from irr.extend import extend_program
    from irr.labels import LabelSet

    added = LabelSet.read(arguments.add)
    target = arguments.output or arguments.program
    new, changed = extend_program(
        arguments.program,
        added,
        target,
        device=arguments.device,
        threads=arguments.threads,
    )
    sys.stdout.write(f"wrote {target}: {new:,} labels added, {changed:,} changed\n")
    return 0
