"""Predictions of any origin → what is scored: positions in the label set, best first.

In: JSON lines or Parquet as `irr predict` writes them, or a peer's: ``{"id": …, "labels": [names
or ids, or objects with "id" or "label" and perhaps "score"]}``; or predictions straight from a
program.
Where a row has no trace, its whole list of labels counts as the candidates.
Out: `Predicted`, one for each gold document, in the order of the gold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

from irr.errors import DocumentError
from irr.files import TextFile
from irr.journal.rows import prediction_values
from irr.labels import LabelSet
from irr.types import Document, Prediction, Usage

__all__ = ["UNKNOWN", "Predicted", "from_predictions", "read_predictions"]

# The position of a predicted label that the label set does not have: always wrong.
UNKNOWN = -1
# Scores in files of predictions have so many, see `irr.writer`.
DECIMALS = 4
_LARGEST = 1e15


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was predicted for one document.

    `ranking` holds positions in the label set, best first, and negative numbers, each different,
    for labels that it does not have. `scores` go with it, or are None. `candidates` are
    Retrieve's, best first, and `picks` Rank's; None where not known. `unknown` are the labels
    that the label set does not have.
    """

    ranking: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    guesses: tuple[str, ...] = ()
    candidates: tuple[int, ...] | None = None
    picks: tuple[int, ...] | None = None
    failure: str | None = None
    usage: Usage = field(default_factory=Usage)
    unknown: tuple[str, ...] = ()


def from_predictions(predictions: Iterable[Prediction], labels: LabelSet) -> Iterator[Predicted]:
    """What a program predicted. With `trace` in the predictions, candidates are known."""
    for prediction in predictions:
        trace = prediction.trace or {}
        rows = trace.get("candidates")
        # A row that failed, or whose text is blank, was shown nothing.
        candidates: tuple[int, ...] | None = None if prediction.labels else ()
        if isinstance(rows, list):
            candidates = tuple(labels.position_of(row["id"]) for row in rows)
        numbers = trace.get("picks")
        picks = None
        if isinstance(numbers, list) and candidates is not None:
            picks = tuple(candidates[number - 1] for number in numbers)
        yield Predicted(
            tuple(labels.position_of(label.id) for label in prediction.labels),
            # As they are written: scoring a file of them gives the same numbers.
            tuple(round(label.score, DECIMALS) for label in prediction.labels),
            prediction.guesses,
            candidates,
            picks,
            _failure(prediction),
            prediction.usage,
        )


def _failure(prediction: Prediction) -> str | None:
    if prediction.status == "ok":
        return None
    return prediction.error[1] if prediction.error else "no message"


def read_predictions(
    path: str | Path, gold: Sequence[Document], labels: LabelSet
) -> list[Predicted]:
    """Read a file of predictions for exactly the gold documents, in any order.

    Args:
        path: JSON lines, also .gz, or Parquet.

    Raises:
        DocumentError: a row that cannot be read, is of no gold document or comes twice, with its
            line; a gold document without a row.
    """
    file = TextFile(path, DocumentError)
    places = {document.id: place for place, document in enumerate(gold)}
    found: list[Predicted | None] = [None] * len(gold)
    lines: dict[int, int] = {}
    for line, value in prediction_values(file):
        if not isinstance(value, dict):
            raise file.failure('a prediction is a JSON object: {"id": …, "labels": […]}', line)
        id_ = file.identifier(value.get("id"), "id", line)
        place = places.get(id_)
        if place is None:
            raise file.failure(f"no gold document has the id {id_!r}: are these its gold?", line)
        if place in lines:
            raise file.failure(f"the id {id_!r} came before, in line {lines[place]}", line)
        lines[place] = line
        found[place] = _read_row(file, value, labels, line)
    missing = [gold[place].id for place, row in enumerate(found) if row is None]
    if missing:
        some = ", ".join(map(repr, missing[:3]))
        raise DocumentError(
            f"{len(missing):,} gold documents have no row, such as {some}", path=path
        )
    return [row for row in found if row is not None]


def _read_row(
    file: TextFile, value: Mapping[str, object], labels: LabelSet, line: int
) -> Predicted:
    failure = None
    if value.get("status") == "error":
        error = value.get("error")
        failure = str(error.get("message", "")) if isinstance(error, dict) else "no message"
    rows = value.get("labels")
    if not isinstance(rows, list):
        raise file.failure('"labels" must be a list of names, ids or objects', line)
    unknown: list[str] = []
    named = [_label_of(file, row, line) for row in rows]
    ranking = [_position(name, labels, unknown) for name, _ in named]
    scores = [score for _, score in named if score is not None]
    guesses = value.get("guesses")
    trace = value.get("trace")
    # Without a trace, all that was predicted is what could have been put first.
    candidates, picks = _traced(file, trace, labels, line) if trace else (tuple(ranking), None)
    return Predicted(
        tuple(ranking),
        tuple(scores) if len(scores) == len(ranking) else None,
        tuple(guess for guess in guesses if isinstance(guess, str))
        if isinstance(guesses, list)
        else (),
        candidates,
        picks,
        failure,
        _usage(value.get("usage")),
        tuple(unknown),
    )


def _label_of(file: TextFile, row: object, line: int) -> tuple[str, float | None]:
    if isinstance(row, dict):
        names = (row.get(key) for key in ("id", "label", "name"))
        name = next((name for name in names if name is not None), None)
        return _name_of(file, name, line), _score_of(file, row.get("score"), line)
    return _name_of(file, row, line), None


def _name_of(file: TextFile, name: object, line: int) -> str:
    if isinstance(name, str) or (isinstance(name, int) and not isinstance(name, bool)):
        return str(name)
    raise file.failure('a label is a name or id, or an object with "id" or "label"', line)


def _score_of(file: TextFile, score: object, line: int) -> float | None:
    if score is None:
        return None
    if isinstance(score, int | float) and not isinstance(score, bool) and abs(score) < _LARGEST:
        return float(score)
    raise file.failure('"score" must be a finite number', line)


def _position(name: str, labels: LabelSet, unknown: list[str]) -> int:
    found = labels.find_all(name.strip())
    if found:
        return found[0]
    if name not in unknown:
        unknown.append(name)
    return UNKNOWN - unknown.index(name)


def _traced(
    file: TextFile, trace: object, labels: LabelSet, line: int
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    rows = trace.get("candidates") if isinstance(trace, dict) else None
    if not isinstance(trace, dict) or not isinstance(rows, list):
        raise file.failure('"trace" must be an object with a list of "candidates"', line)
    unknown: list[str] = []
    names = [_label_of(file, row, line)[0] for row in rows]
    candidates = tuple(_position(name, labels, unknown) for name in names)
    numbers = trace.get("picks")
    if numbers is None:
        return candidates, None
    allowed = range(1, len(candidates) + 1)
    if not isinstance(numbers, list) or not all(
        isinstance(number, int) and number in allowed for number in numbers
    ):
        raise file.failure('"picks" must be numbers of the candidates, from 1', line)
    return candidates, tuple(candidates[number - 1] for number in numbers)


def _usage(value: object) -> Usage:
    if not isinstance(value, dict):
        return Usage()
    counts = (value.get(name) for name in ("calls", "input_tokens", "output_tokens"))
    return Usage(*(count if _is_count(count) else 0 for count in counts))


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST
