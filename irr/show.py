"""What a person sees: tables of results on a terminal, progress on standard error.

In: predictions and rows of tables, whose texts may be anybody's. Out: text without characters that
a terminal would obey.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from irr.types import Document, Prediction, ScoredLabel

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from irr.journal import Journal
    from irr.ledger import Counts

__all__ = ["EmbeddingProgress", "ResultTable", "RunProgress", "print_table", "without_controls"]

_REFRESH_SECONDS = 0.1
_LOG_SECONDS = 60.0
_TITLE_CHARS = 300
# The control characters of ASCII and Latin 1, and what turns the direction of all that follows.
_CONTROLS = dict.fromkeys(
    [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"
)
_CONTROLS.update(dict.fromkeys(map(ord, "\t\n\r"), " "))


def without_controls(text: str) -> str:
    """Replace what a terminal would obey, each character by one: line breaks and tabs by spaces.

    >>> without_controls("red \\x1b[31m text")
    'red \ufffd[31m text'
    """
    return text.translate(_CONTROLS)


class ResultTable:
    """Predictions as tables. Takes the place of a `PredictionWriter` at a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._titles: deque[str] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def titled(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Pass documents on, and remember their texts as titles of their predictions."""
        for document in documents:
            text = " ".join(document.text.split())
            self._titles.append(text if len(text) <= _TITLE_CHARS else text[:_TITLE_CHARS] + "…")
            yield document

    def write(self, prediction: Prediction) -> None:
        """Write one prediction under its id and, if it was seen, its text."""
        from rich.padding import Padding

        title = _text(prediction.id, "bold")
        if self._titles:
            title.append(without_controls(f"  {self._titles.popleft()}"), style="not bold")
        self._console.print(title)
        if prediction.error is not None:
            self._console.print(_text(f"  {prediction.error[1]}", "red"))
        if prediction.guesses:
            self._console.print(_text("  guesses: " + "; ".join(prediction.guesses), "dim"))
        if prediction.labels:
            self._console.print(Padding(_label_table(prediction.labels), (0, 0, 0, 2)))
        for note in prediction.notes:
            self._console.print(_text(f"  note: {note}", "yellow"))
        if prediction.trace is not None:
            self._write_trace(prediction.trace)
        self._console.print()

    def _write_trace(self, trace: dict[str, object]) -> None:
        candidates = trace["candidates"]
        assert isinstance(candidates, list)
        self._console.print(_text(f"  {len(candidates)} candidates, as retrieved:", "dim"))
        for number, row in enumerate(candidates, start=1):
            line = f"  {number:4} {row['score']:6.3f}  {row['label']}  <- {row['evidence']}"
            self._console.print(_text(line, "dim"), no_wrap=True, overflow="ellipsis")
        if "picks" in trace:
            self._console.print(_text(f"  Rank picked: {trace['picks']}", "dim"))


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(without_controls(text), style=style)


def _label_table(labels: Sequence[ScoredLabel]) -> Table:
    from rich import box
    from rich.table import Table

    with_ids = any(label.id != label.label for label in labels)
    with_picks = any(label.picked is not None for label in labels)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("score", justify="right", no_wrap=True)
    if with_picks:
        table.add_column("pick", justify="center", no_wrap=True)
    if with_ids:
        table.add_column("id", no_wrap=True, style="cyan")
    table.add_column("label", overflow="fold")
    table.add_column("because of", overflow="fold", style="dim")
    for label in labels:
        cells = [f"{label.score:.2f}"]
        cells += [("✓" if label.picked else "")] if with_picks else []
        cells += [label.id] if with_ids else []
        table.add_row(*(_text(cell) for cell in [*cells, label.label, label.evidence]))
    return table


def print_table(stream: TextIO, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table with the first column left and the others right aligned, as plain text.

    Widths are those of a terminal: a Chinese character takes two cells, a combining mark none.
    """
    from rich.cells import cell_len

    table = [[without_controls(cell) for cell in row] for row in (header, *rows)]
    widths = [[cell_len(cell) for cell in row] for row in table]
    widest = [max(column) for column in zip(*widths, strict=True)]
    for row, taken in zip(table, widths, strict=True):
        first, *pads = (" " * (most - own) for most, own in zip(widest, taken, strict=True))
        cells = [row[0] + first, *(pad + cell for pad, cell in zip(pads, row[1:], strict=True))]
        stream.write("  ".join(cells).rstrip() + "\n")


class EmbeddingProgress:
    """A progress bar for the first embedding of a label set. Call it with (done, in all)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._shown = 0.0

    def __call__(self, done: int, total: int) -> None:
        if not self._stream.isatty():
            return
        now = time.monotonic()
        if done < total and now - self._shown < _REFRESH_SECONDS:
            return
        self._shown = now
        seconds = now - self._started
        left = f"{seconds / done * (total - done):.0f} s left" if done else ""
        filled = round(24 * done / max(total, 1))
        bar = "#" * filled + "." * (24 - filled)
        line = f"embedding labels, once: [{bar}] {done:,} of {total:,}  {left}"
        self._stream.write(f"\r{line:<78}")
        if done >= total:
            self._stream.write("\r" + " " * 78 + "\r")
        self._stream.flush()


class Spending(Protocol):
    """What a run costs: a `Ledger`, or the sum of several."""

    def totals(self) -> Mapping[str, Counts]:
        """What each role spent."""


class RunProgress:
    """Counts the rows of a run; shows how it goes on standard error, and one line at its end.

    A context manager around the run.

    Args:
        shown: False only counts.
        journal: the file's rows and failures, those of earlier starts among them, also those
            that it is still to copy.
        ledger: tells what the run has cost in all.

    Where standard error is no terminal, a line is written once a minute.
    """

    def __init__(
        self,
        *,
        shown: bool = True,
        journal: Journal | None = None,
        ledger: Spending | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self.documents = 0
        self.failed = 0
        self._journal = journal
        self._ledger = ledger
        self._calls = 0
        self._stream = stream or sys.stderr
        self._shown = shown
        self._started = time.monotonic()
        self._last = self._started if not self._stream.isatty() else 0.0

    def __enter__(self) -> Self:
        return self

    def add(self, prediction: Prediction) -> None:
        """Count one row that was written."""
        self.documents += 1
        self.failed += prediction.status != "ok"
        self._calls += prediction.usage.calls
        now = time.monotonic()
        terminal = self._stream.isatty()
        if self._shown and now - self._last >= (_REFRESH_SECONDS if terminal else _LOG_SECONDS):
            self._last = now
            self._stream.write(f"\r{self._line():<78}" if terminal else f"{self._line()}\n")
            self._stream.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            start = "\r" if self._stream.isatty() else ""
            self._stream.write(f"{start}{self._line():<78}".rstrip() + "\n")

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        rows, failed = self.documents, self.failed
        if self._journal is not None:
            rows, failed = self._journal.covered
        now = f" ({self.documents:,} of them now)" if rows != self.documents else ""
        parts = [f"{rows:,} documents{now}", f"{failed:,} failed", *self._spent()]
        return f"irr: {', '.join(parts)}, {seconds:,.1f} s ({self.documents / seconds:,.1f}/s)"

    def _spent(self) -> list[str]:
        if self._ledger is None:
            return [f"{self._calls:,} LM calls"] if self._calls else []
        totals = self._ledger.totals().values()
        calls = sum(counts.calls for counts in totals)
        told = [f"{calls:,} LM calls"] if calls else []
        tokens = [sum(c.input_tokens for c in totals), sum(c.output_tokens for c in totals)]
        if any(tokens):
            told.append(f"{tokens[0]:,} tokens in, {tokens[1]:,} out")
        costs = [counts.cost for counts in totals if counts.calls]
        if any(costs) and None not in costs:
            told.append(f"${sum(cost or 0.0 for cost in costs):,.4f}")
        return told
