"""The command line of `compile`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irr.cli import INTERRUPTED, Parser, run_command
from irr.errors import ConfigurationError, DocumentError
from irr.options import (
    add_program_options,
    lms_from,
    positive_float,
    positive_int,
    program_from,
)

if TYPE_CHECKING:
    from irr.build import LMChoice
    from irr.compile.compiler import Compilation
    from irr.compile.examples import Split
    from irr.compile.settings import CompileSettings
    from irr.ledger import Ledger
    from irr.program import InferRetrieveRank

__all__ = ["main"]

# Stopped by its budget: a program was written, but not everything was tried.
STOPPED = 8
# What --priors is where they are to be counted on the training labels.
FROM_TRAIN = "train"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not (arguments.labels or arguments.program) or not arguments.train:
        parser.error("give --labels FILE (or --program DIR) and --train FILE")
    if not arguments.output and not arguments.dry_run:
        parser.error("give --output DIR, the folder that the program is written to")
    return run_command(_compile, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="irr compile",
        description="Make a program for a label set from tens of labelled texts.",
        epilog="Run again after an interrupt: what was paid for is not paid for twice.",
    )
    parser.add_argument("--train", metavar="FILE", help="texts with labels: jsonl, csv, tsv")
    parser.add_argument(
        "--dev", metavar="FILE", help="others to score on (default: half of --train)"
    )
    parser.add_argument("--output", metavar="DIR", help="the program directory to write")
    search = parser.add_argument_group("search")
    search.add_argument(
        "--optimizer",
        default="left-to-right",
        metavar="NAME",
        help="left-to-right, end-to-end, mipro, gepa, knn or none (default: %(default)s)",
    )
    search.add_argument("--metric", default="RP@10", help="what to raise (default: %(default)s)")
    search.add_argument(
        "--trials",
        type=positive_int,
        default=8,
        metavar="N",
        help="candidate programs to try (default: %(default)s)",
    )
    search.add_argument(
        "--demos",
        type=positive_int,
        default=4,
        metavar="N",
        help="demonstrations in a prompt at most (default: %(default)s)",
    )
    search.add_argument("--seed", type=int, default=0, metavar="N", help="of every draw")
    search.add_argument(
        "--prior-texts",
        metavar="FILE",
        help="count priors on these unlabelled documents (--priors train: on the training labels)",
    )
    search.add_argument("--teacher", metavar="NAME", help="LM that makes the demonstrations")
    search.add_argument("--teacher-api-base", metavar="URL", help="its server")
    budget = parser.add_argument_group("budget")
    budget.add_argument("--dry-run", action="store_true", help="only estimate calls and cost")
    budget.add_argument("--max-calls", type=positive_int, metavar="N", help="stop after N calls")
    budget.add_argument(
        "--max-cost", type=positive_float, metavar="DOLLARS", help="stop at this cost"
    )
    budget.add_argument(
        "--max-minutes", type=positive_float, metavar="N", help="stop after N minutes"
    )
    budget.add_argument(
        "--prices",
        metavar="FILE",
        help='JSON: {"MODEL": {"input": 0.15, "output": 0.6}}, dollars for a million tokens',
    )
    add_program_options(parser, examples=False)
    return parser


def _compile(arguments: argparse.Namespace) -> int:
    from irr.build import serving
    from irr.compile.settings import CompileSettings
    from irr.directory import check_directory

    from_train = arguments.priors == FROM_TRAIN
    if from_train:
        arguments.priors = None
    settings = CompileSettings(
        priors_from_train=from_train,
        optimizer=arguments.optimizer,
        metric=arguments.metric,
        candidates=arguments.trials,
        demos=arguments.demos,
        seed=arguments.seed,
        threads=min(arguments.in_flight, 16),
    )
    if arguments.output:
        check_directory(arguments.output)
    names = (arguments.lm, arguments.infer_lm, arguments.rank_lm)
    if arguments.teacher and not arguments.program and not set(names) - {None, "none"}:
        raise ConfigurationError("--teacher makes demonstrations for an LM: name it with --lm")
    # DSPy reports rows that fail with their texts; ours is the report.
    logging.getLogger("dspy").setLevel(logging.CRITICAL)
    asked = (arguments.teacher, arguments.teacher_api_base)
    with serving(lms_from(arguments), asked) as (lms, (name, base)):
        arguments.teacher, arguments.teacher_api_base = name, base
        return _compile_with(arguments, lms, settings, from_train)


def _compile_with(
    arguments: argparse.Namespace, lms: LMChoice, settings: CompileSettings, from_train: bool
) -> int:
    from irr.compile.search import check_optimizer

    ledger = _ledger(arguments, lms)
    try:
        teacher = _teacher(arguments, ledger)
        program = program_from(arguments, lms=lms, ledger=ledger)
        if program.infer is not None or program.rank is not None:
            check_optimizer(settings.optimizer)
        split, sources = _split(arguments, program, settings)
        program = _with_priors(arguments, program, split, from_train)
        if arguments.dry_run:
            return _estimate(program, split, settings, teacher is not None, ledger)
        return _run(arguments, program, split, settings, ledger, teacher, sources)
    finally:
        ledger.close()
        _remove_unused(ledger, arguments)


def _run(
    arguments: argparse.Namespace,
    program: InferRetrieveRank,
    split: Split,
    settings: CompileSettings,
    ledger: Ledger,
    teacher: Any,
    sources: dict[str, str],
) -> int:
    from irr.compile.card import card_of, score_table
    from irr.compile.compiler import compile_program
    from irr.directory import is_program, save_program
    from irr.show import print_table

    result = compile_program(program, split, settings, ledger=ledger, teacher=teacher, say=_say)
    print_table(sys.stdout, *score_table(result, settings))
    if result.stopped and result.best is result.given and is_program(arguments.output):
        _say(f"{arguments.output} holds a program already, which stays: nothing better was found")
        return _status(result)
    own_server = " --api-base URL" if arguments.api_base else ""
    command = f'irr predict "…" --program {Path(arguments.output).name}{own_server}'
    card = card_of(result, settings, ledger, sources=sources, command=command)
    without_lm = program.infer is None and program.rank is None
    save_program(
        result.best.program,
        arguments.output,
        card=card,
        # Without LMs in this run, prompts and demonstrations of the given program are kept.
        stages_of=arguments.program if without_lm else None,
    )
    sys.stdout.write(f"wrote {arguments.output} ({result.best.name})\n")
    return _status(result)


def _status(result: Compilation) -> int:
    if result.interrupted:
        sys.stderr.write("irr: interrupted; the best program so far was written\n")
        return INTERRUPTED
    if result.stopped:
        sys.stderr.write(f"irr: stopped: {result.stopped}; the best so far was written\n")
        return STOPPED
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"irr: {line}\n")
    sys.stderr.flush()


def _ledger(arguments: argparse.Namespace, lms: LMChoice) -> Ledger:
    from irr.build import completed
    from irr.ledger import Budget, Ledger
    from irr.prices import known_prices

    budget = Budget(arguments.max_calls, arguments.max_cost, arguments.max_minutes)
    if arguments.program:
        lms = completed(lms, arguments.program)
    named = [lms.for_stage(stage) for stage in ("infer", "rank")]
    if arguments.teacher:
        named.append((arguments.teacher, arguments.teacher_api_base or arguments.api_base))
    prices = known_prices(named, prices_file=arguments.prices)
    if arguments.dry_run:
        return Ledger(budget=budget, prices=prices)
    output = Path(arguments.output)
    # Beside the program, not in it: it is for the next run of this command, not for predicting.
    return Ledger(output.with_name(output.name + ".replies"), budget=budget, prices=prices)


def _remove_unused(ledger: Ledger, arguments: argparse.Namespace) -> None:
    """Without an LM there are no replies to keep."""
    if arguments.output and not ledger.models():
        Path(arguments.output + ".replies").unlink(missing_ok=True)


def _teacher(arguments: argparse.Namespace, ledger: Ledger) -> Any:
    if arguments.teacher is None:
        return None
    from irr.lm import LMSettings, open_lm

    return open_lm(
        LMSettings(
            arguments.teacher,
            arguments.teacher_api_base or arguments.api_base,
            timeout=arguments.timeout,
            max_in_flight=arguments.in_flight,
            max_tokens=arguments.max_tokens,
        ),
        ledger=ledger,
        role="teacher",
    )


def _split(
    arguments: argparse.Namespace, program: InferRetrieveRank, settings: CompileSettings
) -> tuple[Split, dict[str, str]]:
    from irr.compile.examples import read_examples, split_examples
    from irr.documents import read_gold

    unknown: dict[str, int] = {}
    train = read_examples(list(read_gold(arguments.train)), program.labels, unknown)
    dev = []
    if arguments.dev:
        dev = read_examples(list(read_gold(arguments.dev)), program.labels, unknown)
        if not dev:
            raise DocumentError("no document has a label of the label set", path=arguments.dev)
    if unknown:
        some = ", ".join(repr(name) for name in list(unknown)[:3])
        _say(f"{sum(unknown.values())} gold labels are not in the label set, such as {some}")
    split = split_examples(train, dev, seed=settings.seed)
    halves = "" if arguments.dev else f", half of {Path(arguments.train).name}"
    sources = {
        "training examples": f"{len(split.train)} of {Path(arguments.train).name}",
        "dev examples": f"{len(split.dev)}{halves}",
        "label set": f"`{program.labels.content_hash[:12]}`",
    }
    return split, sources


def _with_priors(
    arguments: argparse.Namespace, program: InferRetrieveRank, split: Split, from_train: bool
) -> InferRetrieveRank:
    """The program with priors counted here. They count nothing until tuning gives them weight."""
    if not arguments.prior_texts and not from_train:
        return program
    from irr.compile.priors import priors_from_examples, priors_from_texts
    from irr.documents import read_documents
    from irr.retrieve import Retriever

    old = program.retriever
    if old.priors is not None or (arguments.prior_texts and from_train):
        raise ConfigurationError("give one of --priors FILE, --priors train and --prior-texts")
    if from_train:
        priors = priors_from_examples(split.train, len(program.labels))
    else:
        priors = priors_from_texts(read_documents(arguments.prior_texts), old)
    return program.variant(
        retriever=Retriever(old.encoder, old.index, old.settings, labels=old.labels, priors=priors)
    )


def _estimate(
    program: InferRetrieveRank,
    split: Split,
    settings: CompileSettings,
    has_teacher: bool,
    ledger: Ledger,
) -> int:
    from irr.compile.estimate import estimate
    from irr.show import print_table

    rows = estimate(program, split, settings, has_teacher=has_teacher, ledger=ledger)
    print_table(sys.stdout, ["LM", "calls at most", "input tokens", "output tokens", "cost"], rows)
    return 0
