"""The command line of `evaluate`."""

from __future__ import annotations

import argparse
import datetime
import difflib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irr.cli import SOME_FAILED, Parser, run_command
from irr.errors import ConfigurationError, OutputError
from irr.options import add_program_options

if TYPE_CHECKING:
    from irr.build import LMChoice
    from irr.evaluate.predictions import Predicted
    from irr.evaluate.scoring import Evaluation, Gold, GuessedBy
    from irr.hierarchy import Hierarchy
    from irr.labels import LabelSet
    from irr.metrics import MetricSpec
    from irr.program import InferRetrieveRank
    from irr.retrieve import Retriever

__all__ = ["main"]

DEFAULT_METRICS = "RP@5,RP@10,RP@50"
BASELINE = "no LM"


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
    folder = _output_folder(arguments)
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
    run = _Run(arguments, lms, gold, labels, metrics, folder, program, hierarchy)
    evaluations = list(run.evaluations(only_files))
    report = build_report(
        evaluations,
        labels,
        title=arguments.title,
        unknown_gold=unknown,
        made=_made(arguments),
        published=arguments.published,
    )
    if folder is not None:
        _write_folder(folder, report)
    _print(arguments, report, folder)
    return _status(evaluations)


class _Run:
    """The evaluations of one command, one after the other, each predicted or read once."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        lms: LMChoice,
        gold: Sequence[Gold],
        labels: LabelSet,
        metrics: Sequence[MetricSpec],
        folder: Path | None,
        program: InferRetrieveRank | None,
        hierarchy: Hierarchy | None,
    ) -> None:
        self.arguments = arguments
        self.lms = lms
        self.gold = gold
        self.labels = labels
        self.metrics = metrics
        self.folder = folder
        self.program = program
        self.hierarchy = hierarchy
        self._names = {BASELINE}
        self.n_training = 0
        self.training = self._training()

    def evaluations(self, only_files: bool) -> Iterator[Evaluation]:
        """Files, the program, others beside it, and last the baseline."""
        from irr.evaluate.predictions import read_predictions
        from irr.program import InferRetrieveRank

        # All of them are opened before anything is predicted and paid for.
        others = [(folder, self._other(folder)) for folder in self.arguments.compare]
        for path in self.arguments.predictions:
            rows = read_predictions(path, [g.document for g in self.gold], self.labels)
            yield self._score(self._name(Path(path).name.split(".")[0]), rows)
        program = self.program
        if program is not None and not only_files:
            yield self._predict(self._name("program"), program)
            for folder, other in others:
                yield self._predict(self._name(Path(folder).resolve().name), other)
        has_lm = program is not None and (program.infer is not None or program.rank is not None)
        if program is not None and not self.arguments.no_baseline and (only_files or has_lm):
            plain = InferRetrieveRank(program.labels, program.retriever)
            yield self._predict(BASELINE, plain)

    def _name(self, name: str) -> str:
        """A name that no other evaluation of this run has."""
        name = name.encode("utf-8", "replace").decode() or "predictions"
        number, unique = 1, name
        while unique in self._names:
            number += 1
            unique = f"{name} ({number})"
        self._names.add(unique)
        return unique

    def _other(self, folder: str) -> InferRetrieveRank:
        from irr.build import open_program

        other = open_program(folder, lm=self.lms)
        if other.labels.content_hash != self.labels.content_hash:
            raise ConfigurationError(f"--compare {folder}: it has another label set")
        return other

    def _predict(self, name: str, program: InferRetrieveRank) -> Evaluation:
        from irr.evaluate.predictions import from_predictions
        from irr.show import RunProgress
        from irr.types import Prediction
        from irr.writer import PredictionWriter

        documents = [g.document for g in self.gold]
        depth = max(program.retriever.settings.candidates, *(s.k or 1 for s in self.metrics))
        predictions = program.predict_many(documents, top_k=depth, trace=True)

        def seen(progress: RunProgress, writer: PredictionWriter | None) -> Iterator[Prediction]:
            for prediction in predictions:
                if writer is not None:
                    writer.write(prediction)
                progress.add(prediction)
                yield prediction

        with RunProgress(shown=True) as progress:
            if self.folder is None:
                rows = from_predictions(seen(progress, None), program.labels)
                return self._score(name, rows, program.retriever)
            file = self.folder / f"predictions-{name.replace(' ', '-')}.jsonl"
            with PredictionWriter(file) as writer:
                rows = from_predictions(seen(progress, writer), program.labels)
                return self._score(name, rows, program.retriever)

    def _score(self, name: str, rows: Any, retriever: Retriever | None = None) -> Evaluation:
        from irr.evaluate.scoring import score_predictions

        predicted: Sequence[Predicted] = rows
        known = retriever or (self.program.retriever if self.program is not None else None)
        guessed = None if known is None else _guessed_by(known, self.labels)
        return score_predictions(
            name,
            predicted,
            self.gold,
            self.metrics,
            guessed_by=guessed,
            training=self.training,
            n_training=self.n_training,
            hierarchy=self.hierarchy,
        )

    def _training(self) -> dict[int, int] | None:
        if not self.arguments.train:
            return None
        from irr.documents import read_gold

        counts: dict[int, int] = {}
        for document in read_gold(self.arguments.train):
            self.n_training += 1
            names = document.gold or ()
            for position in {p for name in names for p in self.labels.find_all(name)}:
                counts[position] = counts.get(position, 0) + 1
        return counts


def _guessed_by(retriever: Retriever, labels: LabelSet) -> GuessedBy:
    """Labels that guesses name: by one of their names, or as the nearest label of a guess."""

    def guessed(guesses: Sequence[str]) -> set[int]:
        vectors = retriever.encoder.encode(list(guesses))
        nearest, _ = retriever.index.search(vectors, 1)
        named = {position for guess in guesses for position in labels.find_all(guess)}
        return {*nearest[:, 0].tolist(), *named}

    return guessed


def _output_folder(arguments: argparse.Namespace) -> Path | None:
    if arguments.output is None:
        return None
    folder = Path(arguments.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from error
    return folder


def _made(arguments: argparse.Namespace) -> dict[str, str]:
    from irr import __version__

    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        "irr": __version__,
        "date": today,
        "command": arguments.command.encode("utf-8", "replace").decode(),
    }


def _write_folder(folder: Path, report: dict[str, Any]) -> None:
    from irr.cache import write_atomic
    from irr.evaluate.page import page

    try:
        text = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
        write_atomic(folder / "metrics.json", text.encode("utf-8", "replace"))
        write_atomic(folder / "report.html", page(report).encode("utf-8", "replace"))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _print(
    arguments: argparse.Namespace,
    report: dict[str, Any],
    folder: Path | None,
) -> None:
    if arguments.json:
        first = report["programs"][0]
        row = {"metrics": first["metrics"], "documents": report["documents"]}
        sys.stdout.write(json.dumps({**row, "report": report}, ensure_ascii=False) + "\n")
        return
    from irr.show import print_table

    names = [program["name"] for program in report["programs"]]
    header = ["metric", *(cell for name in names for cell in (name, "95% interval"))]
    rows = []
    for metric in report["programs"][0]["metrics"]:
        cells = [_cells(program["metrics"][metric]) for program in report["programs"]]
        rows.append([metric, *(cell for pair in cells for cell in pair)])
    print_table(sys.stdout, header, rows)
    for line in _sentences(report):
        sys.stdout.write(line + "\n")
    if folder is not None:
        sys.stdout.write(f"wrote {folder / 'report.html'}\n")


def _cells(bounds: dict[str, float | None]) -> tuple[str, str]:
    if bounds["mean"] is None:
        return "-", "-"
    if bounds["low"] is None or bounds["high"] is None:
        return f"{bounds['mean']:.1f}", "-"
    return f"{bounds['mean']:.1f}", f"{bounds['low']:.1f} to {bounds['high']:.1f}"


def _sentences(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{report['documents']:,} documents, {report['without_gold']:,} without labels, "
        f"{sum(program['failed'] for program in report['programs']):,} failed"
    )
    for program in report["programs"]:
        stages = program["stages"]
        if stages["gold"] and stages["retrieved"] is not None:
            among, top = (100 * stages[s] / stages["gold"] for s in ("retrieved", "top_k"))
            yield (
                f"{program['name']}: of 100 gold labels {among:.0f} were among the candidates, "
                f"{top:.0f} in the top {stages['k']}"
            )
    for row in report["differences"]:
        if row["metric"].endswith("@10") and row["mean"] is not None:
            yield (
                f"{row['a']} minus {row['b']}, {row['metric']}: {row['mean']:+.1f} "
                f"({row['low']:+.1f} to {row['high']:+.1f})"
            )
    for row in report["published"]:
        scores = ", ".join(f"{key} {row[key]}" for key in row if "@" in key and row[key] != "-")
        yield f"published ({row['split']}): {row['system']}: {scores}"
    unknown = report["unknown_gold"]
    if unknown:
        some = ", ".join(repr(name) for name in list(unknown)[:3])
        yield f"{sum(unknown.values()):,} gold labels are not in the label set, such as {some}"
    for program in report["programs"]:
        if program["unknown_predicted"]:
            count = program["unknown_predicted"]
            yield f"{program['name']}: {count:,} predicted labels are not in the label set: wrong"


def _status(evaluations: Sequence[Evaluation]) -> int:
    status = 0
    for evaluation in evaluations:
        if evaluation.failed:
            what = " ".join((evaluation.failure or "").split())
            sys.stderr.write(
                f"irr: {evaluation.name}: {evaluation.failed:,} failed, the first: {what}\n"
            )
            status = SOME_FAILED
    return status
