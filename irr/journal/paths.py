"""The files of a journal, and the lock on them.

In: FILE. Out: whether it can have a journal; the names of what is beside it; one holder of the
lock at a time.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from irr.errors import OutputError
from irr.journal.state import RunState
from irr.writer import CAN_LOCK, is_at, lock

__all__ = ["Lock", "Paths", "is_journaled"]

_TRIES = 10
# Names of what is open already; where that is a file, another program writes it too.
_OPEN = re.compile(r"/dev/(stdin|stdout|stderr|fd/.+)|/proc/.+/fd/.+")


def is_journaled(target: str | Path) -> bool:
    """Whether a `Journal` can write `target`: not "-", a pipe, a device or ``/dev/stdout``."""
    path = Path(target)
    if str(target) == "-" or _OPEN.fullmatch(str(path.absolute())):
        return False
    return path.is_file() or path.is_dir() or not path.exists()


class Paths:
    """FILE, `name` as the user gave it, and the files beside it."""

    def __init__(self, target: str | Path) -> None:
        self.name = str(target)
        # Through a link, so that its target is replaced and not the link.
        self.final = Path(os.path.realpath(target))
        self.partial = self._beside(".partial")
        self.retry = self._beside(".retry")
        self.state = self._beside(".run.json")
        self.lock = self._beside(".lock")

    def writing(self, state: RunState) -> Path:
        """The file that rows are appended to: FILE.retry while FILE.partial is carried into it."""
        carried = state.carried
        return self.retry if carried is not None and carried.source == "partial" else self.partial

    def source(self, state: RunState) -> Path | None:
        """The file whose rows are carried into `writing`."""
        if state.carried is None:
            return None
        return self.partial if state.carried.source == "partial" else self.final

    def discard_carried(self, state: RunState) -> None:
        """Remove FILE.partial where its rows have been carried into FILE."""
        if self.source(state) == self.partial:
            self.partial.unlink(missing_ok=True)

    def _beside(self, ending: str) -> Path:
        return self.final.with_name(self.final.name + ending)


class Lock:
    """FILE.lock, locked until it is released; then it is removed.

    Raises:
        OutputError: another run holds it.
        OSError: it cannot be made.
    """

    def __init__(self, paths: Paths) -> None:
        self._path = paths.lock
        self._file: BinaryIO | None = None
        if CAN_LOCK and not self._acquire():
            raise OutputError(
                f"{paths.name}: another run is writing this file: wait for it or name another "
                "--output"
            )

    def release(self) -> None:
        """Let another run have it; to be called once."""
        if self._file is not None:
            with suppress(OSError):
                self._path.unlink()  # Before it is free, so that nobody else's is removed.
            self._file.close()

    def _acquire(self) -> bool:
        for _ in range(_TRIES):  # Again only where another run has just removed it.
            file = self._path.open("ab")
            if not lock(file):
                file.close()
                return False
            if is_at(os.fstat(file.fileno()), self._path):
                self._file = file
                return True
            file.close()
        return False
