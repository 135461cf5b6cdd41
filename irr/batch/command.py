"""The commands `irr batch write` and `irr batch read`.

`write` takes the options of `irr predict` that decide what is asked; its files of requests are
sent by other means. `read` takes the files of answers. Neither needs a key or a server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irr.cli import SOME_FAILED, Parser, run_command
from irr.errors import ConfigurationError
from irr.options import add_program_options, positive_int

if TYPE_CHECKING:
    from irr.batch.answers import Tally
    from irr.batch.asked import Asked
    from irr.batch.collect import Progress
    from irr.batch.requests import RequestFiles
    from irr.build import LMChoice
    from irr.ledger import Ledger
    from irr.program import InferRetrieveRank

__all__ = ["main"]

# Problems of answers that are told of one by one.
_TOLD = 5
_REFRESH_SECONDS = 0.5
# What a run has beside its output: `irr.journal`, `irr.ledger`, `irr.batch.asked`.
_BESIDE = (
    *("", ".partial", ".retry", ".run.json", ".run.json.new", ".lock", ".new"),
    *(".replies", ".replies-wal", ".replies-shm", ".requests", ".requests-journal"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    command = {"write": _write, "read": _read}[arguments.action]
    return run_command(command, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="irr batch",
        description="Ask LMs through OpenAI's Batch API or vLLM's run-batch.",
        epilog="Rounds of 'write', sending, and 'read' until 'write' says that all replies are "
        "there; then 'irr predict' with the same options makes the rows.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="write|read")
    write = actions.add_parser(
        "write",
        help="write the requests that have no reply yet",
        description="Write the requests that have no reply yet. Nothing is sent.",
    )
    write.add_argument("--input", required=True, metavar="FILE", help="as for irr predict")
    _add_output(write)
    write.add_argument(
        "--requests",
        required=True,
        metavar="FILE",
        help="the requests, such as requests.jsonl; of more than OpenAI takes in one file, "
        "requests-00001.jsonl and so on",
    )
    write.add_argument(
        "--top-k", type=positive_int, default=10, metavar="N", help="as for irr predict"
    )
    write.add_argument("--trace", action="store_true", help="as for irr predict")
    write.add_argument("--resume-changed", action="store_true", help="as for irr predict")
    write.add_argument("--retry-failed", action="store_true", help="as for irr predict")
    add_program_options(write)
    read = actions.add_parser(
        "read", help="read answers", description="Keep the replies in files of answers."
    )
    read.add_argument("answers", nargs="+", metavar="ANSWERS", help="jsonl, also .gz; - for stdin")
    _add_output(read)
    read.add_argument(
        "--prices",
        metavar="FILE",
        help='batch prices: {"MODEL": {"input": 0.075, "output": 0.3}}, dollars for a million '
        "tokens; without it, the list prices of known models, which are higher",
    )
    read.add_argument("--debug", action="store_true", help="show tracebacks and what happens")
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="where irr predict will write; the replies are kept beside it",
    )


def _write(arguments: argparse.Namespace) -> int:
    from irr.ledger import Ledger
    from irr.options import program_from
    from irr.runs import replies_of

    _check_files(arguments)
    lms = _asked_lms(arguments)
    with contextlib.closing(Ledger(replies_of(arguments.output))) as ledger:
        reached = _without_server(lms)
        program = program_from(arguments, lms=reached, depth=arguments.top_k, ledger=ledger)
        _write_round(arguments, program, ledger, _listed_names(lms))
    return 0


def _write_round(
    arguments: argparse.Namespace,
    program: InferRetrieveRank,
    ledger: Ledger,
    listed: dict[str, str],
) -> None:
    from irr.batch.asked import Asked, LMOfRole, requests_of
    from irr.batch.collect import Collector, collect_requests
    from irr.batch.requests import RequestFiles
    from irr.documents import read_documents
    from irr.runs import RunSettings, open_journal, remove_replies

    settings = RunSettings(
        top_k=arguments.top_k,
        trace=arguments.trace,
        resume_changed=arguments.resume_changed,
        retry_failed=arguments.retry_failed,
    )
    with open_journal(program, arguments.output, settings) as journal:
        if journal.finished:
            for _ in journal.remaining(read_documents(arguments.input)):
                pass  # There is none: this checks that the input is still that of the run.
            sys.stderr.write(f"irr: {arguments.output} is finished: {journal.rows:,} rows\n")
            if not journal.failed:
                remove_replies(arguments.output)
            return
        with Asked(requests_of(arguments.output), new=True) as asked:
            roles = {model: role for role, model in ledger.models().items()}
            asked.note_lms({role: LMOfRole(model, listed[model]) for model, role in roles.items()})
            requests = RequestFiles(
                Path(arguments.requests), older=asked.files(), settle=asked.note_file
            )
            with requests as files:
                progress = collect_requests(
                    program,
                    journal.remaining(read_documents(arguments.input)),
                    Collector(asked, files, roles),
                    top_k=arguments.top_k,
                    tell=_Shown(files),
                )
            asked.note_files(files.paths)
            asked.commit()
            _tell_round(arguments, files, progress)
            if not files.requests and not progress.failed:
                asked.remove()


class _Shown:
    """At a terminal, how far a round has come; the line is cleared by what is said at the end."""

    def __init__(self, files: RequestFiles) -> None:
        self._files = files
        self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._terminal and now - self._last >= _REFRESH_SECONDS:
            self._last = now
            requests = _count(self._files.requests, "request")
            line = f"irr: {_count(progress.documents, 'document')}, {requests}"
            sys.stderr.write(f"\r{line:<78}\r")
            sys.stderr.flush()


def _tell_round(arguments: argparse.Namespace, files: RequestFiles, progress: Progress) -> None:
    if progress.failed:
        sys.stderr.write(
            f"irr: {_count(progress.failed, 'document')} cannot be finished by a batch: 'irr "
            f"predict' will ask for what was refused; the first: {progress.failure}\n"
        )
    if not files.requests:
        sys.stderr.write("irr: all replies are there: run 'irr predict' with the same options\n")
        return
    where = str(files.paths[0])
    if len(files.paths) > 1:
        where = f"{len(files.paths):,} files, {where} to {files.paths[-1].name}"
    sys.stderr.write(
        f"irr: {_count(files.requests, 'request')} in {where}: send them, read the answers with "
        f"'irr batch read ANSWERS --output {arguments.output}', and run this command again\n"
    )


def _read(arguments: argparse.Namespace) -> int:
    from irr.batch.answers import Tally, read_answers
    from irr.batch.asked import Asked, requests_of
    from irr.ledger import Ledger
    from irr.prices import known_prices
    from irr.runs import replies_of

    with Asked(requests_of(arguments.output)) as asked:
        lms = asked.lms()
        prices = known_prices(
            [(lm.name, None) for lm in lms.values()], prices_file=arguments.prices
        )
        with contextlib.closing(Ledger(replies_of(arguments.output), prices=prices)) as ledger:
            for role, lm in lms.items():
                ledger.open_account(role, lm.model)
            tally, problems = Tally(), _Problems()
            try:
                for path in arguments.answers:
                    read_answers(path, asked, ledger, tally, problems.tell)
            finally:
                _tell_answers(arguments, tally, asked, ledger)
    return SOME_FAILED if tally.problems else 0


class _Problems:
    """Tells of the first few problems."""

    def __init__(self) -> None:
        self._told = 0

    def tell(self, problem: str) -> None:
        self._told += 1
        if self._told <= _TOLD:
            sys.stderr.write(f"irr: {problem}\n")


def _tell_answers(
    arguments: argparse.Namespace, tally: Tally, asked: Asked, ledger: Ledger
) -> None:
    counts = ledger.counts().values()
    tokens = [sum(c.input_tokens for c in counts), sum(c.output_tokens for c in counts)]
    parts = [f"{_count(tally.replies, 'new reply', 'new replies')} ({tokens[0]:,} tokens in, "]
    parts[0] += f"{tokens[1]:,} out{_cost(arguments, ledger)})"
    for number, what in (
        (tally.repeated, "read before"),
        (tally.errors, "with an error"),
        (tally.strangers, "of another run"),
        (tally.unreadable, "that cannot be read"),
    ):
        if number:
            parts.append(f"{_count(number, 'line')} {what}")
    waiting = asked.waiting()
    parts.append(
        f"{_count(waiting, 'request')} without an answer"
        if waiting
        else "every request has its answer: run 'irr batch write' again"
    )
    sys.stderr.write(f"irr: {', '.join(parts)}\n")


def _cost(arguments: argparse.Namespace, ledger: Ledger) -> str:
    costs = [counts.cost for counts in ledger.counts().values()]
    if None in costs or not any(costs):
        return ""
    dollars = sum(cost for cost in costs if cost is not None)
    return f", ${dollars:,.4g}" if arguments.prices else f", ${dollars:,.4g} at list prices"


def _check_files(arguments: argparse.Namespace) -> None:
    """Requests go to a file of their own, and replies are kept beside an output that is one."""
    from irr.journal import is_journaled

    if not arguments.labels and not arguments.program:
        raise ConfigurationError("give the labels to tag with: --labels FILE, or --program DIR")
    for name in ("output", "requests"):
        if not is_journaled(getattr(arguments, name)):
            raise ConfigurationError(f"--{name} {getattr(arguments, name)}: name a file")
    requests = Path(arguments.requests)
    if requests.suffix.lower() == ".gz":
        raise ConfigurationError(f"--requests {requests}: no server takes a packed file: .jsonl")
    for name in ("input", "output", "labels", "examples", "priors"):
        other = getattr(arguments, name)
        if other and (
            requests.absolute() == Path(other).absolute()
            or (requests.exists() and Path(other).exists() and requests.samefile(other))
        ):
            raise ConfigurationError(f"--requests is the file of --{name}: name another one")
    if taken := _taken(requests, Path(arguments.output)):
        raise ConfigurationError(
            f"--requests {requests} would replace {taken}, a file of the run: name another one"
        )


def _taken(requests: Path, output: Path) -> Path | None:
    """The file of the run that files of requests could replace."""
    family = re.compile(
        rf"{re.escape(requests.stem)}(-\d{{5,}})?{re.escape(requests.suffix)}(\.partial)?",
        re.IGNORECASE,  # Some disks do not tell names apart by it.
    )
    outputs = (output.absolute(), Path(os.path.realpath(output)))  # Replies are beside a link.
    folders = {Path(os.path.realpath(requests.parent)), Path(os.path.realpath(requests)).parent}
    for path in (Path(f"{each}{ending}") for each in outputs for ending in _BESIDE):
        if Path(os.path.realpath(path.parent)) in folders and family.fullmatch(path.name):
            return path
        if os.path.realpath(path) == os.path.realpath(requests):
            return path
    return None


def _asked_lms(arguments: argparse.Namespace) -> LMChoice:
    from irr.build import completed
    from irr.options import lms_from

    lms = lms_from(arguments)
    if arguments.program:
        lms = completed(lms, arguments.program)
    if lms.none:
        raise ConfigurationError("a batch asks an LM: name it with --lm")
    return lms


def _without_server(lms: LMChoice) -> LMChoice:
    """The same LMs, asked by the same bodies, where neither key nor server is needed."""
    from irr.lm.settings import OPENAI_BASE

    changes: dict[str, Any] = {}
    for stage in ("infer", "rank"):
        name, base = lms.for_stage(stage)
        provider, slash, model = name.partition("/")
        if slash and provider == "vllm":  # What a server that irr starts calls its model.
            name, base = f"openai/{model}", base or OPENAI_BASE
        elif slash and provider == "openai" and base is None:
            # An address that is given needs no key.
            base = os.environ.get("OPENAI_BASE_URL") or OPENAI_BASE
        changes[stage], changes[f"{stage}_api_base"] = name, base
    return replace(lms, **changes)


def _listed_names(lms: LMChoice) -> dict[str, str]:
    """Model → the name under which its price may be listed: OpenAI's own with ``openai/``."""
    names = {}
    for stage in ("infer", "rank"):
        name, base = lms.for_stage(stage)
        provider, slash, rest = name.partition("/")
        model = rest if slash and provider in ("openai", "vllm") else name
        at_openai = provider == "openai" and not (base or os.environ.get("OPENAI_BASE_URL"))
        names[model] = name if at_openai else model
    return names


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
