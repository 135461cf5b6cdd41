"""Exports of annotation tools, Prodigy and Label Studio → `Document`s.

Sources: https://prodi.gy/docs/api-interfaces; https://labelstud.io/guide/task_format.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from irr.corpora.rows import distinct, objects, text_of
from irr.files import TextFile
from irr.types import Document

__all__ = ["read_label_studio", "read_prodigy"]

logger = logging.getLogger(__name__)

_LIKELY = 0.5


def read_prodigy(file: TextFile, text_key: str) -> Iterator[Document]:
    """One document a text: a task of yes or no for each label is several rows of one text."""
    texts: dict[str, dict[str, None] | None] = {}
    ignored = 0
    for line, value in objects(file):
        text = text_of(file, value, text_key, line)
        answer = value.get("answer", "accept")
        accepted = texts.setdefault(text, None)
        if answer == "ignore" or (answer == "reject" and "label" not in value):
            ignored += 1
            continue
        chosen = _prodigy_labels(file, value, line) if answer == "accept" else ()
        texts[text] = (accepted or {}) | dict.fromkeys(chosen)
    if ignored:
        logger.warning("%s: %s rows were ignored or rejected in Prodigy", file.name, ignored)
    for number, (text, labels) in enumerate(texts.items(), start=1):
        if labels is not None:
            yield Document(str(number), text, tuple(labels))


def _prodigy_labels(file: TextFile, value: dict[str, Any], line: int) -> tuple[str, ...]:
    if "accept" in value:
        return file.identifiers(value["accept"], '"accept"', line)
    if isinstance(value.get("cats"), dict):
        likely = []
        for label, score in value["cats"].items():
            if not isinstance(score, int | float | None):
                told = f'in "cats", the score of {label!r} must be a number, not {file.kind(score)}'
                raise file.failure(told, line)
            if score is not None and score >= _LIKELY:
                likely.append(label)
        return file.identifiers(likely, '"cats"', line)
    if "label" in value:
        return file.identifiers([value["label"]], '"label"', line)
    raise file.failure('has neither "accept" nor "cats" nor "label": which labels apply?', line)


def read_label_studio(file: TextFile, text_key: str) -> Iterator[Document]:
    """One document a task; `gold` is None where no annotation was submitted."""
    text = "".join(piece for _, piece in file.pieces())
    try:
        tasks = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"malformed JSON: {error.msg} at column {error.colno}; export it again"
        raise file.failure(message, error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise file.failure(f"JSON that cannot be read: {error}") from error
    if not isinstance(tasks, list):
        raise file.failure("must be a list of tasks: export it as JSON, not as JSON-MIN or CSV")
    for number, task in enumerate(tasks, start=1):
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or not isinstance(data.get(text_key), str):
            raise file.failure(
                f'task {number} has no text under "data", "{text_key}": name its key'
            )
        given = task.get("id")
        yield Document(
            str(number) if given is None else file.identifier(given, f'task {number}: "id"', None),
            file.string(data[text_key], f'task {number}: "{text_key}"', None),
            _choices(file, task, f"task {number}"),
        )


def _choices(file: TextFile, task: dict[str, Any], where: str) -> tuple[str, ...] | None:
    """The choices of the annotation that is the truth, else of the first that was submitted."""
    annotations = _objects(file, task.get("annotations"), f'{where}: "annotations"')
    done = [each for each in annotations if not each.get("was_cancelled")]
    if not done:
        return None
    annotation = next((each for each in done if each.get("ground_truth")), done[0])
    regions = _objects(file, annotation.get("result"), f'{where}: "result"')
    given = [region.get("value") for region in regions]
    values = _objects(file, [{} if each is None else each for each in given], f'{where}: "value"')
    chosen = [
        choice
        for value in values
        for choice in file.identifiers(value.get("choices"), f'{where}: "choices"', None)
    ]
    # A taxonomy names the way from the top; the label is its last step.
    what = f'{where}: "taxonomy"'
    for value in values:
        ways = _list(file, value.get("taxonomy"), what)
        chosen += [steps[-1] for way in ways if (steps := file.identifiers(way, what, None))]
    return distinct(chosen)


def _objects(file: TextFile, value: object, what: str) -> list[dict[str, Any]]:
    """A list of JSON objects; null is none."""
    items = _list(file, value, what)
    for item in items:
        if not isinstance(item, dict):
            raise file.failure(f"{what} must hold objects, not {file.kind(item)}: export it again")
    return items


def _list(file: TextFile, value: object, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise file.failure(f"{what} must be a list, not {file.kind(value)}: export it again")
    return value
