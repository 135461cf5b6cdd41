"""The command `suggest`: predictions → labels that the label set may lack.

In: predictions with an LM's guesses, and the label set they were made with. Out: suggestions, for
a person as a table, for a program as JSON lines. The label set stays as it is.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from irr.cli import Parser, run_command
from irr.errors import ConfigurationError, DocumentError
from irr.files import TextFile
from irr.journal.rows import prediction_values
from irr.options import add_reading_options, positive_int, share
from irr.seen import Before, Seen
from irr.suggest.suggester import BELOW, TOGETHER, Guessed, Suggester, Suggestion, nearest_in

if TYPE_CHECKING:
    from irr.encoder import Encoder
    from irr.index import LabelIndex
    from irr.labels import LabelSet

__all__ = ["main", "read_guesses"]

_SHOWN, _CELL = 50, 48


def read_guesses(path: str) -> Iterator[Guessed]:
    """Stream the guesses of a file of predictions, failed rows left out.

    Args:
        path: JSON lines, also .gz, or Parquet.

    Raises:
        DocumentError: a row that is no prediction, or whose id came before; names the line.
    """
    file = TextFile(path, DocumentError)
    with closing(Seen()) as seen:
        for line, row in prediction_values(file):
            if not isinstance(row, dict) or not {"status", "guesses"} & row.keys():
                what = 'is no prediction, {"id": …, "status": …, "guesses": […]}'
                raise file.failure(f"{what}: give a file that irr predict wrote", line)
            id_ = file.identifier(row.get("id"), '"id"', line)
            if seen.add(id_, numbered=False) is not Before.NEVER:
                raise file.failure(f"the id {id_!r} came before: give each document its own", line)
            if row.get("status") != "error":
                yield _guessed(file, id_, row, line)


def _guessed(file: TextFile, id_: str, row: Mapping[str, object], line: int) -> Guessed:
    guesses, labels = row.get("guesses") or [], row.get("labels") or []
    if not isinstance(guesses, list) or not all(isinstance(text, str) for text in guesses):
        raise file.failure('"guesses" must be a list of strings', line)
    picked = frozenset(
        str(label.get("id"))
        for label in (labels if isinstance(labels, list) else [])
        if isinstance(label, dict) and label.get("picked") is True
    )
    return Guessed(id_, tuple(guesses), picked)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``irr suggest PREDICTIONS``; returns its exit status."""
    parser = Parser(
        prog="irr suggest",
        description="Suggest new labels: what an LM guessed again and again, and no label answers.",
        epilog="First come those of many documents that are far from every label. The label set is "
        "not changed: look at the suggestions, then add to it.",
    )
    parser.add_argument(
        "predictions",
        metavar="PREDICTIONS",
        help="what irr predict wrote: JSON lines, .gz or .parquet",
    )
    parser.add_argument("--labels", metavar="FILE", help="the label set they were made with")
    add_reading_options(parser)
    parser.add_argument("--program", metavar="DIR", help="the program, instead of --labels")
    parser.add_argument(
        "--min-count",
        type=positive_int,
        default=2,
        metavar="N",
        help="documents that a suggestion has at least (default: %(default)s)",
    )
    parser.add_argument(
        "--below",
        type=share,
        default=BELOW,
        metavar="COSINE",
        help="a guess as near to a label as this is answered (default: %(default)s)",
    )
    parser.add_argument(
        "--together",
        type=share,
        default=TOGETHER,
        metavar="COSINE",
        help="guesses as near to each other as this are one suggestion (default: %(default)s)",
    )
    parser.add_argument("--output", metavar="FILE", help="write JSON lines there, not a table")
    parser.add_argument("--encoder", metavar="NAME", help="as for irr predict")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, mps")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args(argv)
    if bool(arguments.labels) == bool(arguments.program):
        parser.error("give --labels FILE or --program DIR")
    return run_command(_suggest, arguments)


def _suggest(arguments: argparse.Namespace) -> int:
    rows = read_guesses(arguments.predictions)
    first = list(itertools.islice(rows, 1))
    labels, index, encoder = _opened(arguments)
    suggester = Suggester(
        nearest_in(index, encoder),
        lambda position: labels[position].id,
        below=arguments.below,
        together=arguments.together,
    )
    suggester.add(itertools.chain(first, rows))
    found = suggester.suggestions(arguments.min_count)
    if arguments.output is not None:
        _write(found, labels, arguments.output)
    else:
        _print(found, labels)
    sys.stderr.write(f"irr: {_summary(suggester, found)}\n")
    return 0


def _opened(arguments: argparse.Namespace) -> tuple[LabelSet, LabelIndex, Encoder]:
    if arguments.program:
        settled = ("encoder", "labels_format", "language")
        if given := [name for name in settled if getattr(arguments, name) is not None]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigurationError(f"{options}: --program settles that; leave it out")
        from irr.build import LMChoice, open_program

        where = {"device": arguments.device, "threads": arguments.threads}
        program = open_program(arguments.program, lm=LMChoice("none"), **where)
        return program.labels, program.retriever.index, program.retriever.encoder
    from irr.encoder import DEFAULT_ENCODER, load_encoder
    from irr.index import open_index
    from irr.labels import LabelSet
    from irr.show import EmbeddingProgress

    labels = LabelSet.read(arguments.labels, arguments.labels_format, language=arguments.language)
    name = arguments.encoder or DEFAULT_ENCODER
    encoder = load_encoder(name, device=arguments.device, threads=arguments.threads)
    return labels, open_index(labels, encoder, progress=EmbeddingProgress()), encoder


def _write(found: Iterable[Suggestion], labels: LabelSet, path: str) -> None:
    from irr.writer import LineWriter, row_to_json

    with LineWriter(path) as writer:
        for suggestion in found:
            nearest = labels[suggestion.nearest]
            row: dict[str, object] = {
                "name": suggestion.name,
                "documents": suggestion.documents,
                "guesses": [{"text": t, "documents": n} for t, n in suggestion.guesses],
                "examples": list(suggestion.examples),
                "nearest": {
                    "id": nearest.id,
                    "label": nearest.name,
                    "similarity": round(suggestion.similarity, 4),
                },
            }
            writer.write_line(row_to_json(row))


def _print(found: Sequence[Suggestion], labels: LabelSet) -> None:
    from irr.show import print_table

    if not found:
        return
    header = ["suggestion", "documents", "similarity", "nearest label", "also guessed as"]
    rows = [
        [
            _cut(suggestion.name),
            f"{suggestion.documents:,}",
            f"{suggestion.similarity:.2f}",
            _cut(labels[suggestion.nearest].name),
            _cut("; ".join(text for text, _ in suggestion.guesses[1:])),
        ]
        for suggestion in found[:_SHOWN]
    ]
    print_table(sys.stdout, header, rows)
    if len(found) > _SHOWN:
        sys.stdout.write(f"and {len(found) - _SHOWN:,} more: see all with --output FILE\n")


def _cut(text: str) -> str:
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _summary(suggester: Suggester, found: Sequence[Suggestion]) -> str:
    documents = f"{suggester.documents:,} documents"
    if not suggester.guesses:
        return f"{documents} without guesses, as of --lm none: there is nothing to suggest from"
    guesses = f"{suggester.guesses:,} guesses, {suggester.unanswered:,} without a label"
    told = f"{documents}, {guesses}: {len(found):,} suggestions"
    if suggester.forgotten:
        told += f" ({suggester.forgotten:,} rare guesses were forgotten to save memory)"
    return told
