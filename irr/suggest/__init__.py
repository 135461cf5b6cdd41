"""Open vocabulary: what LMs guess and no label answers → suggestions of new labels.

- `suggester`: guesses → suggestions;
- `command`: ``irr suggest PREDICTIONS``.
"""

from __future__ import annotations

from irr.suggest.command import main, read_guesses
from irr.suggest.suggester import (
    BELOW,
    TOGETHER,
    Guessed,
    Suggester,
    Suggestion,
    nearest_in,
)

__all__ = [
    "BELOW",
    "TOGETHER",
    "Guessed",
    "Suggester",
    "Suggestion",
    "main",
    "nearest_in",
    "read_guesses",
]
