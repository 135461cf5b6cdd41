"""Predictions → JSON lines on standard output, in a pipe, or in a file that is made in one go.

In: predictions, one at a time. Out: a line for each. The line's keys: `prediction_to_json`; what
becomes of a run that ends early: `LineWriter`. A run that can be resumed, and files that are
packed or Parquet: `irr.journal`.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import itertools
import json
import logging
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TextIO

from irr.errors import OutputError
from irr.files import HALF_CHARACTER
from irr.types import Prediction, ScoredLabel, Usage

__all__ = [
    "CAN_LOCK",
    "LineWriter",
    "PredictionWriter",
    "is_at",
    "lock",
    "output_failure",
    "prediction_to_json",
    "row_to_json",
]

logger = logging.getLogger(__name__)

# JSON allows these in strings, but some line splitters (Python's, editors') break lines at them.
_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
CAN_LOCK = importlib.util.find_spec("fcntl") is not None
"""Windows has no such locks; there two runs onto one file are noticed only when the first ends."""
_USAGE = tuple(field.name for field in fields(Usage))
_TRIES = 10


class LineWriter:
    """Lines of UTF-8 on their way to a file, or for "-" to standard output, each at once.

    A context manager. A file is written as ``<path>.partial`` and takes its name when all went
    well; after an error or interrupt its finished lines stay there, and a warning says so. What
    an earlier run left there is renamed first; what another run is still writing is locked, and
    left alone. Devices and pipes are written directly.

    Raises:
        OutputError: when the target cannot be opened or written; its cause is the OSError,
            a BrokenPipeError where the reader of a pipe has gone. Without a cause when another
            run is writing the target, or has taken ``<path>.partial`` away.
    """

    _text: TextIO
    _final: Path
    _ours: os.stat_result

    def __init__(self, target: str | Path) -> None:
        self.name = "<stdout>" if str(target) == "-" else str(target)
        self.rows = 0
        self.partial: Path | None = None
        self._target = target
        self._raw: BinaryIO | None = None
        self._lock: int | None = None
        self._whole = 0

    def __enter__(self) -> Self:
        try:
            self._text = self._stdout() if str(self._target) == "-" else self._open_file()
        except OSError as exc:
            raise self._failure(exc) from exc
        return self

    def write_line(self, line: str) -> None:
        """Write `line`, which must hold no line break, and a line break."""
        try:
            self._text.write(line + "\n")
            self._text.flush()
            self._whole = self._raw.tell() if self.partial and self._raw else 0
        except OSError as exc:
            raise self._failure(exc) from exc
        self.rows += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._raw is None:
            return
        try:
            self._end(self._raw, well=kind is None)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _end(self, raw: BinaryIO, *, well: bool) -> None:
        try:
            self._close(raw)
            if well and self.partial:
                self._take_name(self.partial)
                return
        except OSError as failed:
            if well:
                self._keep_partial()
                raise self._failure(failed) from failed
        self._keep_partial()

    @staticmethod
    def _stdout() -> TextIO:
        # Output is UTF-8 with "\n" whatever the locale; a StringIO put in its place needs nothing.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        return sys.stdout

    def _open_file(self) -> TextIO:
        path = Path(self._target)
        if path.exists() and not path.is_file() and not path.is_dir():
            raw: BinaryIO = path.open("wb")
        else:
            # Through a link, so that its target is replaced and not the link.
            self._final = Path(os.path.realpath(path))
            if self._final.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder; give a file")
            partial = self._final.with_name(self._final.name + ".partial")
            raw = self._claim(partial)
            self._ours = os.fstat(raw.fileno())
            if CAN_LOCK:  # A second hold on the lock, which outlasts the closing of `raw`.
                self._lock = os.dup(raw.fileno())
            self.partial = partial
        self._raw = raw
        return io.TextIOWrapper(raw, encoding="utf-8", newline="\n")

    def _claim(self, partial: Path) -> BinaryIO:
        """Make `partial` and lock it, so that no other run takes it for one left behind."""
        for _ in range(_TRIES):  # Again only where another run came between two of the steps.
            try:
                raw = partial.open("xb")
            except FileExistsError:
                if not _set_aside(partial):
                    break
                continue
            if lock(raw) and is_at(os.fstat(raw.fileno()), partial):
                return raw
            raw.close()
        raise OutputError(
            f"{self.name}: another run is writing this file: wait for it or name another --output"
        )

    def _take_name(self, partial: Path) -> None:
        if not is_at(self._ours, partial):
            raise OutputError(
                f"{self.name}: {partial} was moved, removed or replaced while it was written: "
                f"find its {self.rows} rows where it was moved, or run again"
            )
        partial.replace(self._final)

    def _close(self, raw: BinaryIO) -> None:
        try:
            self._text.flush()
            if self.partial:
                os.fsync(raw.fileno())
        finally:
            raw.close()

    def _keep_partial(self) -> None:
        if self.partial is None:
            return
        if not is_at(self._ours, self.partial):
            if not self.rows:
                return
            logger.warning(
                "%s was moved, removed or replaced while it was written: "
                "find its %d finished rows where it was moved",
                self.partial,
                self.rows,
            )
            return
        with suppress(OSError):
            if not self.rows:
                self.partial.unlink()
                return
            os.truncate(self.partial, self._whole)  # A full disk may have cut the last line.
        logger.warning("%d finished rows are kept in %s", self.rows, self.partial)

    def _failure(self, exc: OSError) -> OutputError:
        if self.name == "<stdout>":
            # What is left in the buffer must not fail again when the interpreter ends.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return output_failure(self.name, exc)


class PredictionWriter(LineWriter):
    """A `LineWriter` of predictions."""

    def write(self, prediction: Prediction) -> None:
        """Write one row (see `prediction_to_json`)."""
        self.write_line(prediction_to_json(prediction))


def prediction_to_json(prediction: Prediction) -> str:
    """Make one line of JSON, without the line break, in characters every line splitter agrees on.

    Keys: id, status, labels, guesses, usage, and where there is something to say notes, error
    (status "error" only) and trace, whose values must be JSON's. Scores have four decimals. Half
    a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD.
    """
    row: dict[str, object] = {
        "id": prediction.id,
        "status": prediction.status,
        "labels": [_label_row(label) for label in prediction.labels],
        "guesses": prediction.guesses,
        "usage": {name: getattr(prediction.usage, name) for name in _USAGE},
    }
    if prediction.notes:
        row["notes"] = prediction.notes
    if prediction.status == "error" and prediction.error is not None:
        row["error"] = dict(zip(("class", "message"), prediction.error, strict=True))
    if prediction.trace is not None:
        row["trace"] = prediction.trace
    return row_to_json(row)


def row_to_json(row: Mapping[str, object]) -> str:
    """Make the line of a row whose keys are those of `prediction_to_json`, in their order."""
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    if line.isascii():
        return line
    return HALF_CHARACTER.sub("\ufffd", line.translate(_LINE_BREAKS))


def output_failure(name: str, exc: OSError) -> OutputError:
    """Make the error to raise where `name` cannot be opened or written."""
    if isinstance(exc, BrokenPipeError):
        return OutputError(f"{name}: its reader has gone")
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{name}: the disk is full: free some space and run again")
    if exc.errno == errno.ENOENT:
        return OutputError(f"{name}: its folder does not exist: create it first")
    return OutputError(f"{name}: cannot be written: {exc.strerror or exc}")


def _label_row(label: ScoredLabel) -> dict[str, object]:
    row: dict[str, object] = {
        "id": label.id,
        "label": label.label,
        "score": round(float(label.score), 4) + 0.0,  # + 0.0 turns -0.0 into 0.0.
        "evidence": label.evidence,
    }
    if label.picked is not None:
        row["picked"] = label.picked
    return row


def _set_aside(partial: Path) -> bool:
    """Take what an interrupted run left out of the way; False where a run is still writing it."""
    try:
        if not (CAN_LOCK and stat.S_ISREG(partial.lstat().st_mode)):
            _rename(partial)
            return True
        # Some network drives lock only what can be written.
        with partial.open("r+b" if os.access(partial, os.W_OK) else "rb") as left:
            if not lock(left):
                return False
            # Only who holds the lock renames, so the file stays in its place from here on.
            status = os.fstat(left.fileno())
            if not is_at(status, partial):
                return True
            if status.st_size:
                _rename(partial)
            else:
                partial.unlink()
    except FileNotFoundError:
        return True  # Its run has just ended.
    return True


def _rename(partial: Path) -> None:
    names = (partial.with_name(f"{partial.name}.{n}") for n in itertools.count(1))
    older = next(name for name in names if not os.path.lexists(name))
    partial.rename(older)
    logger.warning("rows of an interrupted run are kept in %s", older)


def lock(file: BinaryIO) -> bool:
    """Lock `file` until it is closed; False where another run has. Without locks always True."""
    if not CAN_LOCK:
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # The latter on CIFS.
        return False
    except OSError as exc:
        logger.debug("%s cannot be locked: %s", file.name, exc)
    return True


def is_at(status: os.stat_result, path: Path) -> bool:
    """Whether the file that has this status is (still) the one at `path`."""
    with suppress(OSError):
        return os.path.samestat(status, path.stat())
    return False
