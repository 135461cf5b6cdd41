"""Files of requests, as OpenAI's Batch API and vLLM's run-batch take them.

In: the key, the model and the body of each request. Out: JSON lines ``{"custom_id": KEY, "method":
"POST", "url": "/v1/chat/completions", "body": {…}}``, split where a file would grow larger than
OpenAI allows; and by model, since it allows one model in a file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from irr.errors import OutputError
from irr.writer import LineWriter, output_failure, row_to_json

__all__ = ["MOST_BYTES", "MOST_REQUESTS", "RequestFiles"]

# Of one input file: https://platform.openai.com/docs/api-reference/batch/create
MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
_URL = "/v1/chat/completions"


class RequestFiles:
    """The files of one round of requests; a context manager.

    They are called ``NAME-00001.jsonl`` and so on; a single one takes the name `path` itself. Each
    is written as ``….partial`` and takes its name when it is full or the round is through.

    Args:
        path: ``NAME.jsonl``.
        older: files that an earlier round wrote. Those that this round would have written anew,
            had it more requests, are removed at its end: their requests are answered, or are
            among the new ones.
        settle: called before a file takes its name, with that; what it raises keeps the file
            from it.

    Attributes:
        paths: the files that have their names.
        requests: how many were written in all.

    Raises:
        OutputError: a file cannot be written, or would replace one that is not among the `older`.
    """

    def __init__(
        self,
        path: Path,
        *,
        older: Iterable[Path] = (),
        settle: Callable[[Path], object] = lambda _: None,
        most_requests: int = MOST_REQUESTS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.paths: list[Path] = []
        self.requests = 0
        self._path = path
        self._older = list(older)
        self._settle = settle
        self._most = most_requests, most_bytes
        self._begun = 0
        self._open: dict[str, _Part] = {}

    def __enter__(self) -> Self:
        self._check_free(self._path)
        return self

    def write(self, key: str, model: str, body: Mapping[str, Any]) -> None:
        """Write one request."""
        row = {"custom_id": key, "method": "POST", "url": _URL, "body": body}
        line = row_to_json(row)
        part = self._part(model, len(line.encode()) + 1)
        part.writer.write_line(line)
        self.requests += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for model in list(self._open):
            if kind is None:
                self._finish(model)
            else:
                self._open.pop(model).writer.__exit__(kind, exc, traceback)
        if kind is None:
            self._name_single()
            self._remove_older()

    def _part(self, model: str, size: int) -> _Part:
        """The file that a line of `size` bytes goes to."""
        part = self._open.get(model)
        if part is not None and not part.take(size, *self._most):
            self._finish(model)
            part = None
        if part is None:
            self._begun += 1
            self._check_free(self._numbered(self._begun))
            part = self._open[model] = _Part(self._numbered(self._begun), size)
        return part

    def _finish(self, model: str) -> None:
        self._settle(self._open[model].path)
        part = self._open.pop(model)
        part.writer.__exit__(None, None, None)
        self.paths.append(part.path)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.stem}-{number:05}{self._path.suffix}")

    def _name_single(self) -> None:
        if self._begun == 1:
            self.paths = [self._moved(self.paths[0])]

    def _check_free(self, path: Path) -> None:
        """Refuse to replace what is not a file of requests, or is of another run."""
        if os.path.lexists(path) and path.absolute() not in self._older:
            raise OutputError(
                f"{path}: is there already, and not from an earlier round of this run: move it "
                "away, or name other --requests"
            )

    def _moved(self, path: Path) -> Path:
        self._settle(self._path)
        try:
            return path.replace(self._path)
        except OSError as error:
            raise output_failure(str(self._path), error) from error

    def _remove_older(self) -> None:
        family = {self._path.absolute()}
        family |= {self._numbered(number).absolute() for number in range(1, len(self._older) + 1)}
        for path in self._older:
            if path in family and path not in {written.absolute() for written in self.paths}:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    message = f"{path}: an earlier round's requests cannot be removed: {error}"
                    raise OutputError(message) from error


class _Part:
    """An open file and what is in it; its first line, of `size` bytes, is reckoned in."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.writer = LineWriter(path)
        self.writer.__enter__()
        self._requests, self._bytes = 1, size

    def take(self, size: int, most_requests: int, most_bytes: int) -> bool:
        """Reckon a further line in, where there is room for it."""
        if self._requests >= most_requests or self._bytes + size > most_bytes:
            return False
        self._requests += 1
        self._bytes += size
        return True
