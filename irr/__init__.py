"""Infer–Retrieve–Rank: tag texts with labels from vocabularies of thousands to millions.

The public names, each loaded when it is first used: importing `irr` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from irr.build import LMChoice, build_program
    from irr.documents import read_documents, read_gold
    from irr.errors import IrrError
    from irr.labels import LabelSet
    from irr.program import InferRetrieveRank
    from irr.retrieve import RetrieveSettings
    from irr.selection import Selection
    from irr.types import Document, Label, Prediction, ScoredLabel, Usage

__version__ = "0.1.0"

__all__ = [
    "Document",
    "InferRetrieveRank",
    "IrrError",
    "LMChoice",
    "Label",
    "LabelSet",
    "Prediction",
    "RetrieveSettings",
    "ScoredLabel",
    "Selection",
    "Usage",
    "build_program",
    "read_documents",
    "read_gold",
]

_HOMES = {
    "InferRetrieveRank": "program",
    "IrrError": "errors",
    "LMChoice": "build",
    "LabelSet": "labels",
    "RetrieveSettings": "retrieve",
    "Selection": "selection",
    "build_program": "build",
    "read_documents": "documents",
    "read_gold": "documents",
} | dict.fromkeys(["Document", "Label", "Prediction", "ScoredLabel", "Usage"], "types")


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'irr' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"irr.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
