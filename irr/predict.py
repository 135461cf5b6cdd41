"""The command `predict`: documents → predictions.

In: texts on the command line, a file, a folder or standard input. Out: a table for a person at a
terminal, JSON lines for anybody else; one row for each document, in order.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from irr.cli import SOME_FAILED, Parser, run_command
from irr.errors import ConfigurationError
from irr.options import add_program_options, positive_int

__all__ = ["main"]

_USAGE = """\
give the labels to tag with, for example:
  python -m irr.predict "We run PostgreSQL on Kubernetes." --labels skills.txt
or try the codes that come with irr[offline]:
  python -m irr.predict "He fell from a ladder." --labels icd10cm"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.labels and not arguments.program:
        parser.exit(2, f"{parser.prog}: error: no --labels: {_USAGE}\n")
    if arguments.format == "table" and arguments.output is not None:
        parser.error("--format table is shown, not written: leave --output out")
    if bool(arguments.texts) == bool(arguments.input):
        parser.error("give texts, or a file of documents with --input (- for standard input)")
    return run_command(_predict, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="irr predict",
        description="Tag texts with labels of a label set of any size.",
        epilog="Without --lm, the text's own phrases are looked up: no key, no GPU, no download.",
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text to tag")
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="documents: jsonl, csv, tsv, txt, also .gz, a folder of txt, or - for standard input",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write JSON lines there; - for standard output"
    )
    parser.add_argument(
        "--format",
        choices=("auto", "table", "jsonl"),
        default="auto",
        help="auto is a table at a terminal, else JSON lines",
    )
    parser.add_argument(
        "--top-k",
        type=positive_int,
        default=10,
        metavar="N",
        help="labels for each text at most (default: %(default)s)",
    )
    parser.add_argument(
        "--trace", action="store_true", help="show what each stage did with each text"
    )
    add_program_options(parser)
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    from irr.documents import documents_from_texts, read_documents
    from irr.options import program_from
    from irr.show import ResultTable, RunProgress
    from irr.writer import PredictionWriter

    documents = (
        documents_from_texts(map(_as_typed, arguments.texts))
        if arguments.texts
        else read_documents(arguments.input)
    )
    _refuse_to_overwrite(arguments)
    program = program_from(arguments, depth=arguments.top_k)
    progress = RunProgress(shown=bool(arguments.input))
    output: ResultTable | PredictionWriter
    if _for_a_person(arguments):
        output = ResultTable(sys.stdout)
        documents = output.titled(documents)
    else:
        output = PredictionWriter(arguments.output or "-")
    predictions = program.predict_many(documents, top_k=arguments.top_k, trace=arguments.trace)
    with output as writer, progress, contextlib.closing(predictions):
        for prediction in predictions:
            writer.write(prediction)
            progress.add(prediction)
    return SOME_FAILED if progress.failed else 0


def _as_typed(text: str) -> str:
    """A text from the command line, where a locale without Unicode has split its characters."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def _refuse_to_overwrite(arguments: argparse.Namespace) -> None:
    """An output that is an input would be gone when it is replaced."""
    if arguments.output in (None, "-") or not Path(arguments.output).exists():
        return
    for name in ("input", "labels", "examples", "priors", "program"):
        source = getattr(arguments, name)
        if source and Path(source).exists() and Path(source).samefile(arguments.output):
            raise ConfigurationError(f"--output is the file of --{name}: name another one")


def _for_a_person(arguments: argparse.Namespace) -> bool:
    if arguments.format != "auto":
        return bool(arguments.format == "table")
    return arguments.output is None and sys.stdout.isatty()


if __name__ == "__main__":
    sys.exit(main())
