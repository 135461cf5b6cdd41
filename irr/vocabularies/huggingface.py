"""The classes of a data set of Hugging Face's → `Concept`s, without their package.

In: the folder of a data set saved to disk, or its ``dataset_info.json``. Out: a concept a class;
its id is its name. The names are those of the feature of type ClassLabel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from irr.errors import LabelSetError
from irr.vocabularies.concept import Concept
from irr.vocabularies.problems import Problems

__all__ = ["class_names", "read_huggingface"]

_INFO = "dataset_info.json"
_USUAL = ("label", "labels")


def read_huggingface(path: Path, problems: Problems) -> Iterator[Concept]:
    """Read the classes in the order of their numbers.

    Raises:
        LabelSetError: no feature of type ClassLabel, or several and none named label or labels.
    """
    for place, name in enumerate(class_names(path)[1]):
        if name.strip():
            yield Concept(name.strip(), (("", name.strip()),))
        else:
            problems.error(f"class {place} has an empty name: fill it in")


def class_names(path: Path) -> tuple[str, list[str]]:
    """The column whose values are classes, and their names in order."""
    info = path
    try:
        info = _info_file(path)
        features = json.loads(info.read_text(encoding="utf-8")).get("features") or {}
        classes = {column: names for column in features if (names := _names(features[column]))}
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise LabelSetError(f"is not a data set's description: {error}", path=info) from error
    except OSError as error:
        raise LabelSetError(f"cannot be read: {error.strerror or error}", path=info) from error
    usual = [column for column in _USUAL if column in classes]
    if len(classes) != 1 and not usual:
        found = ", ".join(classes) or "none"
        raise LabelSetError(
            f"must have one feature of type ClassLabel, or one named label; found: {found}",
            path=info,
        )
    column = usual[0] if usual else next(iter(classes))
    return column, classes[column]


def _info_file(path: Path) -> Path:
    if path.is_file():
        return path
    splits = path / "dataset_dict.json"
    if splits.is_file():
        # Every split has the same features.
        names: list[str] = json.loads(splits.read_text(encoding="utf-8"))["splits"]
        return path / names[0] / _INFO
    return path / _INFO


def _names(feature: Any) -> list[str] | None:
    if isinstance(feature, list):
        return _names(feature[0]) if feature else None
    if feature.get("_type") == "ClassLabel":
        return list(map(str, feature["names"]))
    inner = feature.get("feature")
    return _names(inner) if inner else None
