"""`Problems`: what was wrong in a file while it was read.

In: errors and warnings from the readers. Out: the first error raised (strict), or all of them kept
for somebody to look at; warnings counted by kind, with the first few places.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from copy import copy
from pathlib import Path

from irr.errors import InputError, LabelSetError

__all__ = ["Problems", "visible"]

_EXAMPLES = 5
# A terminal obeys the first kind; the second ends lines.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Problems:
    """Where the readers of one file report.

    Args:
        path: the file, named in every message.
        strict: raise the first error instead of keeping it.
        muted: keep nothing and raise nothing, for a second pass over a file that was read before.
    """

    def __init__(self, path: str | Path, *, strict: bool, muted: bool = False) -> None:
        self.path = str(path)
        self.errors: list[InputError] = []
        self._strict = strict
        self._muted = muted
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def error(self, message: str, line: int | None = None) -> None:
        """Report something that cannot be read. Readers go on after it where they can.

        Raises:
            LabelSetError: when strict.
        """
        self.add(LabelSetError(message, path=self.path, line=line))

    def add(self, error: InputError) -> None:
        """Report an error that was made already."""
        if self._muted:
            return
        if self._strict:
            raise error
        self.errors.append(error)

    def stop(self, error: InputError) -> None:
        """Report an error after which nothing in the file was read."""
        if self._strict or error.line is None or error.path is None:
            self.add(error)
            return
        told = str(error).removeprefix(f"{error.path}:{error.line}: ").rstrip(".")
        message = f"{told}; nothing after it was read"
        self.add(type(error)(message, path=error.path, line=error.line))

    def count(self, kind: str, example: str = "", line: int | None = None) -> None:
        """Count something left out or made up for, such as "deprecated concepts left out"."""
        if self._muted:
            return
        self._counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        shown = f"{example} (line {line})" if line else example
        if example and len(examples) < _EXAMPLES and shown not in examples:
            examples.append(shown)

    def warnings(self) -> Iterator[str]:
        """Say each kind of warning with its count: "path: 3 deprecated … left out: a, b, c"."""
        for kind, count in self._counts.items():
            examples = self._examples[kind]
            more = ", …" if count > len(examples) else ""
            named = f": {', '.join(examples)}{more}" if examples else ""
            yield visible(f"{self.path}: {count:,} {kind}{named}")

    def about(self, path: str | Path) -> Problems:
        """Make one for another file, whose errors and warnings are kept together with these."""
        other = copy(self)
        other.path = str(path)
        return other

    def muted(self) -> Problems:
        """Make a silent one for the same file."""
        return Problems(self.path, strict=False, muted=True)


def visible(text: str) -> str:
    r"""Write control characters as Python writes them in strings, so that a terminal is safe.

    >>> print(visible("\x1b[2Jcats\n"))
    \x1b[2Jcats\n
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
