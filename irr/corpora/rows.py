"""What the readers of corpora share: rows that are objects, texts, labels without repetitions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from irr.files import TextFile

__all__ = ["distinct", "objects", "text_of"]


def objects(file: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, object) for each line of JSON that is not blank."""
    for line, value in file.json_values():
        if not isinstance(value, dict):
            raise file.failure(f'expected {{"text": …}}, found {file.kind(value)}', line)
        yield line, value


def text_of(file: TextFile, value: dict[str, Any], key: str, line: int) -> str:
    """The text under `key`, or the error that it has none."""
    if value.get(key) is None:
        found = ", ".join(map(repr, value)) or "nothing"
        raise file.failure(f'no "{key}": add it; found: {found}', line)
    return file.string(value[key], f'"{key}"', line)


def distinct(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in their order, without blank and repeated ones."""
    return tuple(dict.fromkeys(label for label in labels if label))
