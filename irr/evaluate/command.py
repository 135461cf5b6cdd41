"""The command line of `evaluate`: its options, those that a task fills in, the work in order."""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from irr.cli import Parser, run_command
from irr.errors import ConfigurationError
from irr.evaluate.output import made_with, output_folder, print_report, status_of, write_folder
from irr.evaluate.running import Run
from irr.options import add_program_options

if TYPE_CHECKING:
    from irr.build import LMChoice

__all__ = ["main"]

DEFAULT_METRICS = "RP@5,RP@10,RP@50"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    arguments.command = "irr evaluate " + shlex.join(sys.argv[1:] if argv is None else argv)
    given = (arguments.labels or arguments.program) and arguments.input
    if not given and not arguments.task:
        parser.error(
            "give --labels FILE or --program DIR, and --input GOLD (documents with labels); "
            "or --task NAME, such as house, tech, icd10cm"
        )
    return run_command(_evaluate, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="irr evaluate",
        description="Measure how well labels are found, on documents whose labels are known, and "
        "where they are lost.",
        epilog="Beside every evaluation stands that of retrieval without an LM.",
    )
    parser.add_argument("--input", metavar="GOLD", help="documents with labels: jsonl, csv, tsv")
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        action="append",
        default=[],
        help="score these predictions, without predicting (may be given several times)",
    )
    parser.add_argument(
        "--compare",
        metavar="DIR",
        action="append",
        default=[],
        help="another program to set beside (may be given several times)",
    )
    parser.add_argument(
        "--metrics",
        metavar="NAMES",
        help="such as RP@K, R@K, P@K, nDCG@K, MRR, microF1@K, macroF1@K, PSP@K, coverage@K, "
        f"hF@K (by the hierarchy), separated by commas (default: {DEFAULT_METRICS})",
    )
    parser.add_argument("--train", metavar="FILE", help="training gold, for scores by frequency")
    parser.add_argument("--output", metavar="DIR", help="folder for predictions, scores, a page")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--no-baseline", action="store_true", help="leave retrieval without an LM out"
    )
    parser.add_argument("--data", metavar="DIR", help="where the prepared files of --task are")
    parser.add_argument("--split", metavar="NAME", help="of --task, instead of its own")
    add_program_options(parser)
    return parser


def _apply_task(arguments: argparse.Namespace) -> None:
    """Fill in what an evaluation task settles and the command line does not.

    A --task that is no evaluation task names prompts, as for the other commands.
    """
    from irr.evaluate.tasks import published_rows, read_task, shipped_tasks, task_files

    arguments.published = []
    arguments.title = Path(arguments.input).name if arguments.input else ""
    name = arguments.task
    if name is None or name not in shipped_tasks():
        if arguments.split or arguments.data:
            raise ConfigurationError("--split and --data belong to an evaluation --task")
        return
    task = read_task(name)
    files = task_files(task, arguments.data, split=arguments.split)
    arguments.input = arguments.input or str(files["input"])
    if arguments.train is None and "train" in files:
        arguments.train = str(files["train"])
    if not arguments.program:
        arguments.labels = arguments.labels or str(files["labels"])
    arguments.task = None if arguments.program else task.prompts
    arguments.metrics = arguments.metrics or ",".join(task.metrics)
    arguments.title = task.title
    header = ["system", *task.metrics, "split", "source"]
    rows = published_rows(task, task.metrics)
    arguments.published = [dict(zip(header, row, strict=True)) for row in rows]


def _no_such_task(name: str) -> str:
    from irr.evaluate.tasks import shipped_tasks

    near = difflib.get_close_matches(name, shipped_tasks(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(shipped_tasks())}"
    return f"--task {name}: no evaluation task has that name, and there is no --input; {hint}"


def _evaluate(arguments: argparse.Namespace) -> int:
    from irr.build import serving
    from irr.options import lms_from

    with serving(lms_from(arguments)) as (lms, _):
        return _evaluate_with(arguments, lms)


def _evaluate_with(arguments: argparse.Namespace, lms: LMChoice) -> int:
    from irr.documents import read_gold
    from irr.evaluate.report import build_report
    from irr.evaluate.scoring import hierarchy_for, resolve_gold
    from irr.labels import LabelSet
    from irr.metrics import parse_specs
    from irr.options import program_from

    _apply_task(arguments)
    if not arguments.input:
        raise ConfigurationError(_no_such_task(arguments.task))
    metrics = parse_specs(arguments.metrics or DEFAULT_METRICS)
    folder = output_folder(arguments)
    documents = list(read_gold(arguments.input))
    named = (arguments.lm, arguments.infer_lm, arguments.rank_lm)
    only_files = bool(arguments.predictions) and not any(named) and not arguments.program
    if only_files and arguments.compare:
        raise ConfigurationError("--compare is set beside a program: give --program or --lm too")
    if not (arguments.labels or arguments.program):
        raise ConfigurationError("give --labels FILE or --program DIR")
    if only_files and arguments.no_baseline:
        labels = LabelSet.read(
            arguments.labels, arguments.labels_format, language=arguments.language
        )
        program = None
    else:
        program = program_from(arguments, lms=lms, depth=max(spec.k or 1 for spec in metrics))
        labels = program.labels
    gold, unknown = resolve_gold(documents, labels)
    hierarchy = hierarchy_for(metrics, labels)
    run = Run(arguments, lms, gold, labels, metrics, folder, program, hierarchy)
    evaluations = list(run.evaluations(only_files))
    report = build_report(
        evaluations,
        labels,
        title=arguments.title,
        unknown_gold=unknown,
        made=made_with(arguments),
        published=arguments.published,
    )
    if folder is not None:
        write_folder(folder, report)
    print_report(arguments, report, folder)
    return status_of(evaluations)
