"""What the commands share: the `irr` script, error lines, exit statuses, logging.

A command is a thin ``main(argv) -> int`` over a function that scripts can import. Imports of this
module are light: ``--help`` must answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from irr.errors import IrrError, OutputError

__all__ = ["Parser", "fail", "main", "run_command"]

# Name: (module and function, what it is for).
COMMANDS = {
    "predict": ("irr.predict:main", "tag texts with labels"),
    "compile": ("irr.compile:main", "make a program from tens of labelled texts"),
    "evaluate": ("irr.evaluate:main", "measure predictions on texts with known labels"),
    "show": ("irr.inspection:show", "print the card of a program"),
    "diff": ("irr.inspection:diff", "say how two programs differ"),
    "labels": ("irr.inspection:labels", "show, check or convert labels; add labels to a program"),
    "index": ("irr.indexing:main", "embed a large label set ahead of its first use"),
    "batch": ("irr.batch:main", "write requests for a batch API, and read its answers"),
    "suggest": ("irr.suggest:main", "new labels that predictions ask for"),
}
INTERRUPTED = 130
BUG = 70
# A run that finished, but with rows that are errors.
SOME_FAILED = 7
# That Ctrl-C or SIGTERM came, also where the exception was turned into another one.
_interrupted = threading.Event()


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
        with _noting_interrupts():
            try:
                status: int = getattr(importlib.import_module(module), function)(arguments[1:])
            except KeyboardInterrupt:
                return _say_interrupted()
            except ImportError:
                if not _interrupted.is_set():
                    raise
                return _say_interrupted()
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
    _mend_streams()
    logging.basicConfig(
        level=logging.DEBUG if arguments.debug else logging.WARNING,
        format="irr: %(message)s" if not arguments.debug else "%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # Chatty libraries: at debug level they would write headers and whole prompts.
    for noisy in ("httpx", "httpcore", "urllib3", "LiteLLM", "openai", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with _noting_interrupts():
        try:
            status = command(arguments)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return _say_interrupted()
        except Exception as error:
            if _interrupted.is_set() and _is_of_import(error):
                return _say_interrupted()
            return _failed(error, debug=arguments.debug)
    return status


@contextlib.contextmanager
def _noting_interrupts() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM are noted and raise KeyboardInterrupt; not where ignored."""
    before: dict[signal.Signals, object] = {}
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    with contextlib.suppress(ValueError):  # not in a thread
        for number, default in defaults.items():
            if signal.getsignal(number) == default:
                before[number] = signal.signal(number, _interrupt)
    if before:
        _interrupted.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was given


def _interrupt(signum: int, frame: object) -> None:  # noqa: ARG001 - given by signal
    _interrupted.set()
    raise KeyboardInterrupt


def _is_of_import(error: BaseException | None) -> bool:
    """Whether an import failed, as it does where an interrupt meets an extension module."""
    while error is not None:
        if isinstance(error, ImportError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _say_interrupted() -> int:
    sys.stderr.write("irr: interrupted\n")
    return INTERRUPTED


def _failed(error: Exception, *, debug: bool) -> int:
    if isinstance(error, BrokenPipeError) or isinstance(error.__cause__, BrokenPipeError):
        return _reader_gone()
    if isinstance(error, IrrError):
        return fail(error, debug=debug)
    if isinstance(error, OSError):
        _drop_stdout()
        return fail(OutputError(f"cannot read or write: {error}"), debug=debug)
    if debug:
        traceback.print_exception(error)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    sys.stderr.write(f"irr: error: this is a bug of irr: {what}; --debug shows where\n")
    return BUG


def _mend_streams() -> None:
    """Closed streams, and streams of a locale that cannot hold all characters."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
    if sys.stdout is None:
        # Said by whoever writes there; argparse and others rely on a stream being there.
        sys.stdout = _Closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8", errors="replace")


class _Closed(io.StringIO):
    """Standard output where there is none."""

    def write(self, _text: str) -> int:
        raise OutputError("standard output is closed: give --output FILE")


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
    _drop_stdout()
    return 141  # 128 + SIGPIPE, as the shell shows it for other programs


def _drop_stdout() -> None:
    """What is left in the buffer must not fail again when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
