"""Shows how far the start of a server has come. In: phases. Out: lines for a person."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

__all__ = ["ProgressLine"]


class ProgressLine:
    """One line that is written over at a terminal; elsewhere one line for each new phase.

    It is there at once. With no `stream` nothing is shown.
    """

    def __init__(self, model: str, stream: TextIO | None) -> None:
        self._model = model
        self._stream = stream
        self._started = time.monotonic()
        self._said: str | None = None
        self._width = 0
        self.show("")

    def show(self, phase: str) -> None:
        """Show a phase, such as ``loading weights (3 of 4 shards)``, and the seconds so far."""
        if self._stream is None:
            return
        parts = [self._model, f"{time.monotonic() - self._started:.0f} s", phase]
        line = "starting vLLM: " + ", ".join(part for part in parts if part)
        kind = phase.partition(" (")[0]
        if self._stream.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]
            self._stream.write(f"\r{line:<{self._width}}")
            self._width = len(line)
        elif kind != self._said:
            self._stream.write(line + "\n")
        self._said = kind
        self._stream.flush()

    def end(self) -> None:
        """Take the line away from a terminal."""
        if self._stream is not None and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
