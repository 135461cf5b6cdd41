"""The command `predict`: documents → predictions.

In: texts on the command line, a file, a folder or standard input. Out: a table for a person at a
terminal, JSON lines for anybody else; one row for each document, in order. What a run does about
interrupts, failures and limits is in `irr.runs`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from irr.cli import SOME_FAILED, Parser, run_command
from irr.errors import ConfigurationError
from irr.options import (
    add_program_options,
    non_negative_int,
    positive_float,
    positive_int,
    share,
)

if TYPE_CHECKING:
    from irr.build import LMChoice
    from irr.journal import Journal
    from irr.ledger import Ledger, Price
    from irr.pipeline import Stop
    from irr.program import InferRetrieveRank
    from irr.runs import RunSettings
    from irr.types import Document

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
    continued = arguments.restart or arguments.resume_changed or arguments.retry_failed
    if continued and arguments.output in (None, "-"):
        parser.error("--restart, --resume-changed and --retry-failed are about an --output FILE")
    if arguments.engine == "ray" and (arguments.dry_run or not arguments.input):
        parser.error("--engine ray reads --input FILE, and does not estimate: see --dry-run alone")
    if arguments.engine == "ray" and arguments.output in (None, "-"):
        parser.error("--engine ray needs --output FILE, in a folder that all machines share")
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
        help="documents: jsonl, csv, tsv, txt, also .gz, parquet, a folder of one kind of these, "
        "or - for standard input; fields include and exclude of a document choose its labels",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write JSON lines there (.gz: packed, .parquet: a table); - for standard output",
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
    _add_run_options(parser)
    add_program_options(parser)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    runs = parser.add_argument_group("long runs (with --output, the same command continues)")
    runs.add_argument(
        "--retry-failed", action="store_true", help="predict again the rows that failed"
    )
    runs.add_argument(
        "--restart",
        action="store_true",
        help="begin anew where --output is there already; replies of the LM that were kept are "
        "used again",
    )
    runs.add_argument(
        "--resume-changed",
        action="store_true",
        help="continue although labels, prompts, LM, or texts or selections of the input, have "
        "changed since",
    )
    runs.add_argument(
        "--max-error-rate",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="end the run when more rows fail (default: %(default)s)",
    )
    runs.add_argument("--max-calls", type=positive_int, metavar="N", help="stop after N LM calls")
    runs.add_argument(
        "--max-cost", type=positive_float, metavar="DOLLARS", help="stop at this cost"
    )
    runs.add_argument(
        "--prices",
        metavar="FILE",
        help='JSON: {"MODEL": {"input": 0.15, "output": 0.6}}, dollars for a million tokens; '
        "without it, the list prices of known models",
    )
    runs.add_argument(
        "--dry-run",
        action="store_true",
        help="estimate calls, tokens, cost and time from a sample, and predict no more",
    )
    runs.add_argument(
        "--sample",
        type=non_negative_int,
        default=20,
        metavar="N",
        help="documents that --dry-run asks the LM about (default: %(default)s; 0 asks nothing); "
        "their replies are kept, and the run does not pay for them again",
    )
    runs.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray runs on a Ray cluster (irr[ray])",
    )
    runs.add_argument("--workers", type=positive_int, metavar="N", help="processes of --engine ray")
    runs.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="the cluster of --engine ray (default: RAY_ADDRESS, else a Ray on this machine); all "
        "its machines must share the folders of output, labels and encoder",
    )


def _predict(arguments: argparse.Namespace) -> int:
    from irr.build import serving
    from irr.options import lms_from

    _refuse_to_overwrite(arguments)
    with serving(lms_from(arguments)) as (lms, _):
        if arguments.engine == "ray":
            return _on_ray(arguments, lms)
        if arguments.dry_run:
            return _dry_run(arguments, lms)
        if _journaled(arguments):
            return _into_file(arguments, lms)
        return _onto_stream(arguments, lms)


def _into_file(arguments: argparse.Namespace, lms: LMChoice) -> int:
    from irr.options import program_from
    from irr.runs import open_journal, remove_replies, run_to_file
    from irr.show import RunProgress

    ledger = _ledger(arguments, lms, whole=True)
    with contextlib.closing(ledger) if ledger else contextlib.nullcontext():
        program = program_from(arguments, lms=lms, depth=arguments.top_k, ledger=ledger)
        settings = _settings(arguments)
        with open_journal(program, arguments.output, settings) as journal:
            if journal.finished:
                _say_finished(arguments, journal)
            else:
                if journal.rows:
                    sys.stderr.write(f"irr: going on after {_kept(journal)}\n")
                with (
                    RunProgress(journal=journal, ledger=ledger) as progress,
                    _stoppable(program) as stop,
                ):
                    documents = _documents(arguments)
                    run_to_file(program, documents, journal, settings, add=progress.add, stop=stop)
        failed = journal.failed
    if ledger and not failed:
        remove_replies(arguments.output)
    return _say_failed(failed)


def _say_finished(arguments: argparse.Namespace, journal: Journal) -> None:
    """Say that nothing is left to do, if the input is still the one that the rows are of."""
    for _ in journal.remaining(_documents(arguments)):
        raise AssertionError("a finished run leaves no document")
    sys.stderr.write(f"irr: {arguments.output} is finished: {_kept(journal)}\n")


def _say_failed(failed: int) -> int:
    """The exit status of a run; says how failed rows are mended."""
    if failed:
        sys.stderr.write(f"irr: {failed:,} rows failed: --retry-failed predicts them again\n")
    return SOME_FAILED if failed else 0


def _kept(journal: Journal) -> str:
    failed = f", {journal.failed:,} of them failed" if journal.failed else ""
    return f"{journal.rows:,} rows{failed}"


def _onto_stream(arguments: argparse.Namespace, lms: LMChoice) -> int:
    from irr.options import program_from
    from irr.runs import run_to_stream
    from irr.show import ResultTable, RunProgress
    from irr.writer import PredictionWriter

    documents = _documents(arguments)
    ledger = _ledger(arguments, lms, whole=False)
    program = program_from(arguments, lms=lms, depth=arguments.top_k, ledger=ledger)
    progress = RunProgress(shown=bool(arguments.input), ledger=ledger)
    output: ResultTable | PredictionWriter
    if _for_a_person(arguments):
        output = ResultTable(sys.stdout)
        documents = output.titled(documents)
    else:
        output = PredictionWriter(arguments.output or "-")
    with output as writer, progress, _stoppable(program) as stop:
        run_to_stream(
            program, documents, writer.write, _settings(arguments), add=progress.add, stop=stop
        )
    return SOME_FAILED if progress.failed else 0


def _dry_run(arguments: argparse.Namespace, lms: LMChoice) -> int:
    from irr.dryrun import estimate_run, print_estimate
    from irr.options import program_from
    from irr.runs import remove_replies, replies_of

    started = time.monotonic()
    kept = _journaled(arguments) and arguments.sample > 0
    was_there = kept and replies_of(arguments.output).exists()
    ledger = _ledger(arguments, lms, whole=kept)
    with contextlib.closing(ledger) if ledger else contextlib.nullcontext():
        program = program_from(arguments, lms=lms, depth=arguments.top_k, ledger=ledger)
        estimate = estimate_run(
            _documents(arguments),
            program,
            sample=arguments.sample,
            ledger=ledger,
            top_k=arguments.top_k,
            start_seconds=time.monotonic() - started,
        )
    if kept and not was_there and not estimate.calls.value:
        remove_replies(arguments.output)
    print_estimate(estimate, sys.stdout)
    if estimate.sampled and estimate.calls.value:
        where = f"kept in {replies_of(arguments.output)}" if kept else "not kept without --output"
        sys.stdout.write(f"the replies to the sample are {where}\n")
    return 0


def _on_ray(arguments: argparse.Namespace, lms: LMChoice) -> int:
    from functools import partial

    from irr.cluster import (
        ClusterSettings,
        Spent,
        predict_on_ray,
        program_of_options,
        remove_parts,
    )
    from irr.ledger import Budget
    from irr.runs import open_journal, stopping_on_signals
    from irr.show import RunProgress

    make = partial(program_of_options, arguments, lms)
    settings, spent = _settings(arguments), Spent()
    program = make(ledger=None, threads=arguments.threads or 1)
    with open_journal(program, arguments.output, settings) as journal:
        if journal.finished:
            _say_finished(arguments, journal)
        else:
            with (
                RunProgress(journal=journal, ledger=spent) as progress,
                stopping_on_signals() as stop,
            ):
                predict_on_ray(
                    program,
                    make,
                    arguments.input,
                    journal,
                    settings,
                    ClusterSettings(arguments.workers, arguments.ray_address),
                    add=progress.add,
                    stop=stop,
                    spent=spent,
                    prices=_prices(arguments, lms),
                    budget=Budget(arguments.max_calls, arguments.max_cost),
                )
        failed = journal.failed
    remove_parts(arguments.output)
    return _say_failed(failed)


def _documents(arguments: argparse.Namespace) -> Iterator[Document]:
    from irr.documents import documents_from_texts, read_documents

    if arguments.texts:
        return documents_from_texts(map(_as_typed, arguments.texts))
    return read_documents(arguments.input)


def _settings(arguments: argparse.Namespace) -> RunSettings:
    from irr.runs import RunSettings

    return RunSettings(
        top_k=arguments.top_k,
        trace=arguments.trace,
        max_error_rate=arguments.max_error_rate,
        restart=arguments.restart,
        resume_changed=arguments.resume_changed,
        retry_failed=arguments.retry_failed,
    )


def _ledger(arguments: argparse.Namespace, lms: LMChoice, *, whole: bool) -> Ledger | None:
    """Where LM replies are kept: beside the output, so that nothing is paid for twice."""
    if lms.none and not arguments.program:
        return None
    from irr.ledger import Budget, Ledger
    from irr.runs import replies_of

    return Ledger(
        replies_of(arguments.output) if whole else None,
        budget=Budget(arguments.max_calls, arguments.max_cost, whole=whole),
        prices=_prices(arguments, lms),
        keep=whole,
    )


def _prices(arguments: argparse.Namespace, lms: LMChoice) -> Mapping[str, Price]:
    from irr.build import completed
    from irr.prices import known_prices

    if arguments.program:
        lms = completed(lms, arguments.program)
    named = [lms.for_stage(stage) for stage in ("infer", "rank")]
    return known_prices(named, prices_file=arguments.prices)


def _stoppable(program: InferRetrieveRank) -> contextlib.AbstractContextManager[Stop | None]:
    """With LM calls in flight a first Ctrl-C waits for them: they are paid for."""
    if program.infer is None and program.rank is None:
        return contextlib.nullcontext()
    from irr.runs import stopping_on_signals

    return stopping_on_signals()


def _journaled(arguments: argparse.Namespace) -> bool:
    if arguments.output is None:
        return False
    from irr.journal import is_journaled

    return is_journaled(arguments.output)


def _as_typed(text: str) -> str:
    """A text from the command line, where a locale without Unicode has split its characters."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


def _refuse_to_overwrite(arguments: argparse.Namespace) -> None:
    """An output that is an input would be gone when it is replaced."""
    if arguments.output in (None, "-"):
        return
    output, source = Path(arguments.output), Path(arguments.input or "-")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ConfigurationError(
            "--output lies in the folder of --input and would be read as input: name another place"
        )
    if not output.exists():
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
