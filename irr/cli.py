"""What the commands share: the `irr` script, error lines, logging, options of a program.

A command is a thin ``main(argv) -> int`` over a function that scripts can import. Imports of this
module are light: ``--help`` must answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from irr.errors import ConfigurationError, IrrError, OutputError

if TYPE_CHECKING:
    from irr.build import LMChoice
    from irr.ledger import Ledger
    from irr.program import InferRetrieveRank

__all__ = ["Parser", "add_program_options", "fail", "main", "program_from", "run_command"]

# Name: (module and function, what it is for).
COMMANDS = {
    "predict": ("irr.predict:main", "tag texts with labels"),
    "compile": ("irr.compile:main", "make a program from tens of labelled texts"),
    "evaluate": ("irr.evaluate:main", "measure predictions on texts with known labels"),
    "show": ("irr.inspection:show", "print the card of a program"),
    "diff": ("irr.inspection:diff", "say how two programs differ"),
    "labels": ("irr.inspection:labels", "add labels to a program without compiling again"),
}
INTERRUPTED = 130
DEFAULT_WINDOW = 100


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse says NoReturn
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The `irr` script: ``irr COMMAND …`` does what ``python -m irr.COMMAND …`` does."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        import importlib

        module, _, function = COMMANDS[arguments[0]][0].partition(":")
        status: int = getattr(importlib.import_module(module), function)(arguments[1:])
        return status
    parser = Parser(prog="irr", description="Infer–Retrieve–Rank: tag texts with labels.")
    listing = "\n".join(f"  {name:10} {purpose}" for name, (_, purpose) in COMMANDS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"commands:\n{listing}\n\n'irr COMMAND --help' says more of each."
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="what to do")
    parser.add_argument("--version", action="version", version=_version())
    parser.parse_args(arguments)
    return 2


def _version() -> str:
    from irr import __version__

    return f"irr {__version__}"


def run_command(command: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a command: errors become one line on stderr and an exit status, Ctrl-C becomes 130."""
    logging.basicConfig(
        level=logging.DEBUG if arguments.debug else logging.WARNING,
        format="irr: %(message)s" if not arguments.debug else "%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Chatty libraries: at debug level they would write headers and whole prompts.
    for noisy in ("httpx", "httpcore", "urllib3", "LiteLLM", "openai", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with contextlib.suppress(AttributeError, ValueError):  # not on Windows, not in a thread
        signal.signal(signal.SIGTERM, _terminate)
    try:
        return command(arguments)
    except OutputError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return _reader_gone()
        return fail(error, debug=arguments.debug)
    except IrrError as error:
        return fail(error, debug=arguments.debug)
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt:
        sys.stderr.write("irr: interrupted\n")
        return INTERRUPTED


def _terminate(signum: int, frame: object) -> None:  # noqa: ARG001 - given by signal
    raise KeyboardInterrupt


def fail(error: IrrError, *, debug: bool) -> int:
    """Say what went wrong, in one line; the traceback only with --debug."""
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    if message:
        sys.stderr.write(f"irr: error: {message}\n")
    return error.exit_status


def _reader_gone() -> int:
    """The reader of our pipe went away, like `head`: nothing to say, and nothing left to flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141  # 128 + SIGPIPE, as the shell shows it for other programs


def add_program_options(parser: argparse.ArgumentParser, *, examples: bool = True) -> None:
    """The options that say what program to run: labels, encoder, LMs, prompts, settings."""
    what = parser.add_argument_group("labels and prompts")
    what.add_argument(
        "--labels",
        metavar="FILE",
        help="label set: txt, csv, tsv or jsonl, also .gz; or icd10cm (codes from a package)",
    )
    what.add_argument("--program", metavar="DIR", help="what compile wrote, instead of --labels")
    what.add_argument(
        "--task",
        metavar="PROMPTS",
        help="wording of the prompts: generic (the default), esco, biodex, or a TOML file",
    )
    parser.set_defaults(examples=None)
    if examples:
        what.add_argument(
            "--examples",
            metavar="FILE",
            help="a few documents with labels, shown to the LM as examples",
        )
    lms = parser.add_argument_group("LMs (keys come from the environment: OPENAI_API_KEY)")
    lms.add_argument(
        "--lm",
        metavar="NAME",
        help="none, openai/MODEL, or a model of the server at --api-base (default: none, or what "
        "the program was compiled with)",
    )
    lms.add_argument(
        "--api-base",
        metavar="URL",
        help="an OpenAI-compatible server, such as http://127.0.0.1:8000/v1",
    )
    for stage in ("infer", "rank"):
        lms.add_argument(
            f"--{stage}-lm", metavar="NAME", help=f"another LM for {stage.capitalize()}, or none"
        )
        lms.add_argument(
            f"--{stage}-api-base", metavar="URL", help="its server, where not --api-base"
        )
    lms.add_argument(
        "--in-flight",
        type=positive_int,
        default=32,
        metavar="N",
        help="most LM requests at once (default: %(default)s)",
    )
    lms.add_argument(
        "--timeout",
        type=positive_float,
        default=120.0,
        metavar="SECONDS",
        help="longest wait for an LM (default: %(default)s)",
    )
    lms.add_argument(
        "--max-tokens",
        type=positive_int,
        default=1024,
        metavar="N",
        help="longest reply of an LM (default: %(default)s)",
    )
    search = parser.add_argument_group("retrieval")
    search.add_argument(
        "--candidates",
        type=positive_int,
        metavar="N",
        help="labels that Retrieve proposes (default: 100)",
    )
    search.add_argument(
        "--window",
        type=positive_int,
        metavar="N",
        help="candidates in one prompt of Rank (default: 100)",
    )
    search.add_argument(
        "--fusion",
        type=non_negative_float,
        metavar="WEIGHT",
        help="weight of retrieval's order beside Rank's (default: 0)",
    )
    search.add_argument(
        "--priors", metavar="FILE", help="JSON object: how frequent each label is, by name or id"
    )
    search.add_argument(
        "--encoder",
        default=None,
        metavar="NAME",
        help="sentence-transformers model: a name or a folder (default: all-MiniLM-L6-v2)",
    )
    search.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto, cpu, cuda, mps or torch (default: %(default)s)",
    )
    search.add_argument(
        "--threads",
        type=positive_int,
        default=None,
        metavar="N",
        help="CPU threads (default: all that this process may use)",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and what happens")


def program_from(
    arguments: argparse.Namespace, *, ledger: Ledger | None = None
) -> InferRetrieveRank:
    """The program that the options of `add_program_options` describe."""
    from irr.build import build_program, open_program
    from irr.documents import read_gold
    from irr.retrieve import RetrieveSettings
    from irr.show import EmbeddingProgress

    where = {"device": arguments.device, "threads": arguments.threads}
    lms = lms_from(arguments)
    if arguments.program:
        _refuse_what_a_program_settles(arguments)
        return open_program(arguments.program, lm=lms, ledger=ledger, **where)
    settings = {"candidates": arguments.candidates} if arguments.candidates else {}
    return build_program(
        arguments.labels,
        lm=lms,
        encoder=arguments.encoder,
        prompts=arguments.task or "generic",
        examples=list(read_gold(arguments.examples)) if arguments.examples else (),
        settings=RetrieveSettings(**settings),
        priors=arguments.priors,
        window=arguments.window or DEFAULT_WINDOW,
        fusion=arguments.fusion or 0.0,
        progress=EmbeddingProgress(),
        ledger=ledger,
        **where,
    )


def lms_from(arguments: argparse.Namespace) -> LMChoice:
    """The LMs that the options describe; none named is None, which a program fills in."""
    from irr.build import LMChoice

    return LMChoice(
        name=arguments.lm,
        api_base=arguments.api_base,
        infer=arguments.infer_lm,
        infer_api_base=arguments.infer_api_base,
        rank=arguments.rank_lm,
        rank_api_base=arguments.rank_api_base,
        timeout=arguments.timeout,
        in_flight=arguments.in_flight,
        max_tokens=arguments.max_tokens,
    )


def _refuse_what_a_program_settles(arguments: argparse.Namespace) -> None:
    settled = ("labels", "task", "examples", "candidates", "window", "fusion", "priors", "encoder")
    given = [f"--{name}" for name in settled if getattr(arguments, name) is not None]
    if given:
        raise ConfigurationError(f"{', '.join(given)}: --program settles that; leave it out")


def positive_int(text: str) -> int:
    value = int(text) if text.strip().isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def positive_float(text: str) -> float:
    value = non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def non_negative_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
