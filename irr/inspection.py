"""The commands `show`, `diff`, `labels`: what a program is, how two differ, what is in a label set.

In: program directories and label files. Out: text; label files converted; or the same program with
labels added or renamed, for which only the new names are embedded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irr.cli import Parser, run_command
from irr.errors import LabelSetError
from irr.labels import ICD10CM, LabelSet

if TYPE_CHECKING:
    from irr.vocabularies import Vocabulary

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
    """Run `irr labels FILE` or `irr labels PROGRAM --add FILE`.

    The status is 3 where something in FILE cannot be read.
    """
    parser = Parser(
        prog="irr labels",
        description="Show what is in a file of labels, and all that is wrong with it; convert it; "
        "or add labels to a compiled program, or rename some, without compiling it again.",
        epilog="With --add, a label whose id the program has already takes the place of the old.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a label file, icd10cm, or a program directory"
    )
    parser.add_argument(
        "--labels-format", metavar="NAME", help="of the label file, if not the one it looks like"
    )
    parser.add_argument("--language", metavar="TAG", help="of the names, such as en")
    parser.add_argument(
        "--convert",
        metavar="OUT",
        help="write the labels in all languages: .jsonl, SKOS as .ttl, .nt or .rdf, or Annif's "
        "vocabulary as .csv, or .tsv in one language",
    )
    parser.add_argument("--add", metavar="FILE", help="a label file to add to the program SOURCE")
    parser.add_argument("--output", metavar="DIR", help="with --add: write there, not in place")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, mps")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    if arguments.add and arguments.convert:
        parser.error("--add and --convert do not go together: convert first")
    if arguments.output and not arguments.add:
        parser.error("--output is for --add; to write labels in another format, --convert OUT")
    return run_command(_add_labels if arguments.add else _show_labels, arguments)


def _show_labels(arguments: argparse.Namespace) -> int:
    from irr.labelling import hierarchy_of, print_survey, survey, warnings_of
    from irr.vocabularies.problems import visible

    with _open_labels(arguments) as vocabulary:
        found = survey(vocabulary, arguments.language)
        hierarchy = hierarchy_of(found.labels)
        print_survey(found, hierarchy, vocabulary, sys.stdout)
        for warning in warnings_of(found, hierarchy, vocabulary):
            sys.stdout.write(f"warning: {warning}\n")
        errors = vocabulary.problems.errors
        for error in errors:
            sys.stdout.write(visible(f"error: {error}") + "\n")
        sys.stdout.flush()
        if errors:
            then = "" if arguments.convert is None else "; nothing was converted"
            message = f"{len(errors):,} errors, shown above: mend them{then}"
            raise LabelSetError(message, path=vocabulary.problems.path)
        if not found.labels:
            raise LabelSetError("holds no labels", path=vocabulary.problems.path)
        if arguments.convert:
            _convert(vocabulary, arguments, len(found.labels))
    return 0


def _open_labels(arguments: argparse.Namespace) -> Vocabulary:
    from irr.vocabularies import Vocabulary, read_vocabulary
    from irr.vocabularies.concept import concept_of
    from irr.vocabularies.problems import Problems

    source = Path(arguments.source)
    if arguments.source == ICD10CM:
        labels = LabelSet.read(ICD10CM)
        problems = Problems(ICD10CM, strict=False)
        return Vocabulary(ICD10CM, problems, lambda _: (concept_of(one, "en") for one in labels))
    if (source / "program.json").is_file():
        source /= "labels.jsonl"
    return read_vocabulary(source, arguments.labels_format, strict=False)


def _convert(vocabulary: Vocabulary, arguments: argparse.Namespace, expected: int) -> None:
    from irr.vocabularies.write import write_vocabulary

    lost = write_vocabulary(
        vocabulary, arguments.convert, language=arguments.language, expected=expected
    )
    sys.stdout.write(f"wrote {arguments.convert}\n")
    if lost:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in lost.items() if count)
        sys.stdout.write(f"warning: {arguments.convert}: the format has no place for {kinds}\n")


def _add_labels(arguments: argparse.Namespace) -> int:
    from irr.extend import extend_program

    added = LabelSet.read(arguments.add, arguments.labels_format, language=arguments.language)
    target = arguments.output or arguments.source
    new, changed = extend_program(
        arguments.source,
        added,
        target,
        device=arguments.device,
        threads=arguments.threads,
    )
    sys.stdout.write(f"wrote {target}: {new:,} labels added, {changed:,} changed\n")
    return 0
