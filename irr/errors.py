"""The tree of errors: every failure that `irr` foresees is an `IrrError`.

A message says what is wrong, where (file and line), and how to mend it. The command line prints
it as one line on standard error and exits with the class's `exit_status`; a traceback appears
only with ``--debug``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ConfigurationError",
    "DocumentError",
    "EncoderError",
    "InputError",
    "IrrError",
    "LMError",
    "LabelSetError",
    "OutputError",
    "PromptError",
    "ReplyError",
]


class IrrError(Exception):
    """The root. `exit_status` is what a command exits with (never 0)."""

    exit_status = 1


class ConfigurationError(IrrError):
    """Options, settings or the environment do not fit together: the user's call must change."""

    exit_status = 2


class InputError(IrrError):
    """A file that was given cannot be used. The message starts with ``file:line:``.

    Args:
        message: what is wrong and how to mend it.
        path: the file, or a name such as ``<stdin>``.
        line: 1-based line, or None where the whole file is meant.
    """

    exit_status = 3

    def __init__(
        self, message: str, *, path: str | Path | None = None, line: int | None = None
    ) -> None:
        self.path = None if path is None else str(path)
        self.line = line
        where = "" if path is None else f"{path}:" if line is None else f"{path}:{line}:"
        super().__init__(f"{where} {message}" if where else message)


class LabelSetError(InputError):
    """A label set file cannot be used."""


class DocumentError(InputError):
    """A file of documents, gold or examples cannot be used."""


class PromptError(InputError):
    """A prompts file cannot be used."""


class OutputError(IrrError):
    """Results could not be written: disk full, no permission, the reader of a pipe gone."""

    exit_status = 4


class EncoderError(IrrError):
    """An encoder cannot be found, loaded or exported."""

    exit_status = 5


class LMError(IrrError):
    """The LM could not be asked, or gave no answer.

    Args:
        message: what happened, without any key or header in it.
        retryable: True when the same request may succeed later (429, 5xx, resets, time-outs).
        retry_after: seconds the server asked to wait, or None.
        fatal: True when no other request can succeed either (wrong key, unknown model,
            no server): a run stops instead of failing row by row.
        status: the HTTP status, or None where no reply came.
    """

    exit_status = 6

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        fatal: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after
        self.fatal = fatal
        self.status = status


class ReplyError(LMError):
    """The LM answered, but the answer cannot be read as what the prompt asks for."""
